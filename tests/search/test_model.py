"""An index, driven at random, against a dictionary: after each step every handle of it holds the rows, ids, metadata
and vectors of its model, in their order, and finds what comparing all of them finds, with the same scores.

Indexes lie in memory, in folders that several handles and another process change in turn, or in Milvus. A process is
killed between operations, or within one.
"""

from __future__ import annotations

import pickle
import shutil
import time
from collections import Counter
from importlib.util import find_spec
from itertools import count
from math import log
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from index_model import Model, RefusedError, Signs, unit
from index_peer import Peer, peer
from soak import LONG, SECONDS, SEED

from simcse import SearchError, SearchIndex
from simcse.search.local import state
from simcse.search.nearest import plan
from simcse.search.tools.hybrid import DAMPING, HybridSearch

WORDS = ["man", "woman", "plays", "guitar", "piano", "rain", "city", "sun"]
TEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join)
IDS = st.none() | st.integers(0, 30) | st.sampled_from(["7", "a", "b b", "é'%"])
VALUES = st.sampled_from([None, True, 1, 2, 1.5, "1", "de", "en"])
METADATA = st.dictionaries(st.sampled_from(["x", "y"]), VALUES)
DOCUMENTS = st.lists(st.tuples(IDS, TEXTS, METADATA), min_size=1, max_size=8)
WANTED = VALUES | st.lists(VALUES, max_size=3) | st.dictionaries(st.sampled_from(["<", ">=", "!="]), VALUES, max_size=2)
WHERE = st.none() | st.dictionaries(st.sampled_from(["x", "y"]), WANTED, max_size=2)
ACTIONS = ["add", "upsert", "delete", "compact", "rows"]
HANDLES, FOLDERS = st.integers(0, 2), st.sampled_from(["one", "two"])


class Handle:
    """An index that is open, and what it must be: one model for all handles of one place."""

    def __init__(self, index: SearchIndex, place: str) -> None:
        self.index, self.place, self.hybrid = index, place, HybridSearch(index)


class Machine(RuleBasedStateMachine):
    """What every storage does."""

    kind: ClassVar[str] = "flat"
    ordered: ClassVar[bool] = True  # equal scores come in the order of addition
    exact: ClassVar[bool] = True
    root: ClassVar[Path]
    other: ClassVar[Peer]
    done: ClassVar[Counter[str]]  # operations that were drawn
    compared: ClassVar[list[int]]  # [calls of the index to compare it after each]
    number: ClassVar[Any] = count()

    def __init__(self) -> None:
        super().__init__()
        self.models: dict[str, Model] = {}
        self.handles: list[Handle] = []
        self.folder = self.root / str(next(self.number))

    def teardown(self) -> None:
        for handle in self.handles:
            handle.index.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def new_kind(self) -> str:
        return self.kind

    def handle(self, which: int) -> Handle:
        return self.handles[which % len(self.handles)]

    def open(self, index: SearchIndex, place: str) -> None:
        if len(self.handles) == 3:
            self.handles.pop(0).index.close()
        self.handles.append(Handle(index, place))

    @initialize(documents=st.lists(st.tuples(st.none(), TEXTS, METADATA), min_size=1, max_size=30))
    def build(self, documents):
        self.models["memory 0"], _ = Model().put(documents, False)
        index = SearchIndex.build_documents(iter(documents), Signs(), kind=self.new_kind(), target_recall=0.1)
        self.open(index, "memory 0")

    @rule(which=HANDLES, documents=DOCUMENTS, fails=st.integers(0, 9))
    def add(self, which, documents, fails):
        self.put(which, documents, fails, upsert=False)

    @rule(which=HANDLES, documents=DOCUMENTS, fails=st.integers(0, 9))
    def upsert(self, which, documents, fails):
        self.put(which, documents, fails, upsert=True)

    def put(self, which, documents, fails, upsert):
        self.done["upsert" if upsert else "add"] += 1
        handle = self.handle(which)
        if fails == 0:
            documents = [*documents, (None, "refused", {})]
        try:
            after, keys = self.models[handle.place].put(documents, upsert)
        except RefusedError:
            with pytest.raises((SearchError, OSError)):
                handle.index.add_documents(iter(documents), upsert=upsert)
        else:
            assert handle.index.add_documents(iter(documents), upsert=upsert) == keys
            self.models[handle.place] = after

    @rule(which=HANDLES, positions=st.lists(st.integers(0, 60), min_size=1, max_size=6), absent=st.integers(0, 9))
    def delete(self, which, positions, absent):
        self.done["delete"] += 1
        handle = self.handle(which)
        model = self.models[handle.place]
        there = list(model.texts)
        keys = list(dict.fromkeys(there[at % len(there)] for at in positions)) if there else []
        if absent == 0 or not there:
            with pytest.raises(SearchError, match="nothing was deleted"):
                handle.index.delete([*keys, "absent"])
        else:
            assert handle.index.delete(keys) == len(keys)
            self.models[handle.place] = model.without(keys)

    @rule(which=HANDLES, query=TEXTS, k=st.integers(1, 12), where=WHERE, floor=st.sampled_from([None, -0.25, 0, 0.5]))
    def search(self, which, query, k, where, floor):
        self.done["search"] += 1
        self.compare(self.handle(which), query, k, where, floor)

    def compare(self, handle, query, k, where=None, floor=None):
        """The hits of a query with those of the model."""
        model = self.models[handle.place]
        if where and not set(where) <= model.fields():
            where = {name: wanted for name, wanted in where.items() if name in model.fields()}
        hits = handle.index.search(query, k, floor, where=where)[0]
        expected = model.ranked(query, where, -1 if floor is None else floor)
        scores = dict(expected)
        assert all(hit.score == scores[hit.id] and model.texts[hit.id] == (hit.text, hit.metadata) for hit in hits)
        assert len({hit.id for hit in hits}) == len(hits)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        if self.exact or floor is None:
            assert len(hits) == min(k, len(expected))
        if self.exact:
            assert [hit.score for hit in hits] == [score for _, score in expected[:k]]
        if self.exact and self.ordered:
            assert [hit.id for hit in hits] == [key for key, _ in expected[:k]]

    @rule(which=HANDLES, query=TEXTS, k=st.integers(1, 12), where=WHERE, weight=st.sampled_from([0, 0.3, 0.7, 1]))
    def search_words_as_well(self, which, query, k, where, weight):
        self.done["hybrid"] += 1
        handle = self.handle(which)
        model = self.models[handle.place]
        where = {name: wanted for name, wanted in (where or {}).items() if name in model.fields()}
        hits = handle.hybrid.search(query, k, where=where, weight=weight)[0]
        left = model.ranked(query, where)
        low, high = (fused(left, lexical(model, query, left), weight, side) for side in ("left", "right"))
        for hit in hits:
            assert low[hit.id] - 1e-9 <= hit.score <= high[hit.id] + 1e-9
            assert model.texts[hit.id] == (hit.text, hit.metadata)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        assert len({hit.id for hit in hits}) == len(hits)
        missed = [key for key in low if low[key] > 0 and key not in {hit.id for hit in hits}]
        if len(hits) < k:
            assert not missed
        assert all(low[key] <= hits[-1].score + 1e-9 for key in missed)

    @rule(which=HANDLES, what=st.sampled_from(["compact", "verify"]))
    def look_after(self, which, what):
        self.done[what] += 1
        getattr(self.handle(which).index, what)()

    @invariant()
    def same(self):
        for handle in self.handles:
            model, index = self.models[handle.place], handle.index
            self.compared[0] += 4 + bool(model.texts)  # calls: rows, len, fetch, vectors, search
            rows = list(index.rows())
            assert len(index) == len(model.texts)
            if self.ordered:
                assert rows == model.rows
            assert sorted(map(repr, rows)) == sorted(map(repr, model.rows))
            keys = list(model.texts)
            assert index.fetch(keys) == model.rows
            if keys:
                np.testing.assert_array_equal(index.vectors(keys), [unit(text) for text, _ in model.texts.values()])
            self.compare(handle, "man plays", 100)


class Local(Machine):
    """What an index in memory or in a folder does besides."""

    @rule(which=HANDLES, name=FOLDERS)
    def save(self, which, name):
        """To a new folder, or over the index of other handles, or over itself."""
        self.done["save"] += 1
        handle, place = self.handle(which), str(self.folder / name)
        handle.index.save(place)
        self.models[place] = self.models[handle.place].copy()
        handle.place = place

    @rule(name=FOLDERS, mmap=st.booleans())
    def load(self, name, mmap):
        place = str(self.folder / name)
        if place in self.models:
            self.done["load"] += 1
            self.open(SearchIndex.load(place, Signs(), mmap=mmap), place)

    @rule(which=HANDLES)
    def copy(self, which):
        """By pickle: an index in a folder is open twice, one in memory is another index."""
        self.done["copy"] += 1
        handle = self.handle(which)
        place = handle.place
        if place.startswith("memory"):
            place = f"memory {next(self.number)}"
            self.models[place] = self.models[handle.place].copy()
        self.open(pickle.loads(pickle.dumps(handle.index)), place)

    @precondition(lambda self: any(not place.startswith("memory") for place in self.models))
    @rule(name=FOLDERS, documents=DOCUMENTS, action=st.sampled_from(ACTIONS), within=st.booleans())
    def another_process(self, name, documents, action, within):
        """Changes the index, and is killed."""
        place = str(self.folder / name)
        if place not in self.models:
            return
        self.done[f"{action} by a process that is killed"] += 1
        model = self.models[place]
        try:
            if action in ("add", "upsert"):
                after, keys = model.put(documents, action == "upsert")
                said = self.other.do(place, action, documents, within)
                assert said == (None if within else keys)
                self.models[place] = model if within else after
            elif action == "delete" and model.texts:
                keys = list(model.texts)[: len(documents)]
                assert self.other.do(place, action, keys) == len(keys)
                self.models[place] = model.without(keys)
            else:
                said = self.other.do(place, "rows" if action == "delete" else action)
                assert said == (None if action == "compact" else model.rows)
        except RefusedError:
            assert "RowError" in self.other.do(place, action, documents)


class Graph(Local):
    """With an approximate index."""

    kind = "hnsw"
    exact = False


class Milvus(Machine):
    """Where equal scores come in any order, and rows, too."""

    ordered = False

    def new_kind(self) -> str:
        self.kind_ = f"milvus:{self.root / 'index.db'}#model_{next(self.number)}"
        return self.kind_

    @rule()
    def load(self):
        self.done["load"] += 1
        if len(self.handles) < 3:
            self.open(SearchIndex.load(self.kind_, Signs()), "memory 0")

    def teardown(self) -> None:
        for handle in self.handles[:1]:
            handle.index.storage.discard()


def lexical(model: Model, query: str, left: list[tuple[Any, float]]) -> list[tuple[Any, float]]:
    """(id, BM25) of Lucene's variant, k1 1.5, b 0.75, of those that are left and share a word with the query."""
    words = {key: text.split() for key, (text, _) in model.texts.items()}
    mean = sum(map(len, words.values())) / max(len(words), 1)
    scores = dict.fromkeys((key for key, _ in left), 0.0)
    for word in query.split():
        having = sum(word in own for own in words.values())
        for key in scores:
            times = words[key].count(word)
            idf = log(1 + (len(words) - having + 0.5) / (having + 0.5))
            scores[key] += idf * times / (times + 1.5 * (0.25 + 0.75 * len(words[key]) / mean))
    return sorted(((key, score) for key, score in scores.items() if score > 0), key=lambda pair: -pair[1])


def fused(dense, words, weight, side):
    """The least (`left`) or greatest (`right`) fused score of each, as equal ones may come in any order."""
    found = dict.fromkeys((key for key, _ in dense), 0.0)
    for share, ranked in ((weight, dense), (1 - weight, words)):
        for key, score in ranked:
            better = sum(other > score + 1e-5 for _, other in ranked)
            as_good = sum(other >= score - 1e-5 for _, other in ranked)
            found[key] += share * (DAMPING + 1) / (DAMPING + (as_good if side == "left" else better + 1))
    return found


@pytest.fixture(scope="module")
def other():
    with peer() as process:
        yield process


MILVUS = pytest.mark.skipif(
    not (find_spec("pymilvus") and find_spec("milvus_lite")), reason="pymilvus or milvus-lite is not installed"
)
SHORT = {Local: 6, Graph: 6}  # sequences; Milvus is too slow for more than the long form


@pytest.mark.parametrize(
    "machine", [Local, Graph, pytest.param(Milvus, marks=MILVUS)], ids=lambda machine: machine.__name__
)
def test_an_index_is_a_dictionary_that_is_searched_by_comparing_all(machine, other, monkeypatch, caplog):
    if machine not in SHORT and not LONG:
        pytest.skip("Milvus runs in the long form alone: make soak")
    monkeypatch.setattr(plan, "FLAT_BELOW", 10)
    monkeypatch.setattr(state, "LONGEST_TAIL", 12)
    memory = Path("/dev/shm")
    end, numbers, started = time.monotonic() + SECONDS / 3, count(SEED), time.monotonic()
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        machine.root, machine.other, machine.done, machine.compared = Path(folder), other, Counter(), [0]
        while True:
            options = settings(
                max_examples=5 if LONG else SHORT[machine], stateful_step_count=50 if LONG else 25, deadline=None,
                database=None, suppress_health_check=list(HealthCheck), print_blob=False,
            )  # fmt: skip
            run_state_machine_as_test(seed(next(numbers))(type(machine.__name__, (machine,), {})), settings=options)
            if not LONG or time.monotonic() > end:
                break
    total, seconds = machine.done.total(), time.monotonic() - started
    print(
        f"{machine.__name__}, seed {SEED}: {total} operations, {machine.compared[0]} calls to compare after them, "
        f"in {seconds:.0f} seconds: {dict(machine.done)}"
    )
