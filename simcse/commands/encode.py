"""`simcse encode` and `simcse similarity`."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from simcse.commands.shared import Format, as_text, load_encoder, print_json, sources
from simcse.display.hits import SCORE_DIGITS
from simcse.errors import ConfigError, DataError

__all__ = ["encode", "similarity"]

Rows = Iterator[tuple[int | str | None, str]]
PAIRS_AT_ONCE = 4096


def encode(
    inputs: list[str],
    *,
    model: str,
    output: str = "-",
    column: str | None = None,
    id_column: str | None = None,
    quantize: Literal["none", "float16", "int8", "binary"] = "none",
    truncate_dim: int | None = None,
    pooling: str | None = None,
    prompt: str | None = None,
    prompt_name: str | None = None,
    role: Literal["query", "document"] | None = None,
    max_length: int | None = None,
    batch_size: int | None = None,
    normalize: bool = True,
    resume: bool = True,
    device: str = "auto",
    dtype: str = "auto",
    engine: Literal["local", "ray"] = "local",
    workers: int = 2,
) -> None:
    """Turn texts into vectors.

    Reads a text a line (txt, or - for standard input) or a column of csv, tsv, jsonl or parquet files. Writes, by the
    name of --output: .npy, an array (n, d), row i for text i; .npz, these as vectors, with ids; .parquet or .jsonl, a
    row for each text with id, text and vector. Memory stays constant, and a killed run goes on where it was.

    Args:
        inputs: files of texts; standard input where none is named
        model: folder of a checkpoint, hub id, or package:NAME
        output: the file to write: .npy, .npz, .parquet or .jsonl; - is an .npy on standard output, for pipes
        column: the column that holds the text; default text, or the only one
        id_column: the column that holds the id; default id or _id, and without one the number of the row from 0 on
        quantize: float16; int8, each vector times 127 over its own largest value, which keeps cosines; binary, a bit a
            dimension, 8 in a byte, for Hamming distance; docs/scale.md has the way to search and rescore them
        truncate_dim: the first so many dimensions are kept, for a model that was trained for it (Matryoshka)
        pooling: cls, mean, last_token, first_last_mean or top2_mean; default what the checkpoint says
        prompt: text to put before each text; "" for none; default the checkpoint's default prompt, if it has one
        prompt_name: the same by the name that the checkpoint gives it, such as query
        role: query or document: what the texts are in a search, so that each gets the checkpoint's prompt for it
        max_length: tokens kept of each text; default what the checkpoint says
        batch_size: the most texts in a forward pass; default by tokens
        normalize: scale vectors to length 1
        resume: go on with an unfinished output of the same model and texts
        device: auto, cpu, cuda, cuda:1, ...
        dtype: precision: auto (bf16 where the device computes in it, else fp32), fp32, bf16, fp16, int8 (AVX2, AMX)
        engine: local, or ray for parquet files in and a folder of parquet files out, by workers of a cluster that may
            fail on the way
        workers: encoders at work at the same time, with engine ray
    """
    loading: dict[str, Any] = {"pooling": pooling, "max_length": max_length, "truncate_dim": truncate_dim}
    prompts = {"prompt": prompt, "prompt_name": prompt_name, "role": role}
    if engine == "ray":
        for name, value in {"id_column": id_column, "quantize": quantize}.items():
            if value not in (None, "none"):
                raise ConfigError(f"{name}={value}: engine ray keeps all columns and float32; leave it out")
        from simcse.encoder.bulk.ray import encode_parquet

        done = encode_parquet(
            sources(inputs), output, model, workers=workers, column=column, normalize=normalize, device=device,
            dtype=dtype, **prompts, **loading,
        )  # fmt: skip
        print(f"{output}: {done} rows with vectors", file=sys.stderr)
        return
    _check_output(output)
    rows, total = _rows(sources(inputs), column, id_column)
    encoder = load_encoder(model, device, dtype, **loading)
    encoding: dict[str, Any] = {"normalize": normalize, "batch_size": batch_size, "show_progress": sys.stderr.isatty()}
    encoding["prompt"] = encoder.resolve_prompt(**prompts)
    if output == "-":
        from simcse.encoder.bulk.npy import write_array
        from simcse.vectors import quantize as quantized

        write_array(sys.stdout.buffer, quantized(encoder.encode([text for _, text in rows], **encoding), quantize))
        return
    ids = None
    if Path(output).suffix != ".npy":  # it holds none, and what nobody reads would stay in memory
        rows, beside = itertools.tee(rows)
        ids = (key for key, _ in beside)
    count = encoder.encode_to(
        output, (text for _, text in rows), ids=ids, quantize=quantize, resume=resume, total=total, **encoding
    )
    print(f"{output}: {count} vectors of dimension {encoder.dimension}{_kind(quantize)}", file=sys.stderr)


def _check_output(output: str) -> None:
    """Refuse an output that cannot be written, before anything is read or loaded."""
    if output == "-":
        if sys.stdout.isatty():
            raise ConfigError("output: an array is nothing to read; name a file, such as vectors.npy, or pipe it on")
        return
    from simcse.encoder.bulk.tables import check_format
    from simcse.files import check_writable

    check_format(Path(output))
    check_writable(output)


def _rows(files: list[str], column: str | None, id_column: str | None) -> tuple[Rows, int | None]:
    """(id, text) of each row of files, at least one, and about how many there are, where that can be told."""
    from simcse.data.readers import read_identified
    from simcse.search.tools.build import count_rows

    stream = itertools.chain(*[read_identified(file, column=column, id_column=id_column) for file in files])
    head = list(itertools.islice(stream, 1))
    if not head:
        raise DataError(f"{', '.join(files)}: found no text, expected at least one")
    return itertools.chain(head, stream), None if "-" in files else count_rows(files)


def _kind(quantize: str) -> str:
    return {"none": "", "binary": ", a bit each"}.get(quantize, f" as {quantize}")


def similarity(
    texts: list[str],
    *,
    model: str,
    pairs: str | None = None,
    format: Format = "auto",
    device: str = "auto",
    dtype: str = "auto",
) -> None:
    """Cosine similarity of texts.

    Two texts give one number. More give a line for each text after the first: its cosine with the first, and the text.
    --pairs FILE gives a line for each pair.

    Args:
        texts: two texts or more
        model: folder of a checkpoint, hub id, or package:NAME
        pairs: instead of texts, a file of pairs: the first two columns of a csv, tsv, jsonl or parquet file; - is
            standard input, two texts a line with a tab between them
        format: text, or json (an object a line); auto is text on a terminal, and json where output is piped
        device: auto, cpu, cuda, cuda:1, ...
        dtype: precision: auto (bf16 where the device computes in it, else fp32), fp32, bf16, fp16, int8 (AVX2, AMX)
    """
    if (pairs is None) == (not texts):
        raise ConfigError("similarity: expected either two or more texts, or --pairs FILE")
    if pairs is None and len(texts) < 2:
        raise ConfigError("similarity: found 1 text, expected two or more")
    from simcse.data.pairs import read_text_pairs

    rows = read_text_pairs(pairs) if pairs is not None else iter([(texts[0], other) for other in texts[1:]])
    head = list(itertools.islice(rows, 1))
    if not head:
        raise DataError(f"{pairs}: found no pair, expected at least one")
    encoder = load_encoder(model, device, dtype)
    rows, readable = itertools.chain(head, rows), as_text(format)
    while chunk := list(itertools.islice(rows, PAIRS_AT_ONCE)):
        vectors = encoder.encode([text for pair in chunk for text in pair])  # (2n, d)
        cosines = (vectors[::2] * vectors[1::2]).sum(1).clip(-1, 1)  # (n,)
        for (a, b), cosine in zip(chunk, cosines.tolist(), strict=True):
            if not readable:
                print_json({"a": a, "b": b, "score": round(cosine, SCORE_DIGITS)})
            elif len(texts) > 2:
                print(f"{cosine:7.4f}  {b}")
            else:
                print(f"{cosine:.4f}")
