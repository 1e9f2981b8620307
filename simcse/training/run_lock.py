"""One run at a time in a run folder."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

from simcse.errors import ConfigError
from simcse.files import make_folder, naming_target, sweep

__all__ = ["RunLock"]

NAME = ".lock"
SECONDS_TO_DIE = 1  # that a run which was killed just now may need to end


class RunLock:
    """Belongs to the process that writes a run folder, until it ends or dies; a file in the folder says who that is."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._handle: int | None = None

    @property
    def locked(self) -> bool:
        """Whether it is ours."""
        return self._handle is not None

    def acquire(self) -> None:
        """Acquire it unless it is ours already, and clear up after killed runs.

        Raises:
            ConfigError: another run has it; names that.
            OSError: the folder cannot be written.
        """
        if self._handle is not None:
            return
        with naming_target(self.path.parent, self.path):
            make_folder(self.path.parent)
            patient_until = time.monotonic() + SECONDS_TO_DIE
            while self._handle is None:
                self._handle = self._locked(patient=time.monotonic() < patient_until)
            before = self._read()
            if before and before["host"] != socket.gethostname():
                print(
                    f"{self.path.parent}: the run of {_shown(before)} has left no word of its end; if it still runs, "
                    "stop one of the two",
                    file=sys.stderr,
                )
            os.ftruncate(self._handle, 0)
            owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
            os.pwrite(self._handle, json.dumps(owner).encode(), 0)
        sweep(self.path.parent)

    def release(self) -> None:
        """Release it, and leave nothing behind."""
        if self._handle is not None:
            self.path.unlink(missing_ok=True)
            os.close(self._handle)
            self._handle = None

    def _locked(self, *, patient: bool) -> int | None:
        """A handle that locks the file; None if another run has just removed it, or may be about to."""
        handle, remedy = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), ""
        owner = os.pread(handle, 4096, 0)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except BlockingIOError:
            free = False
        except OSError:  # a file system without locks: all there is to go by is what the file says
            free, remedy = not owner, f", or remove {self.path} if that one has ended"
        if free and os.fstat(handle).st_nlink:
            return handle
        os.close(handle)
        if not free:
            if not patient:
                raise ConfigError(
                    f"output_dir={self.path.parent}: {_shown(_parsed(owner))} is writing a run there; wait for its "
                    f"end or stop it, or name another folder{remedy}"
                )
            time.sleep(0.05)
        return None

    def _read(self) -> dict[str, Any] | None:
        assert self._handle is not None
        return _parsed(os.pread(self._handle, 4096, 0))


def _parsed(owner: bytes) -> dict[str, Any] | None:
    """What a file says; None if it says nothing of use: the run was killed, has just begun, or it is damaged."""
    try:
        found = json.loads(owner)
        return {"pid": int(found["pid"]), **{key: " ".join(str(found[key]).split()) for key in ("host", "since")}}
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _shown(owner: dict[str, Any] | None) -> str:
    return f"process {owner['pid']} on {owner['host']} (since {owner['since']})" if owner else "another process"
