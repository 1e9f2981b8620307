"""Another process that changes an index in a folder, and dies by SIGKILL without closing it: in the middle of an
addition, with all rows written and nothing committed, or as soon as the change was reported as done.

Each is forked from one process that has everything imported: it starts at once.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def work(folder: str, action: str, argument: Any, killed_within: bool) -> Any:
    """Do something to the index in a folder; what it returned, or the name of the error."""
    from index_model import Signs

    from simcse import SearchError, SearchIndex

    try:
        index = SearchIndex.load(folder, Signs())
        if action in ("add", "upsert"):
            options: dict[str, Any] = {"advance": die} if killed_within else {}
            return index.add_documents(iter(argument), upsert=action == "upsert", **options)
        if action == "delete":
            return index.delete(argument)
        if action == "compact":
            return index.compact()
        return list(index.rows())
    except (SearchError, OSError) as error:
        return repr(error)


def serve() -> None:
    import simcse.search.index  # noqa: F401

    commands, answers = os.fdopen(0, "rb"), os.fdopen(1, "wb")
    while True:
        try:
            order = pickle.load(commands)
        except EOFError:
            return
        reader, writer = os.pipe()
        if not (child := os.fork()):
            os.write(writer, pickle.dumps(work(*order)))
            die()
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            said = pipe.read()
        os.waitpid(child, 0)
        pickle.dump(said, answers)
        answers.flush()


class Peer:
    """Where to order the work of another process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def do(self, folder: str, action: str, argument: Any = None, killed_within: bool = False) -> Any:
        """See `work`; None as well if it died before it was done. The process is dead on return."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(pickle.dumps((folder, action, argument, killed_within)))
        self._process.stdin.flush()
        said = pickle.load(self._process.stdout)
        return pickle.loads(said) if said else None


@contextmanager
def peer() -> Iterator[Peer]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    command = [sys.executable, "-c", "from index_peer import serve; serve()"]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield Peer(process)
        assert process.stdin is not None
        process.stdin.close()
