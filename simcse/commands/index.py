"""`simcse index build|search|add|delete|compact|export|info`."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

from simcse.commands.shared import Format, as_text, load_encoder, open_index, print_hits, print_json, sources
from simcse.display.facts import fact_lines, plan_in_words
from simcse.errors import ConfigError

__all__ = ["add", "build", "compact", "delete", "export", "info", "search"]

QUERIES_AT_ONCE = 1024


def build(
    files: list[str],
    *,
    input: list[str] | None = None,
    model: str,
    output: str,
    text_column: str | None = None,
    id_column: str | None = None,
    metadata_columns: list[str] | None = None,
    kind: str = "auto",
    target_recall: float = 0.95,
    memory_mib: int | None = None,
    sample_queries: str | None = None,
    vectors: list[str] | None = None,
    truncate_dim: int | None = None,
    overwrite: bool = False,
    device: str = "auto",
    dtype: str = "auto",
) -> None:
    """Build an index from files of texts.

    A txt file, or - for standard input, has a text a line. Of csv, tsv, jsonl and parquet files the column text (or the
    only one) is the text, id or _id the id, and the others become metadata to filter by. Memory stays constant, and the
    same command after a kill goes on where it was.

    Args:
        files: files of texts; standard input where none is named
        input: the same as an option
        model: folder of a checkpoint, hub id, or package:NAME
        output: folder of the new index; or milvus:FILE.db, milvus:http://HOST:19530#COLLECTION
        text_column: the column that holds the text
        id_column: the column that holds the id
        metadata_columns: columns to keep as metadata; default all others
        kind: auto picks by count and memory; flat compares every vector; hnsw, ivf, ivf-pq and factory strings of faiss
            such as IVF1024,SQ8 are approximate, measured, and replaced by flat where they miss the recall
        target_recall: share of the true 10 nearest that an approximate index must find
        memory_mib: what an approximate index may need beside the vectors; default half of the machine's memory
        sample_queries: a file of queries like those that will come, one a line, or the column text of csv, tsv, jsonl,
            parquet; recall is measured and tuned on up to 1,000 of them, by default on held-out texts of the index,
            which are easier to find than answers to questions
        vectors: files of the texts' vectors, where --model has encoded them already, in place of encoding them: npy,
            npz, parquet, or a flat index of faiss; a row for each row of FILES, in their order
        truncate_dim: the first so many dimensions are kept, for a model that was trained for it (Matryoshka); the index
            remembers it
        overwrite: replace an index that is there already, when the new one is done
        device: auto, cpu, cuda, cuda:1, ...
        dtype: precision: auto (bf16 where the device computes in it, else fp32), fp32, bf16, fp16, int8 (AVX2, AMX)
    """
    from simcse.display.progress import progress
    from simcse.search.tools.build import build_from_files, check_files, check_output, count_rows

    files = sources([*files, *(input or [])], "FILES")
    columns = {"text_column": text_column, "id_column": id_column, "metadata_columns": metadata_columns or None}
    check_output(output, overwrite)
    check_files(files, **columns)
    asked = None if sample_queries is None else _asked(sample_queries)
    rows, encoder = count_rows(files), load_encoder(model, device, dtype, truncate_dim=truncate_dim)
    with progress(rows, sys.stderr.isatty(), "indexing") as advance:
        index = build_from_files(
            files, output, encoder, kind=kind, target_recall=target_recall, overwrite=overwrite, advance=advance,
            memory=None if memory_mib is None else memory_mib * 2**20, sample_queries=asked, vectors=vectors or (),
            **columns,
        )  # fmt: skip
    print(
        f"{output}: {len(index)} texts, dimension {index.dimension}; {plan_in_words(index.info['plan'])}",
        file=sys.stderr,
    )


def _asked(file: str) -> list[str]:
    from simcse.data.readers import read_texts

    if texts := [text for text in read_texts(file) if text.strip()]:
        return texts
    raise ConfigError(f"--sample_queries: found no query in {file}, expected some lines of text")


def search(
    index: str,
    query: list[str],
    *,
    queries: str | None = None,
    top_k: int = 5,
    min_score: float | None = None,
    where: list[str] | None = None,
    hybrid: bool = False,
    format: Format = "auto",
    model: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> None:
    """Find the texts most similar to queries.

    On a terminal, each hit is a line: cosine, id, text. Where output is piped, or with --format json, each query is a
    line of JSON: {"query": ..., "hits": [{"text": ..., "score": ..., "id": ..., "metadata": {...}}, ...]}.

    Args:
        index: folder of the index
        query: texts to search for
        queries: a file of queries, one a line, or the column text of csv, tsv, jsonl, parquet; - is standard input
        top_k: hits for each query, at most
        min_score: the least cosine of a hit
        where: metadata that hits must have: lang=en, lang=en|de, year>=2000, year!=1999; all must hold; a number, true,
            false and null are meant as such, and as texts in quotes: 'zip="10115"'
        hybrid: fuse with BM25 by rank; scores are then fused ones, 1 for the first of both
        format: text, or json; auto is text on a terminal, and json where output is piped
        model: the encoder that built the index; default the name in its manifest
        device: auto, cpu, cuda, cuda:1, ...
        dtype: precision: auto (bf16 where the device computes in it, else fp32), fp32, bf16, fp16, int8 (AVX2, AMX)
    """
    from simcse.data.readers import read_texts
    from simcse.search.filters import parse_conditions
    from simcse.search.tools.hybrid import HybridSearch

    if hybrid and min_score is not None:
        raise ConfigError("--min_score: is a cosine, and scores of --hybrid are fused ranks; give one of the two")
    if query and queries is not None:
        raise ConfigError("--queries: expected either queries as arguments or a file of them, not both")
    stream = iter(query) if query else iter(read_texts(sources([queries] if queries else [], "QUERY")[0]))
    conditions = parse_conditions(where or ())
    opened, readable = open_index(index, model, device, dtype), as_text(format)
    fused = HybridSearch(opened) if hybrid else None
    while chunk := list(islice(stream, QUERIES_AT_ONCE)):
        if fused is not None:
            found = fused.search(chunk, top_k, where=conditions)
        else:
            found = opened.search(chunk, top_k, min_score, where=conditions)
        for text, hits in zip(chunk, found, strict=True):
            print_hits(text, hits, readable, headed=len(chunk) > 1)


def add(
    index: str,
    files: list[str],
    *,
    input: list[str] | None = None,
    upsert: bool = False,
    vectors: list[str] | None = None,
    text_column: str | None = None,
    id_column: str | None = None,
    metadata_columns: list[str] | None = None,
    model: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> None:
    """Add files of texts to an index, all or none.

    Args:
        index: folder of the index
        files: files of texts, as for index build; standard input where none is named
        input: the same as an option
        upsert: replace texts whose id is there already, rather than refuse them
        vectors: files of the texts' vectors, as for index build
        text_column: the column that holds the text
        id_column: the column that holds the id
        metadata_columns: columns to keep as metadata; default all others
        model: the encoder that built the index; default the name in its manifest
        device: auto, cpu, cuda, cuda:1, ...
        dtype: precision: auto (bf16 where the device computes in it, else fp32), fp32, bf16, fp16, int8 (AVX2, AMX)
    """
    from simcse.display.progress import progress
    from simcse.search.tools.build import check_files, count_rows, stream_files

    files = sources([*files, *(input or [])], "FILES")
    columns = {"text_column": text_column, "id_column": id_column, "metadata_columns": metadata_columns or None}
    check_files(files, **columns)
    rows, opened = count_rows(files), open_index(index, model, device, dtype)
    with progress(rows, sys.stderr.isatty(), "adding") as advance:
        documents, given = stream_files(files, vectors or (), **columns)
        before = len(opened)
        written = opened.add_documents(documents, upsert=upsert, vectors=given, advance=advance)
    added = len(opened) - before
    replaced = f", replaced {len(written) - added}" if len(written) > added else ""
    print(f"{index}: added {added}{replaced}, now {len(opened)} texts", file=sys.stderr)


def delete(index: str, id: list[str], *, ids: list[str] | None = None, ids_file: str | None = None) -> None:
    """Delete texts by their ids, all or none.

    Args:
        index: folder of the index
        id: ids to delete
        ids: the same as an option
        ids_file: a file of ids, one a line; - is standard input
    """
    from simcse.data.readers import read_texts
    from simcse.search.index import SearchIndex

    wanted = [*id, *(ids or [])]
    if ids_file is not None:
        wanted += [text.strip() for text in read_texts(ids_file) if text.strip()]
    if not wanted:
        raise ConfigError("ID: expected ids to delete, or --ids_file FILE")
    opened = SearchIndex.load(index)
    deleted = opened.delete(opened.typed_ids(wanted))
    print(f"{index}: deleted {deleted}, now {len(opened)} texts", file=sys.stderr)


def compact(index: str) -> None:
    """Drop what is deleted from all files of an index, in one step.

    Args:
        index: folder of the index
    """
    from simcse.search.index import SearchIndex

    opened = SearchIndex.load(index)
    opened.compact()
    print(f"{index}: {len(opened)} texts", file=sys.stderr)


def export(index: str, *, output: str) -> None:
    """Write ids, texts, metadata and vectors of an index for other packages.

    A parquet file has the columns id, text, vector, and one for each field of the metadata. A faiss file is a flat
    index by inner product; what belongs to its rows lies beside, in OUTPUT.jsonl, a line for each. Each makes an index
    again: simcse index build X.parquet --vectors X.parquet, or X.faiss.jsonl --vectors X.faiss.

    Args:
        index: folder of the index
        output: the file to write: .parquet, or .faiss
    """
    from simcse.display.progress import progress
    from simcse.files import check_writable
    from simcse.search.index import SearchIndex
    from simcse.search.tools import export as exporting

    exporting.check_format(Path(output))
    check_writable(output)
    opened = SearchIndex.load(index)
    with progress(len(opened), sys.stderr.isatty(), "writing", "rows") as advance:
        rows = exporting.export(opened, output, advance)
    beside = f", what belongs to them in {output}.jsonl" if output.endswith(".faiss") else ""
    print(f"{output}: {rows} vectors of dimension {opened.dimension}{beside}", file=sys.stderr)


def info(index: str, *, verify: bool = False, format: Format = "auto") -> None:
    """Facts about an index: encoder, count, dimension, kind and more.

    Args:
        index: folder of the index
        verify: read everything and compare checksums
        format: text, or json; auto is text on a terminal, and json where output is piped
    """
    from simcse.search.index import SearchIndex

    opened = SearchIndex.load(index)
    if verify:
        opened.verify()
    facts = opened.info | ({"verified": True} if verify else {})
    if not as_text(format):
        print_json(facts)
        return
    print(*fact_lines(facts), sep="\n")
