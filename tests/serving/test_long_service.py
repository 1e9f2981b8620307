"""Many clients search, add, replace and delete for long, beside clients that are slow, idle or hang up; then SIGTERM.

Short form: 16 clients for 3 seconds. Long form (SIMCSE_SOAK=1): 64 clients for 10 minutes, or what the part has.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import psutil
import pytest
from soak import LONG, SECONDS, SEED
from tiny import WORDS

from simcse import SearchIndex

CLIENTS, IDLE, SLOW = (64, 500, 8) if LONG else (16, 50, 4)
DURATION = min(600.0, SECONDS - 60) if LONG else 3.0  # seconds
WINDOW = DURATION / 10  # of the first and the last look
READ_WITHIN = 5.0  # seconds, on a busy machine
BASE = 2000  # texts that no client touches
OWN = 40  # rows of a client, at most
TOKEN = {"authorization": "Bearer s3cret", "content-type": "application/json"}


def text_of(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(3, 12)))


class Answered(NamedTuple):
    """A request: when it was sent, seconds until its answer, status."""

    at: float
    seconds: float
    status: int


@dataclass
class Client:
    """One that sends a request, reads its answer, and sends the next, over a connection that it keeps.

    Attributes:
        rows: id -> text, as the service has confirmed.
        unanswered: id -> text before and after, of the change that got no answer; None: no row.
        unsure: ids of a change that was answered with 503 at the stop: it was made or it was not.
        failed_at: when the request that got no answer was sent.
        wrong: what should not have been.
    """

    number: int
    port: int
    rows: dict[str, str] = field(default_factory=dict)
    unanswered: dict[str, tuple[str | None, str | None]] = field(default_factory=dict)
    log: list[Answered] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    unsure: set[str] = field(default_factory=set)
    failed_at: float = math.inf

    def run(self, stop: threading.Event, told: threading.Event) -> None:
        """Until `stop`, or until the service has gone; an error before it was `told` to is wrong."""
        rng = random.Random(f"{SEED} {self.number}")
        self._made = 0
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        while not stop.is_set():
            changes, ask = self._drawn(rng)
            begin = time.monotonic()
            try:
                connection.request(*ask, TOKEN)
                response = connection.getresponse()
                body = response.read()
            except (OSError, http.client.HTTPException) as error:
                self.failed_at = begin
                self.unanswered = {key: (self.rows.get(key), text) for key, text in changes.items()}
                if not told.is_set():
                    self.wrong.append(f"{ask[:2]}: {error!r} after {time.monotonic() - begin:.1f} s")
                return connection.close()
            self.log.append(Answered(begin, time.monotonic() - begin, response.status))
            if response.status == 503 and told.is_set():  # it says that it is stopping
                self.unsure = set(changes)
                return connection.close()
            if response.status != 200:
                self.wrong.append(f"{ask}: {response.status} {body[:300]!r}")
            for key, text in changes.items():
                if text is None:
                    del self.rows[key]
                else:
                    self.rows[key] = text
            if response.status == 200 and ask[1] == "/api/search" and (own := json.loads(ask[2]).get("where")):
                [result] = json.loads(body)["results"]
                [hit] = result["hits"]
                if (hit["text"], hit["metadata"]) != (self.rows[own["key"]], own):
                    self.wrong.append(f"{ask}: {hit}, expected {self.rows[own['key']]!r}")
        return connection.close()

    def _drawn(self, rng: random.Random) -> tuple[dict[str, str | None], tuple[str, str, str | None]]:
        """The next request: what it changes, id -> text or None; method, path and body."""
        kind = rng.choices(["search", "own", "encode", "read", "add", "upsert", "delete"], [8, 2, 2, 1, 2, 1, 2])[0]
        if kind == "encode":
            return {}, ("POST", "/api/encode", json.dumps({"texts": [text_of(rng) for _ in range(4)]}))
        if kind == "read":
            return {}, ("GET", rng.choice(["/api/info", "/healthz", "/metrics"]), None)
        if kind == "own" and self.rows:  # a row of its own is found at once, as it is now
            key = rng.choice(sorted(self.rows))
            return {}, ("POST", "/api/search", json.dumps({"query": text_of(rng), "top_k": 1, "where": {"key": key}}))
        if (kind == "delete" and self.rows) or (kind == "add" and len(self.rows) >= OWN):
            keys = rng.sample(sorted(self.rows), min(len(self.rows), 3))
            return dict.fromkeys(keys), ("DELETE", "/api/documents", json.dumps({"ids": keys}))
        if kind == "add" or (kind == "upsert" and self.rows):
            if kind == "add":
                self._made += 3
                keys = [f"{self.number}-{self._made + i}" for i in range(3)]
            else:
                keys = rng.sample(sorted(self.rows), min(len(self.rows), 2))
            texts = [text_of(rng) for _ in keys]
            body = {"texts": texts, "ids": keys, "metadata": [{"key": key} for key in keys], "upsert": kind == "upsert"}
            return dict(zip(keys, texts, strict=True)), ("POST", "/api/documents", json.dumps(body))
        return {}, ("POST", "/api/search", json.dumps({"query": text_of(rng), "top_k": rng.randint(1, 20)}))


def disturb(port: int, told: threading.Event, counts: dict[str, int]) -> None:
    """Open sockets that say nothing, send a byte a second, and hang up in the middle, until the service is `told`."""
    rng = random.Random(SEED)
    body = json.dumps({"texts": ["a dog"], "ids": ["never"]}).encode()
    whole = b"POST /api/search HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer s3cret\r\n"
    whole += b"content-length: %d\r\n\r\n" % len(body) + body
    idle: list[socket.socket] = []
    slow: dict[socket.socket, Iterator[int]] = {}

    def connected() -> socket.socket:
        return socket.create_connection(("127.0.0.1", port), timeout=60)

    try:
        while not told.wait(1.0 if LONG else 0.2):
            while len(idle) < IDLE:
                idle.append(connected())
            while len(slow) < SLOW:
                slow[connected()] = iter(whole)
            counts["open"] = max(counts["open"], len(idle) + len(slow))
            for connection, rest in list(slow.items()):
                try:
                    connection.sendall(bytes([next(rest)]))
                except OSError:  # the service has given it up
                    del slow[connection]
                    connection.close()
                    counts["slow given up"] += 1
            for _ in range(4):
                with connected() as dropped, suppress(OSError):
                    dropped.sendall(whole[: rng.randint(0, len(whole))])
                    counts["dropped"] += 1
            for connection in list(idle):
                connection.setblocking(False)
                with suppress(BlockingIOError):
                    if not connection.recv(1000):
                        idle.remove(connection)
                        connection.close()
                        counts["idle given up"] += 1
    except OSError as error:
        counts["failed"] += not told.is_set()
        print(f"{error!r}")
    finally:
        for connection in [*idle, *slow]:
            connection.close()


@contextmanager
def served(folder, model) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The process and its port, once it is ready."""
    command = [sys.executable, "-m", "simcse", "serve", folder, "--model", model, "--port", "0", "--threads", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "SIMCSE_TOKEN": "s3cret"}
    with subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            found = re.search(r" at http://127\.0\.0\.1:(\d+)$", line.strip())
            assert found, line + process.stderr.read()
            yield process, int(found[1])
        finally:
            process.kill()


def p99(clients: list[Client], begin: float, end: float) -> float:
    """Milliseconds of the requests sent between two moments."""
    taken = [one.seconds for client in clients for one in client.log if begin <= one.at < end]
    return float(np.percentile(taken or [np.nan], 99)) * 1000


@pytest.fixture
def base(tmp_path, encoder):
    """The folder of an index with rows that no client touches."""
    rng = random.Random(0)
    rows = {f"base-{i}": text_of(rng) for i in range(BASE)}
    SearchIndex.build(list(rows.values()), encoder.encode, ids=list(rows)).save(tmp_path / "idx")
    return tmp_path / "idx", rows


def test_clients_of_all_kinds_for_long_then_a_stop(base, tiny_bert, encoder):
    """No error, flat memory; at SIGTERM what was taken is answered, and what was not answered has changed nothing."""
    folder, rows = base
    stop, told = threading.Event(), threading.Event()
    counts = dict.fromkeys(["open", "slow given up", "idle given up", "dropped", "failed"], 0)
    with served(folder, tiny_bert) as (process, port):
        clients = [Client(number, port) for number in range(CLIENTS)]
        threads = [threading.Thread(target=client.run, args=(stop, told)) for client in clients]
        disturbing = threading.Thread(target=disturb, args=(port, told, counts))
        seen, watched = [], psutil.Process(process.pid)
        for thread in [*threads, disturbing]:
            thread.start()
        try:
            begin = time.monotonic()
            while (now := time.monotonic()) < begin + DURATION:
                seen.append((now, watched.memory_info().rss / 2**20, watched.num_fds(), watched.num_threads()))
                assert all(thread.is_alive() for thread in threads), [
                    client.wrong for client in clients if client.wrong
                ]
                time.sleep(DURATION / 300)
            told.set()
            stopped = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
            for thread in threads:
                thread.join(60)
        finally:
            stop.set()
            told.set()
            for thread in [*threads, disturbing]:
                thread.join(60)
        assert process.stderr.read() == ""
    assert not [wrong for client in clients for wrong in client.wrong]
    assert not counts["failed"]
    unsure = set().union(*(client.unsure for client in clients))
    for client in clients:
        rows |= client.rows
    rows = {key: text for key, text in rows.items() if key not in unsure}
    found = {key: text for key, text, _ in SearchIndex.load(folder, encoder.encode).rows() if key not in unsure}
    lost = {key: was for client in clients for key, (was, _) in client.unanswered.items()}
    assert {key: found.get(key) for key in lost} == lost, "what was not answered has changed nothing"
    assert found == rows
    late = [one for client in clients for one in client.log if one.at < stopped < one.at + one.seconds]
    cut = [client.failed_at for client in clients if client.failed_at < stopped]  # sent, but maybe not read
    assert not [at for at in cut if at < stopped - READ_WITHIN], "what was taken is answered"
    ends = [(begin + WINDOW, begin + 2 * WINDOW), (stopped - WINDOW, stopped)]
    middle = (begin + stopped) / 2
    memory = [max(used for at, used, _, _ in seen if (at < middle) == first) for first in (True, False)]
    total = sum(len(client.log) for client in clients)
    print(
        f"\n{CLIENTS} clients, {DURATION:.0f} s: {total} requests, p99 {p99(clients, *ends[0]):.1f} ms at first, "
        f"{p99(clients, *ends[1]):.1f} ms at last; memory at most {memory[0]:.1f} MiB in the first half, "
        f"{memory[1]:.1f} in the last; descriptors at most {max(look[2] for look in seen)}, "
        f"threads {max(look[3] for look in seen)}; {counts}; at the stop {len(late)} requests were at hand, "
        f"{[one.status for one in late].count(200)} of them done; {len(cut)} were not read"
    )
    if LONG:  # seconds are all warm-up
        assert memory[1] < 1.02 * memory[0]
