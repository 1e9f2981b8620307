"""Work in bulk: build an index from files of any size, in constant memory, and resume after a kill."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice, tee
from pathlib import Path
from typing import Any

from simcse.data import tabular
from simcse.display.progress import paced, waiting
from simcse.errors import ConfigError, SearchError
from simcse.files import check_writable, moved
from simcse.search.documents import file_documents
from simcse.search.index import CHUNK, SearchIndex
from simcse.search.local.files import MANIFEST
from simcse.search.rows import Document
from simcse.search.select import is_milvus
from simcse.search.tools.vectors import check_vectors, with_vectors
from simcse.vectors import Encode, Encoder, Matrix

__all__ = ["build_from_files", "check_files", "check_output", "count_rows", "stream_files"]

Vectors = Iterator[Matrix] | None


def stream_files(
    inputs: Sequence[str | Path], vectors: Sequence[str | Path] = (), **columns: Any
) -> tuple[Iterator[Document], Vectors]:
    """The documents of several files, one after the other, and the vectors that lie beside, to be read together.

    Args:
        inputs: as in `documents.file_documents`.
        vectors: files of vectors, as in `vectors.with_vectors`; without any there are none beside.
        columns: as in `documents.file_documents`.
    """
    if not vectors:
        return chain.from_iterable(file_documents(source, **columns) for source in inputs), None
    documents, beside = tee(with_vectors(inputs, vectors, **columns))
    return (document for document, _ in documents), (vector for _, vector in beside)


def count_rows(inputs: Sequence[str | Path]) -> int | None:
    """About how many rows files hold, for a progress bar; None where one is standard input.

    Raises:
        DataError: a missing or damaged file.
    """
    counts = [tabular.count_rows(Path(source)) for source in inputs]
    return None if None in counts else sum(count for count in counts if count is not None)


def build_from_files(
    inputs: Sequence[str | Path],
    output: str | Path,
    encode: Encode | Encoder,
    *,
    kind: str = "auto",
    target_recall: float = 0.95,
    memory: int | None = None,
    sample_queries: Sequence[str] | None = None,
    vectors: Sequence[str | Path] = (),
    overwrite: bool = False,
    advance: Callable[[int], None] = lambda n: None,
    **columns: Any,
) -> SearchIndex:
    """Build an index on disk, in chunks that need about a second each, so that a kill loses little.

    Until it is done it lies in `.NAME.partial` beside the output; the same call after a kill resumes it. In Milvus
    (`output` as `milvus:URI#COLLECTION`) it starts anew, and nothing of it stays where it fails.

    Args:
        inputs: files as in `file_documents`, `-` for standard input.
        output: folder of the index when it is done; or a `milvus:` address.
        encode: as in `SearchIndex.build`.
        kind: as in `SearchIndex.build`.
        target_recall: as in `SearchIndex.build`.
        memory: as in `SearchIndex.build`.
        sample_queries: as in `SearchIndex.build`.
        vectors: files of the texts' vectors, where they are known already, as in `vectors.with_vectors`.
        overwrite: whether an index that is there already is replaced, when the new one is done.
        advance: called with the number of texts done.
        columns: `text_column`, `id_column`, `metadata_columns`.

    Raises:
        ConfigError: the output exists and `overwrite` was not said.
        SearchError: no text; duplicate ids; NaN vectors.
        DataError: a missing or damaged file; names file and line.
    """
    if is_milvus(kind) or is_milvus(output):
        address = _milvus_address(kind, str(output), overwrite)
        stream, given = stream_files(inputs, vectors, **columns)
        return SearchIndex.build_documents(
            stream, encode, kind=address, sample_queries=sample_queries, vectors=given, advance=advance,
            name=", ".join(map(str, inputs)),
        )  # fmt: skip
    output = Path(output)
    check_output(output, overwrite)
    check_files(inputs, **columns)
    index, done = _begun(output, encode, _source([*inputs, *vectors], columns), kind, target_recall)
    if vectors:
        check_vectors(inputs, vectors, index.dimension, **columns)
    stream, given = stream_files(inputs, vectors, **columns)
    beside = given and islice(given, done, None)
    advance(done)
    for chunk in paced(islice(stream, done, None), CHUNK):
        done += len(chunk)
        some = beside and list(islice(beside, len(chunk)))
        index.add_documents(chunk, vectors=some, note={**index.noted, "done": done})
        advance(len(chunk))
    if not len(index):
        shutil.rmtree(_partial(output))
        raise SearchError(f"{', '.join(map(str, inputs))}: found no text to index, expected at least one")
    with waiting(f"choosing how to search {len(index):,} texts"):
        index.optimize(memory=memory, sample_queries=sample_queries)
    return _finished(index, output, encode)


def check_output(output: str | Path, overwrite: bool = False) -> None:
    """Make sure, before any work, that an index can be written there.

    Raises:
        ConfigError: there is one, and `overwrite` was not said.
        SearchError: there is something else.
        OSError: nothing can be written there.
    """
    if is_milvus(output):
        return
    output = Path(output)
    if output.exists() and not overwrite:
        raise ConfigError(f"output: {output} exists; give another folder, or replace it with the option overwrite")
    if output.exists() and not (output / MANIFEST).is_file():
        raise SearchError(f"{output}: exists and is no index; it will not be overwritten")
    check_writable(output)


def check_files(inputs: Sequence[str | Path], **columns: Any) -> None:
    """Make sure, before any work, that files are there, and have the columns; raises as `file_documents`."""
    for source in inputs:
        if str(source) != "-":
            next(file_documents(source, **columns), None)


def _milvus_address(kind: str, output: str, overwrite: bool) -> str:
    """Where an index in Milvus goes: `output`, which has no other kind and replaces nothing."""
    if not is_milvus(output):
        raise ConfigError(f"output: found {output}, expected {kind}: an index in Milvus has no folder")
    if kind not in ("auto", output):
        raise ConfigError(f"kind: found {kind} for {output}; Milvus chooses how to search, leave it out")
    if overwrite:
        raise ConfigError("overwrite: an index in Milvus is not replaced; name another collection, as milvus:URI#NAME")
    return output


def _partial(output: Path) -> Path:
    return output.with_name(f".{output.name}.partial")


def _source(inputs: Sequence[str | Path], columns: dict[str, Any]) -> list[Any]:
    files = [path for path in map(Path, inputs) if path.is_file()]
    known = [(str(path.absolute()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return [known, {name: value for name, value in columns.items() if value is not None}]


def _begun(
    output: Path, encode: Encode | Encoder, source: list[Any], kind: str, recall: float
) -> tuple[SearchIndex, int]:
    """The unfinished index of the same files and encoder, or a new one; and how many texts it holds."""
    partial = _partial(output)
    wanted = {"source": source, "kind": kind, "target_recall": recall}
    if partial.exists():
        try:
            index = SearchIndex.load(partial, encode)
            noted = index.noted
            if {name: noted[name] for name in wanted} == _as_json(wanted) and source[0]:
                return index, int(noted["done"])
        except (SearchError, KeyError):
            pass  # another encoder, other files, or the rest of a kill in the first second
        shutil.rmtree(partial)
    index = SearchIndex.empty(encode, kind=kind, target_recall=recall)
    index.add_documents([], note={**wanted, "done": 0})
    index.save(partial)
    return index, 0


def _as_json(values: dict[str, Any]) -> Any:
    return json.loads(json.dumps(values))


def _finished(index: SearchIndex, output: Path, encode: Encode | Encoder) -> SearchIndex:
    partial = _partial(output)
    if output.exists():
        index.save(output)
        shutil.rmtree(partial)
    else:
        moved(partial, output)
    return SearchIndex.load(output, encode)
