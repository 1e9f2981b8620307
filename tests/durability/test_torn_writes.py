"""A power cut at any moment, with any part of what was not synced on the disk: the old state or the new one, whole.

Each scenario runs once while `recorder.c` writes down all that it does to its files, SQLite's own writes among it. Then
`disk.py` makes of the record what a disk may hold after a cut behind each operation, and `promises.py` opens that: as a
kill leaves it; with nothing that was not synced; with names, sizes or bytes ahead of the rest; with the last write cut
at each sector; and with sectors and names drawn at random. The short form looks at a sample, the long form at all, and
draws 100,000 times.
"""

from __future__ import annotations

import hashlib
import logging
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from durability import promises, scenarios
from durability.disk import Disk, Tree
from durability.promises import NONE, PROMISES, SAVED, Promise, digest
from durability.recording import Event, recorded
from soak import LONG, SECONDS, SEED

# in the long form; states in the short form, about
DRAWS = {"index": 50_000, "run": 15_000, "vectors": 15_000, "checkpoint": 15_000, "kernel": 3_000, "aside": 2_000}
SHORT = {"index": 200, "run": 120, "vectors": 120, "checkpoint": 120, "kernel": 60, "aside": 120}
DRAWS_A_TURN = 4  # behind each operation
SHOWN = 5  # failures

State = tuple[str, Callable[[], Tree]]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """In memory where there is such a place: states are written down by the thousand."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def recordings(place: Path) -> dict[str, list[Event]]:
    return recorded([*PROMISES, *NONE], place)


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a promise does to a folder is done as the scenario did it."""
    from simcse.search.local import state
    from simcse.search.nearest import plan

    monkeypatch.setattr(plan, "FLAT_BELOW", plan.FLAT_BELOW)
    monkeypatch.setattr(state, "LONGEST_TAIL", state.LONGEST_TAIL)
    scenarios.small_approximate_indexes()
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def write_down(tree: Tree, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in tree.items():
        if content is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content)
    return folder


def states(disk: Disk, rng: random.Random, turn: int) -> Iterator[State]:
    """What a cut behind the last operation may leave: in the first turn what can be listed, in all some drawn ones."""
    if turn == 0:
        ways = (disk.seen, disk.synced, disk.names_first, disk.sizes_first, disk.bytes_first)
        yield from ((way.__name__, way) for way in ways)
        yield from (("cut", lambda cut=cut: cut) for cut in disk.cuts())  # type: ignore[misc]
    yield from (("drawn", lambda: disk.drawn(rng)) for _ in range(DRAWS_A_TURN))


def replayed(events: list[Event]) -> Iterator[tuple[int, Disk, str | None, str | None]]:
    """Number of each operation, the disk behind it, and the marks before and after it."""
    disk, old = Disk(), None
    marks = [(number, event.path) for number, event in enumerate(events) if event.kind == "mark"]
    for number, event in enumerate(events):
        disk.do(event)
        if event.kind == "mark":
            old = event.path
            yield number, disk, old, old
        else:
            yield number, disk, old, next((text for at, text in marks if at > number), None)


def broken(
    events: list[Event], promise: Promise, place: Path, *, turns: int = 1, share: float = 1, seconds: float = 600
) -> list[str]:
    """Where a promise does not hold.

    Args:
        events: recorded.
        promise: of `promises.py`.
        place: for the states.
        turns: through all operations.
        share: of the states that are looked at.
        seconds: after which no more are.
    """
    rng, seen, failures, checked, drawn = random.Random(SEED), set(), [], 0, 0
    end = time.monotonic() + seconds
    for turn in range(turns):
        for number, disk, old, new in replayed(events):
            for kind, make in states(disk, rng, turn) if time.monotonic() < end else ():
                at_a_mark = events[number].kind == "mark" and kind in ("seen", "synced")
                if not at_a_mark and rng.random() > share:
                    continue
                tree = make()
                drawn += kind == "drawn"
                key = hashlib.sha256(repr((tree, old, new)).encode()).digest()
                if key in seen:
                    continue
                seen.add(key)
                checked += 1
                try:
                    promise(write_down(tree, place / "state"), old, new)
                except Exception as error:
                    event = events[number]
                    failures.append(f"{kind} behind operation {number} ({event.kind} {event.path}): {error!r:.300}")
    print(f"{promise.__name__}, seed {SEED}: {len(events)} operations, {drawn} drawn, {checked} different states")
    return failures


@pytest.mark.parametrize("name", [*PROMISES, *NONE])
def test_the_record_is_complete(name: str, recordings: dict[str, list[Event]], place: Path) -> None:
    """Replayed, it gives what lies in the folder, byte for byte."""
    disk = Disk()
    for event in recordings[name]:
        disk.do(event)
    real = {
        path.relative_to(place / "work" / name).as_posix(): path.read_bytes() if path.is_file() else None
        for path in (place / "work" / name).rglob("*")
    }
    assert disk.seen() == real
    assert real


@pytest.mark.parametrize("name", PROMISES)
def test_the_old_state_or_the_new_one(name: str, recordings: dict[str, list[Event]], place: Path) -> None:
    events = recordings[name]
    if name == "checkpoint":
        for number, disk, old, _ in replayed(events):
            if events[number].kind == "mark" and old is not None:
                folder = write_down(disk.seen(), place / "state")
                SAVED[old] = {part: digest(folder / part) for part in promises.FOLDERS}
    if LONG:
        turns = -(-DRAWS[name] // (DRAWS_A_TURN * len(events)))
        seconds = SECONDS * DRAWS[name] / sum(DRAWS.values())
        failures = broken(events, PROMISES[name], place, turns=turns, seconds=seconds)
    else:
        failures = broken(events, PROMISES[name], place, share=SHORT[name] / (9 * len(events)))
    assert not failures, "\n".join([f"{len(failures)} states", *failures[:SHOWN]])


@pytest.mark.parametrize("name", NONE)
def test_what_is_written_without_care_is_found_broken(
    name: str, recordings: dict[str, list[Event]], place: Path
) -> None:
    failures = broken(recordings[name], NONE[name], place)
    kinds = {failure.split(" ")[0] for failure in failures}
    assert {"synced", "sizes_first", "drawn"} <= kinds
    assert ("seen" in kinds) == (name == "naive")  # a kill alone does no harm to what is renamed whole
