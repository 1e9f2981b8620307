"""An index opened, read and served while another process adds, deletes, compacts and optimizes without a pause.

Whatever moment is hit, the answer is that of one state: no file that has just been removed, no count of one state with
rows of another, and never "damaged". The short form opens some thirty times, the long form 464 times for each kind.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from simcse import SearchIndex, SentenceEncoder
from simcse.search import fingerprint as identity

SOAK = os.environ.get("SIMCSE_SOAK") == "1"
OPENS = 464 if SOAK else 15
TEXTS = [f"text number {i} of the house" for i in range(400)]
BATCH = 20

WRITER = """
import itertools, random, sys
import numpy as np
from simcse import SearchIndex
from simcse.search.nearest import plan
from simcse.search.local import state

plan.FLAT_BELOW, state.LONGEST_TAIL = 10, 100
folder, table, kind, batch = sys.argv[1], np.load(sys.argv[2]), sys.argv[3], int(sys.argv[4])
place = {text: row for row, text in enumerate(table["texts"].tolist())}

class Table:
    name = "table"
    def encode(self, texts):
        return table["vectors"][[place[text] for text in texts]]

index = SearchIndex.load(folder, Table().encode)
rng, texts, batches = random.Random(0), list(place)[3:], []
print("ready", flush=True)
for step in itertools.count():
    names = [f"{step}-{i}" for i in range(batch)]
    chosen = rng.sample(texts, batch)
    index.add(chosen, ids=names, metadata=[{"text": text} for text in chosen])
    batches.append(names)
    if len(batches) > 8:
        index.delete(batches.pop(rng.randrange(8)))
    if step % 3 == 1:
        again = rng.sample(texts, batch)
        index.upsert(again, ids=batches[-1], metadata=[{"text": text} for text in again])
    if step % 4 == 2:
        index.compact()
    if step % 5 == 3:
        index.optimize()
"""


class Table:
    """Vectors that are known already, so that a process which has no model encodes the same texts."""

    name = "table"

    def __init__(self, encode: Callable[[list[str]], np.ndarray]) -> None:
        self.texts = [*identity.PROBES, *TEXTS]
        self.vectors = encode(self.texts)
        self.places = {text: row for row, text in enumerate(self.texts)}

    def encode(self, texts: list[str]) -> np.ndarray:
        return self.vectors[[self.places[text] for text in texts]]


@contextmanager
def written(folder: Path, table: Table, kind: str) -> Iterator[Callable[[], int]]:
    """A process that keeps changing an index of some rows; gives what counts the changes so far."""
    first = TEXTS[:BATCH]
    SearchIndex.build(
        first, table.encode, ids=[f"first-{i}" for i in range(BATCH)], metadata=[{"text": text} for text in first],
        kind=kind, target_recall=0.1,
    ).save(folder)  # fmt: skip
    np.savez(folder.with_name("table.npz"), texts=table.texts, vectors=table.vectors)
    command = [sys.executable, "-c", WRITER, str(folder), str(folder.with_name("table.npz")), kind, str(BATCH)]

    def changes() -> int:
        assert process.poll() is None, process.communicate()[1]  # nobody waits for a writer that is dead
        return SearchIndex.load(folder).storage.generation

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", process.communicate()[1]
            yield changes
            changes()
        finally:
            process.kill()
    index = SearchIndex.load(folder, table.encode)
    index.verify()
    index.add(TEXTS[:1])


def random_table() -> Table:
    return Table(lambda texts: np.random.default_rng(0).standard_normal((len(texts), 32)).astype(np.float32))


def check_reads(index: SearchIndex, text: str) -> None:
    """Counts, texts, ids and vectors are those of one state."""
    rows = list(index.rows())
    batches: dict[str, int] = {}
    for key, found, metadata in rows:
        assert metadata["text"] == found
        batches[str(key).split("-")[0]] = batches.get(str(key).split("-")[0], 0) + 1
    assert set(batches.values()) == {BATCH}, "every batch whole or not at all"
    facts = index.info
    assert facts["count"] % BATCH == 0
    assert facts["deleted"] % BATCH == 0
    assert facts["bytes"] > 0
    assert len(index) % BATCH == 0
    for hit in index.search(text, top_k=5)[0]:
        assert hit.metadata["text"] == hit.text
    for hit in index.search([text] * 5, top_k=3, where={"text": [text, TEXTS[0]]})[4]:
        assert hit.text in (text, TEXTS[0])


def while_written(changes: Callable[[], int], least: int) -> Iterator[int]:
    """Numbers of rounds: `OPENS` of them, and more until the writer, which shares the cores, has made its changes."""
    until = time.monotonic() + 120
    for number in itertools.count():
        if number >= OPENS and changes() > least:
            return
        assert time.monotonic() < until or number < OPENS, f"the writer stands at change {changes()} of {least}"
        yield number


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_opening_beside_a_writer_raises_no_false_alarm(kind, tmp_path):
    """`live` is opened once and follows; each round opens anew, verifies, and reads in every way."""
    table = random_table()
    with written(tmp_path / "idx", table, kind) as changes:
        live, begin = SearchIndex.load(tmp_path / "idx", table.encode), changes()
        for number in while_written(changes, begin + OPENS // 4):
            index = SearchIndex.load(tmp_path / "idx", table.encode, mmap=number % 4 > 0)
            index.verify()
            check_reads(index, TEXTS[number % len(TEXTS)])
            check_reads(live, TEXTS[-1 - number % len(TEXTS)])
            if number % 10 == 9:
                index.save(tmp_path / "copy")  # a state of its own: whole, and as good
                copied = SearchIndex.load(tmp_path / "copy", table.encode)
                copied.verify()
                check_reads(copied, TEXTS[number % len(TEXTS)])


def test_serving_beside_a_writer_answers_every_request(tmp_path, tiny_bert):
    from starlette.testclient import TestClient

    from simcse.serving.app import create_app

    encoder = SentenceEncoder.from_pretrained(tiny_bert, dtype="fp32")
    table = Table(encoder.encode)
    with written(tmp_path / "idx", table, "flat") as changes:
        begin = changes()
        app = create_app(SearchIndex.load(tmp_path / "idx", encoder.encode), encoder)
        with TestClient(app, "http://localhost", raise_server_exceptions=False) as client:
            until = time.monotonic() + (60 if SOAK else 2)
            for number in itertools.count(1):
                done = number > 4 and changes() > begin + 3  # both may be slow on a busy machine
                if time.monotonic() > until and (done or time.monotonic() > until + 120):
                    break
                text = TEXTS[number % len(TEXTS)]
                shown = client.get("/api/map").json()
                ids = shown["ids"][:3]
                answers = [
                    client.get("/api/info"),
                    client.get("/metrics"),
                    client.get("/healthz"),
                    client.post("/api/search", json={"query": text, "top_k": 3}),
                    client.post("/api/search", json={"query": text, "where": {"text": text}}),
                    client.post("/api/map/place", json={"ids": ids, "texts": [text]}),
                ]
                assert [answer.status_code for answer in answers] == [200] * 6, [answer.text for answer in answers]
                assert len(shown["ids"]) % BATCH == 0
                assert answers[0].json()["index"]["count"] % BATCH == 0
                for hit in answers[3].json()["results"][0]["hits"]:
                    assert hit["metadata"]["text"] == hit["text"]
        assert number > 4
        assert changes() > begin + 3, "the writer was at work"
