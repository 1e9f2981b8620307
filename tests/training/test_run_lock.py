"""One run at a time in a folder: whose lock it is, and what remains where there are no locks."""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import threading
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
    monkeypatch.setattr("simcse.training.run_lock.SECONDS_TO_DIE", 0)
    one, other = RunLock(tmp_path), RunLock(tmp_path)
    one.acquire()
    with pytest.raises(ConfigError, match=rf"process {os.getpid()} on .*, or remove .*\.lock if that one has ended"):
        other.acquire()
    one.release()
    other.acquire()
    other.release()


def test_who_holds_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By process, host and time; a file that says nothing of use is another process."""
    monkeypatch.setattr("simcse.training.run_lock.SECONDS_TO_DIE", 0)
    one, other = RunLock(tmp_path), RunLock(tmp_path)
    one.acquire()
    owner = (
        rf"process {os.getpid()} on {re.escape(socket.gethostname())} \(since \d{{4}}(-\d\d){{2}} \d\d(:\d\d){{2}}\)"
    )
    told = "is writing a run there; wait for its end or stop it, or name another folder$"
    with pytest.raises(ConfigError, match=rf"^output_dir={tmp_path}: {owner} {told}"):
        other.acquire()
    for content in (b"", b"[1]", b'{"pid": 1}', b'{"pid": "x", "host": "h", "since": "s"}', b"\xff", b"[" * 4096):
        one.path.write_bytes(content)
        with pytest.raises(ConfigError, match=rf"^output_dir={tmp_path}: another process {told}"):
            other.acquire()
    assert not other.locked
    one.release()


def test_a_run_that_is_about_to_end_is_waited_for(tmp_path: Path) -> None:
    one, other = RunLock(tmp_path), RunLock(tmp_path)
    one.acquire()
    end = threading.Timer(0.2, one.release)
    end.start()
    other.acquire()
    end.join()
    assert (one.locked, other.locked) == (False, True)
    with other.path.open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    other.release()


def test_what_killed_runs_left_goes_and_a_removed_file_is_no_error(tmp_path: Path) -> None:
    """To remove the file is what users are told where there are no locks."""
    (tmp_path / ".last.simcse-0123456789ab.tmp" / "new").mkdir(parents=True)
    lock = RunLock(tmp_path)
    lock.acquire()
    assert list(tmp_path.iterdir()) == [lock.path]
    lock.path.unlink()
    lock.release()
    assert not lock.locked


def test_a_lock_that_cannot_be_written_names_the_folder(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        RunLock(tmp_path).acquire()
    assert caught.value.filename == str(tmp_path)
