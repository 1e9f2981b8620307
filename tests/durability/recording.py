"""A process runs with `recorder.c` between it and its files: everything that it did to a folder, in order."""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

__all__ = ["BEGIN", "Event", "mark", "recorded"]

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
HEAD = struct.Struct("=c4Q")
BEGIN = "begin "


@dataclass(frozen=True)
class Event:
    """One operation of `recorder.c`.

    Attributes:
        kind: create | mkdir | write | truncate | sync | rename | exchange | remove | mark.
        number: of the file, as the system counts them; a number is used again once its file is gone.
        position: of the first byte written; the new size.
        data: bytes written.
        path: below the folder, or the text of a mark.
        target: the new name.
    """

    kind: str
    number: int = 0
    position: int = 0
    data: bytes = b""
    path: str = ""
    target: str = ""


KINDS = {
    b"c": "create",
    b"d": "mkdir",
    b"w": "write",
    b"t": "truncate",
    b"s": "sync",
    b"r": "rename",
    b"x": "exchange",
    b"u": "remove",
    b"m": "mark",
}


def mark(text: str) -> None:
    """Write a line into the log of the recording that this process runs in."""
    function: Callable[[bytes], Any] = ctypes.CDLL(None).simcse_mark
    function(text.encode())


def recorded(names: Sequence[str], folder: Path) -> dict[str, list[Event]]:
    """What functions of `scenarios.py` do, each to an empty folder of its name, one after the other in one process.

    Args:
        names: of the functions; each gets its folder.
        folder: where they work, in `work`; the recorder and its log lie beside.
    """
    compiler = shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("recording what a process does to its files needs Linux and a C compiler")
    library, log, work = folder / "recorder.so", folder / "log", folder / "work"
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, HERE / "recorder.c", "-ldl"], check=True)
    work.mkdir()
    environment = os.environ | {
        "LD_PRELOAD": str(library), "SIMCSE_RECORD_ROOT": str(work), "SIMCSE_RECORD_LOG": str(log),
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests"))), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    program = "import sys; from durability import scenarios; scenarios.main(sys.argv[1], sys.argv[2:])"
    subprocess.run([sys.executable, "-c", program, work, *names], check=True, env=environment)
    found: dict[str, list[Event]] = {}
    for event in _read(log.read_bytes()):
        if event.kind == "mark" and event.path.startswith(BEGIN):
            name = event.path.removeprefix(BEGIN)
            found[name] = []
        elif found:
            below = f"{work / name}/"
            found[name].append(
                replace(event, path=event.path.removeprefix(below), target=event.target.removeprefix(below))
            )
    return found


def _read(log: bytes) -> Iterator[Event]:
    at = 0
    while at < len(log):
        kind, number, position, first, second = HEAD.unpack_from(log, at)
        at += HEAD.size
        one, two = log[at : at + first], log[at + first : at + first + second]
        at += first + second
        if kind == b"w":
            yield Event(KINDS[kind], number, position, data=one)
        else:
            yield Event(KINDS[kind], number, position, path=one.decode(), target=two.decode())
