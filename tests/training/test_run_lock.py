"""One run at a time in a folder: whose lock it is, and what remains where there are no locks."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from simcse import ConfigError
from simcse.training.run_lock import RunLock


def test_a_run_of_another_host_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its lock is gone, so it was killed, or the file system knows locks of one host only."""
    lock = RunLock(tmp_path)
    lock.path.write_text(json.dumps({"pid": 7, "host": "far-away", "since": "2026-01-01 00:00:00"}))
    lock.acquire()
    assert "process 7 on far-away (since 2026-01-01 00:00:00) has left no word of its end" in capsys.readouterr().err
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_without_locks_the_file_is_what_there_is_to_go_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(handle: int, how: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("simcse.training.run_lock.fcntl.flock", no_locks)
    one, other = RunLock(tmp_path), RunLock(tmp_path)
    one.acquire()
    with pytest.raises(ConfigError, match=rf"process {os.getpid()} on .*, or remove .*\.lock if that one has ended"):
        other.acquire()
    one.release()
    other.acquire()
    other.release()
