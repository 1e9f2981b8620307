"""`simcse encode` and `simcse similarity`."""

from __future__ import annotations

import itertools
import sys
from typing import Literal

from simcse.commands.shared import Format, as_text, load_encoder, print_json, sources
from simcse.display.hits import SCORE_DIGITS
from simcse.errors import ConfigError, DataError

__all__ = ["encode", "similarity"]

PAIRS_AT_ONCE = 4096


def encode(
    inputs: list[str],
    *,
    model: str,
    output: str = "-",
    column: str | None = None,
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

    Reads a text a line (txt, or - for standard input) or a column of csv, tsv, jsonl or parquet files, and writes a
    numpy array (n, d) of float32, row i for text i. Memory stays constant with --output FILE, and a killed run goes on
    where it was.

    Args:
        inputs: files of texts; standard input where none is named
        model: folder of a checkpoint, hub id, or package:NAME
        output: the .npy file to write; - is standard output, for pipes
        column: the column that holds the text; default text, or the only one
        pooling: cls, mean, last_token, first_last_mean or top2_mean; default what the checkpoint says
        prompt: text to put before each text; "" for none; default the checkpoint's default prompt, if it has one
        prompt_name: the same by the name that the checkpoint gives it, such as query
        role: query or document: what the texts are in a search, so that each gets the checkpoint's prompt for it
        max_length: tokens kept of each text; default what the checkpoint says
        batch_size: the most texts in a forward pass; default by tokens
        normalize: scale vectors to length 1
        resume: go on with an unfinished output of the same model and texts
        device: auto, cpu, cuda, cuda:1, ...
        dtype: precision: auto (bf16 where the device computes in it, else fp32), fp32, bf16, fp16, int8 (AMX, VNNI)
        engine: local, or ray for parquet files in and a folder of parquet files out, by workers of a cluster that may
            fail on the way
        workers: encoders at work at the same time, with engine ray
    """
    if engine == "ray":
        from simcse.encoder.bulk.ray import encode_parquet

        rows = encode_parquet(
            sources(inputs), output, model, workers=workers, column=column, prompt=prompt, prompt_name=prompt_name,
            role=role, pooling=pooling, max_length=max_length, normalize=normalize, device=device, dtype=dtype,
        )  # fmt: skip
        print(f"{output}: {rows} rows with vectors", file=sys.stderr)
        return
    from simcse.data.readers import read_texts
    from simcse.encoder.bulk.npy import write_array
    from simcse.files import check_writable
    from simcse.search.tools.build import count_rows

    if output == "-" and sys.stdout.isatty():
        raise ConfigError("--output: an array is nothing to read; name a file, such as vectors.npy, or pipe it on")
    if output != "-" and not output.endswith(".npy"):
        raise ConfigError(f"--output: found {output}, expected a name that ends in .npy")
    files = sources(inputs)
    texts = itertools.chain.from_iterable([read_texts(file, column=column) for file in files])
    first = next(texts, None)
    if first is None:
        raise DataError(f"{', '.join(files)}: found no text, expected at least one")
    texts = itertools.chain([first], texts)
    total = None if "-" in files else count_rows(files)
    if output != "-":
        check_writable(output)
    encoder = load_encoder(model, device, dtype, pooling=pooling, max_length=max_length)
    prompt, shown = encoder.resolve_prompt(prompt, prompt_name, role), sys.stderr.isatty()
    if output == "-":
        vectors = encoder.encode(
            list(texts), prompt=prompt, normalize=normalize, batch_size=batch_size, show_progress=shown
        )  # fmt: skip
        write_array(sys.stdout.buffer, vectors)
        return
    rows = encoder.encode_to(
        output, texts, resume=resume, prompt=prompt, normalize=normalize, batch_size=batch_size, total=total,
        show_progress=shown,
    )  # fmt: skip
    print(f"{output}: {rows} vectors of dimension {encoder.dimension}", file=sys.stderr)


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
        dtype: precision: auto (bf16 where the device computes in it, else fp32), fp32, bf16, fp16, int8 (AMX, VNNI)
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
