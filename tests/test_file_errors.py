"""What the system refuses while files are replaced: which error the user sees, and what lies there afterwards."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from simcse import DataError, files
from simcse.files import (
    check_version,
    check_writable,
    moved,
    naming_target,
    removed,
    replaced_file,
    replaced_folder,
    sweep,
    sync,
)

TEMPORARY = ".best.simcse-0123456789ab.tmp"


def raising(*codes: int) -> Callable[..., None]:
    """A function that fails with each of these errors in turn, then does nothing."""
    left = list(codes)

    def call(*arguments: object, **options: object) -> None:
        if left:
            code = left.pop(0)
            raise OSError(code, os.strerror(code))

    return call


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EIO, errno.ENOSPC])
def test_a_file_system_that_syncs_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Some network file systems do not; that a file is not synced, or a folder for another reason, is an error."""
    file = tmp_path / "file"
    file.write_text("x")
    for place in (tmp_path, file):
        monkeypatch.setattr(os, "fsync", raising(code))
        if place == tmp_path and code not in (errno.EIO, errno.ENOSPC):
            sync(place)
        else:
            with pytest.raises(OSError, match=os.strerror(code)):
                sync(place)


def during(error: Exception, cause: Exception) -> Exception:
    """`error` as raised while `cause` was handled."""
    error.__context__ = cause
    return error


SHORT = OSError("16384 requested and 0 written")  # numpy's, without a number
ERRORS: dict[str, tuple[Exception, int | None]] = {
    "a number": (OSError(errno.ENOSPC, "any text"), errno.ENOSPC),
    "of the temporary file": (OSError(errno.EFBIG, "any text", "/there/.x.simcse-0/new"), errno.EFBIG),
    "of another file": (OSError(errno.EFBIG, "any text", "/there/y"), None),
    "a pipe": (BrokenPipeError(errno.EPIPE, "any text"), None),
    "safetensors": (RuntimeError("I/O error: File too large (os error 27)"), errno.EFBIG),
    "tokenizers, without a text": (RuntimeError("(os error 28)"), errno.ENOSPC),
    "faiss": (RuntimeError("Error: could not open x for writing: Read-only file system"), errno.EROFS),
    "quota": (RuntimeError("write error: Disk quota exceeded"), errno.EDQUOT),
    "sqlite": (sqlite3.OperationalError("database or disk is full"), errno.ENOSPC),
    "torch, with its cause": (during(RuntimeError("[inline_container.cc:1] x"), OSError(27, "")), errno.EFBIG),
    "torch, with another": (during(RuntimeError("inline_container"), ValueError()), errno.EIO),
    "torch, with one that says nothing": (during(RuntimeError("inline_container"), OSError("x")), errno.EIO),
    "numpy": (SHORT, errno.EIO),
    "none about writing": (ValueError("16384 requested"), None),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("free", [0, 1])
def test_errors_of_libraries_name_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, free: int
) -> None:
    """Where a library keeps the cause to itself, a disk without room is taken for it."""
    error, code = ERRORS[name]

    def usage(place: Path) -> object:
        assert place == tmp_path
        return shutil._ntuple_diskusage(2, 2 - free, free)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    kind = type(error) if code is None else OSError
    with pytest.raises(kind) as caught, naming_target(tmp_path / "x", "/there/.x.simcse-"):
        raise error
    if code is None:
        assert caught.value is error
    else:
        expected = errno.ENOSPC if code == errno.EIO and not free else code
        assert (caught.value.errno, caught.value.strerror) == (expected, os.strerror(expected))
        assert caught.value.filename == str(tmp_path / "x")
        assert caught.value.__cause__ is error


@pytest.mark.parametrize(("flags", "code"), [(0, errno.EACCES), (os.ST_RDONLY, errno.EROFS)])
def test_whether_a_place_can_be_written_is_known_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: int, code: int
) -> None:
    """As root, any folder can be written to: what the system answers to others is put in its place."""
    target = tmp_path / "new" / "deeper" / "x"
    check_writable(target)
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match=r"file/below/x"):
        check_writable(tmp_path / "file" / "below" / "x")
    asked = []
    monkeypatch.setattr(os, "access", lambda place, how: asked.append((place, how)))
    monkeypatch.setattr(os, "statvfs", lambda place: type("Status", (), {"f_flag": flags}))
    with pytest.raises(OSError, match=os.strerror(code)) as caught:
        check_writable(target)
    assert (caught.value.errno, caught.value.filename) == (code, str(target))
    assert asked == [(tmp_path, os.W_OK)]


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are replaced all the same; what a killed writer left stays, as nobody knows whether its writer lives."""
    monkeypatch.setattr(fcntl, "flock", raising(*[errno.ENOTSUP] * 20))
    (tmp_path / TEMPORARY).mkdir()
    for text in ("one", "two"):
        with replaced_folder(tmp_path / "best") as new:
            (new / "a").write_text(text)
        assert (tmp_path / "best" / "a").read_text() == text
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [TEMPORARY, "best"]


def test_a_sweep_that_is_faster_than_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep of another process may take a new temporary folder for a left-over, until it is locked."""
    real, taken = fcntl.flock, []

    def slow(handle: int, how: int) -> None:
        if not taken:
            taken.extend(tmp_path.glob(".best.simcse-*"))
            shutil.rmtree(taken[0])
        real(handle, how)

    monkeypatch.setattr(fcntl, "flock", slow)
    with replaced_folder(tmp_path / "best") as new:
        assert new.parent not in taken
        (new / "a").write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_two_sweeps_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the other one has removed since it was listed is passed over, and the next one removed."""
    (tmp_path / TEMPORARY).mkdir()
    listed = [tmp_path / ".gone.simcse-0123456789ab.tmp", tmp_path / TEMPORARY]
    with monkeypatch.context() as patch:
        patch.setattr(files, "_left_over", lambda folder, name: listed)
        sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []
    sweep(tmp_path / "no such folder")


@pytest.mark.parametrize("content", ["new", "old"])
@pytest.mark.parametrize("there", [False, True])
def test_a_sweep_finishes_what_was_cut_between_two_renames(tmp_path: Path, content: str, there: bool) -> None:
    """The old state lies aside, its place is free: the new one goes there, or the old one back where none is left. A
    folder that lies there meanwhile is another writer's, and stays.
    """
    place = tmp_path / TEMPORARY
    for name in {"old", content}:
        (place / name).mkdir(parents=True)
        (place / name / "a").write_text(name)
    (place / "lock").write_text("best")
    if there:
        (tmp_path / "best").mkdir()
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
    found = tmp_path / "best" / "a"
    assert not found.exists() if there else found.read_text() == content


@pytest.mark.parametrize("way", ["another system", "an old library", "an old kernel", "renamed aside"])
def test_where_two_folders_cannot_be_exchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    target = tmp_path / "best"
    target.mkdir()
    if way == "another system":
        monkeypatch.setattr(sys, "platform", "darwin")
    elif way == "an old library":
        monkeypatch.setattr(ctypes, "CDLL", lambda name, use_errno: object())
    elif way == "an old kernel":
        monkeypatch.setattr(files, "EXCHANGE", 1 << 20)  # flags that it does not know are EINVAL
    else:
        monkeypatch.setattr(files, "_exchanged", lambda one, other: False)
    with replaced_folder(target) as new:
        (new / "a").write_text("x")
    assert (target / "a").read_text() == "x"
    assert list(tmp_path.iterdir()) == [target]


def test_an_exchange_that_fails_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    with pytest.raises(FileNotFoundError) as caught:
        files._exchanged(tmp_path / "one", tmp_path / "two")
    code = errno.ENOENT
    assert (caught.value.errno, caught.value.strerror) == (code, os.strerror(code))
    assert caught.value.filename == str(tmp_path / "two")


@pytest.mark.parametrize(
    ("codes", "works"),
    [
        ([errno.ENOENT] * 9, True),
        ([errno.EEXIST, errno.ENOTEMPTY], True),
        ([errno.ENOENT] * 10, False),
        ([errno.EACCES], False),
    ],
)
def test_a_place_that_others_write_to_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codes: list[int], works: bool
) -> None:
    """Nine times; and what nobody else causes is an error at once."""
    target, fail = tmp_path / "best", raising(*codes)
    target.mkdir()
    (target / "a").write_text("old")
    real = files._exchanged

    def exchange(one: Path, other: Path) -> bool:
        fail()
        return real(one, other)

    monkeypatch.setattr(files, "_exchanged", exchange)
    expected = nullcontext() if works else pytest.raises(OSError, match=os.strerror(codes[-1]))
    with expected as caught, replaced_folder(target) as new:
        (new / "a").write_text("new")
    assert caught is None or caught.value.filename == str(target)
    assert (target / "a").read_text() == ("new" if works else "old")
    assert list(tmp_path.iterdir()) == [target]


def test_a_writer_that_comes_between_two_renames_is_put_aside_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was put aside first has to go: nothing can be renamed to where it lies."""
    target, real, came = tmp_path / "best", Path.rename, []

    def rename(path: Path, to: Path) -> Path:
        if path.name == "new" and not came:
            came.append(to)
            to.mkdir()
            (to / "a").write_text("another's")
        return real(path, to)

    target.mkdir()
    (target / "a").write_text("old")
    monkeypatch.setattr(files, "_exchanged", lambda one, other: False)
    monkeypatch.setattr(Path, "rename", rename)
    with replaced_folder(target) as new:
        (new / "a").write_text("new")
    assert came
    assert (target / "a").read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_a_failed_rename_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, real = tmp_path / "best", Path.rename

    def rename(path: Path, to: Path) -> Path:
        if path.name == "new":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path, to)

    target.mkdir()
    (target / "a").write_text("old")
    monkeypatch.setattr(files, "_exchanged", lambda one, other: False)
    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError, match="Input/output error"), replaced_folder(target) as new:
        (new / "a").write_text("new")
    assert (target / "a").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_that_fails_is_not_left_over(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replaced_file(tmp_path / "x.json"):
        pass  # nothing was written
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        moved(tmp_path / "x", tmp_path / "y")


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (1, None),
        (3, None),
        (4, "x.json: found format version 4, this program knows 3; upgrade simcse"),
        (0, "x.json: damaged: found format version 0, expected 1 to 3; restore a copy"),
        (True, "x.json: damaged: found format version True, expected 1 to 3; restore a copy"),
        ("2", "x.json: damaged: found format version '2', expected 1 to 3; restore a copy"),
        (None, "x.json: damaged: found format version None, expected 1 to 3; restore a copy"),
    ],
)
def test_files_of_a_newer_program_are_told_from_damaged_ones(found: object, told: str | None) -> None:
    expected = nullcontext() if told is None else pytest.raises(DataError, match=f"^{told}$")
    with expected:
        check_version("x.json", found, 3, DataError)


def test_a_file_is_removed_durably_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(files, "sync", synced.append)
    (tmp_path / "x").write_text("x")
    removed(tmp_path / "x")
    assert (list(tmp_path.iterdir()), synced) == ([], [tmp_path])
    removed(tmp_path / "x")
    assert synced == [tmp_path]
