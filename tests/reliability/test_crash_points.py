"""A process that ends without a word at any line of a change of an index: the old state or the new one, whole.

The line at which a child dies is drawn from all that run in `simcse/search` and `simcse/files.py`. The short form dies
some 20 times, the long form 384 times.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import traceback
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from simcse import SearchIndex
from simcse.search.local import state
from simcse.search.nearest import plan

SOAK = os.environ.get("SIMCSE_SOAK") == "1"
POINTS = 64 if SOAK else 3  # of each change
TEXTS = [f"text number {i}" for i in range(120)]
TRACED = ("/simcse/search/", "/simcse/files.py")


def encode(texts: list[str]) -> np.ndarray:
    rows = [np.random.default_rng(zlib.crc32(text.encode())).standard_normal(16) for text in texts]
    return np.array(rows, np.float32)


CHANGES: dict[str, Callable[[SearchIndex, Path], Any]] = {
    "add": lambda index, folder: index.add([f"more {i}" for i in range(60)]),
    "upsert": lambda index, folder: index.upsert([f"other {i}" for i in range(40)], ids=list(range(10, 90, 2))),
    "delete": lambda index, folder: index.delete(range(10, 70)),  # so many that it compacts
    "compact": lambda index, folder: index.compact(),
    "optimize": lambda index, folder: index.optimize(),
    "save-over": lambda index, folder: SearchIndex.build(TEXTS[50:], encode).save(folder),
}


def serve() -> None:
    """For each line `NAME AT FOLDER` of standard input, die at line AT of a change, in a process of its own; print 0 if
    it did, else how many lines there were.

    It forks before any thread runs: OpenMP's do not live on in a child.
    """
    plan.FLAT_BELOW, state.LONGEST_TAIL = 10, 50  # so that an addition goes into the approximate index
    for line in sys.stdin:
        name, at, folder = line.rstrip("\n").split(" ", 2)
        if (child := os.fork()) == 0:
            _die(CHANGES[name], Path(folder), int(at))
        if (status := os.waitpid(child, 0)[1]) not in (0, 9 << 8):
            print("failed with status", status, flush=True)
        elif status:
            print(0, flush=True)


def _die(change: Callable[[SearchIndex, Path], Any], folder: Path, at: int) -> None:
    lines = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal lines
        if not any(part in frame.f_code.co_filename for part in TRACED):
            return None
        lines += event == "line"
        if lines == at:
            os._exit(9)
        return trace

    sys.settrace(trace)
    try:
        change(SearchIndex.load(folder, encode), folder)
        sys.settrace(None)
        print(lines, flush=True)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def contents(index: SearchIndex) -> dict[Any, str]:
    return {key: text for key, text, _ in index.rows()}


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", "import test_crash_points; test_crash_points.serve()"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, cwd=Path(__file__).parent
    ) as process:
        yield process
        process.terminate()


@pytest.mark.parametrize("name", CHANGES)
def test_a_process_that_ends_anywhere_leaves_the_old_state_or_the_new(name, server, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "FLAT_BELOW", 10)
    monkeypatch.setattr(state, "LONGEST_TAIL", 50)
    kind = "hnsw" if name in ("add", "optimize", "compact") else "flat"
    before, folder = tmp_path / "before", tmp_path / "idx"
    SearchIndex.build(TEXTS, encode, kind=kind, target_recall=0.1).save(before)
    SearchIndex.load(before, encode).delete([7, 9])
    old = contents(SearchIndex.load(before))
    shutil.copytree(before, folder)

    def died(at: int) -> int:
        server.stdin.write(f"{name} {at} {folder}\n")
        return int(server.stdout.readline())

    lines = died(-1)
    assert lines, "the change itself works"
    new = contents(SearchIndex.load(folder))
    seen = set()
    for number in range(POINTS):
        shutil.rmtree(folder)
        shutil.copytree(before, folder)
        assert died(1 + lines * number // POINTS) == 0
        index = SearchIndex.load(folder, encode)
        index.verify()
        found = contents(index)
        assert found in (old, new)
        seen.add(found == new)
        key = next(iter(found))
        assert index.search(found[key], top_k=1)[0][0].text == found[key]
        assert np.allclose(
            index.vectors(list(found)), SearchIndex.build(list(found.values()), encode).storage.snapshot().matrix
        )
        index.add(["at last"])
        index.verify()
        parts = sorted(path.name.split("-")[0] for path in folder.iterdir() if not path.name.startswith("."))
        assert parts in (["ann", "manifest.json", "store", "vectors"], ["manifest.json", "store", "vectors"])
        assert {path.name for path in folder.parent.iterdir()} == {"before", "idx"}
    assert False in seen or new == old
