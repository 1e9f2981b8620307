"""Writing so that a kill or a power cut at any moment leaves the old state or the new one, whole.

What is new is written into a temporary folder beside its target and synced; it takes the target's place in one step,
the parent folder is synced, and only then does the old state go. Readers neither need a repair nor make one. A
temporary folder is locked while its writer lives: so the next writer of the same target knows what a killed one left,
and removes it.

    .NAME.simcse-0123456789ab.tmp/lock     locked by the writer; holds NAME
                                  new.EXT  what is to become NAME
                                  old      what was NAME, for a moment, where the system cannot exchange two folders
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from simcse.errors import SimCSEError

__all__ = [
    "check_version",
    "check_writable",
    "is_there",
    "make_folder",
    "moved",
    "naming_target",
    "removed",
    "replaced_file",
    "replaced_folder",
    "sha256_of",
    "sweep",
    "sync",
    "sync_tree",
]

TEMPORARY = re.compile(r"\.(?P<name>.+)\.simcse-[0-9a-f]{12}\.tmp")
LONGEST = 180  # bytes of a target's name in that of its temporary folder: file systems allow 255
ATTEMPTS = 10  # at a place that other writers are after as well
EXCHANGE = 2  # RENAME_EXCHANGE of Linux


@contextmanager
def replaced_file(target: str | Path) -> Iterator[Path]:
    """Yield a name with the target's extension to write to; the file replaces the target, durably, at the block's end.

    When the block fails, nothing of it is left. Where the target is a symbolic link, what it names is replaced.

    Raises:
        OSError: the file cannot be written, or the target is a folder, a pipe or a device; it is as it was.
    """
    place = _place(target)
    if place.exists() and not place.is_file():
        raise OSError(errno.EINVAL, "is there already, and no regular file", str(target))
    with naming_target(target, _prefix(place)), _temporary(place) as beside:
        new = beside / f"new{place.suffix}"
        yield new
        sync(new)
        new.replace(place)
        sync(place.parent)


@contextmanager
def replaced_folder(target: str | Path) -> Iterator[Path]:
    """Yield an empty folder to fill; it replaces the target, durably and as a whole, at the block's end.

    When the block fails, nothing of it is left. Where the target is a symbolic link, what it names is replaced.

    Raises:
        OSError: the folder cannot be written, or the target is a file; it is as it was.
    """
    place = _place(target)
    if place.exists() and not place.is_dir():
        raise OSError(errno.EINVAL, "is there already, and no folder", str(target))
    with naming_target(target, _prefix(place)), _temporary(place) as beside:
        new = beside / "new"
        new.mkdir()
        yield new
        sync_tree(new)
        _put(new, place, beside / "old")
        sync(place.parent)


def moved(source: Path, target: Path) -> None:
    """Rename a finished file or folder, durably; a file replaces an older one."""
    sync_tree(source)
    source.replace(target)
    sync(target.parent)


def removed(file: Path) -> None:
    """Remove a file, durably, if it is there."""
    if file.exists():
        file.unlink(missing_ok=True)
        sync(file.parent)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, durably, unless they are there."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    for place in reversed(missing):
        place.mkdir(exist_ok=True)
        sync(place.parent)
    if not missing and not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))


def check_version(file: str | Path, found: Any, known: int, error: type[SimCSEError]) -> None:
    """Refuse a file of a format that came after this program.

    Args:
        file: for the error.
        found: the version that it says. Files from before they said one are of version 1: give 1 in its place.
        known: the newest version that this program reads.
        error: to raise.

    Raises:
        SimCSEError: `error`; the version is newer, or no version.
    """
    if type(found) is not int or found < 1:
        raise error(f"{file}: damaged: found format version {found!r}, expected 1 to {known}; restore a copy")
    if found > known:
        raise error(f"{file}: found format version {found}, this program knows {known}; upgrade simcse")


def sha256_of(file: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Make a file's bytes durable, or a folder's names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:  # some network file systems sync no folder
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP) or not path.is_dir():
            raise
    finally:
        os.close(handle)


def sync_tree(path: Path) -> None:
    """Make a file durable, or a folder with everything in it."""
    for folder, _, files in os.walk(path, topdown=False):
        for name in files:
            sync(Path(folder, name))
        sync(Path(folder))
    if path.is_file():
        sync(path)


def sweep(folder: Path, name: str | None = None) -> None:
    """Remove what killed writers of any target in `folder`, or of one, left behind. What a living writer holds stays.

    A replacement that was killed between its two renames, where the system cannot exchange folders, is finished.
    """
    for path in _left_over(folder, name):
        with suppress(OSError):  # none of ours, no locks here, or another one sweeps: it does no harm where it lies
            if (handle := _locked(path, fcntl.LOCK_NB)) is None:
                continue
            try:
                target = os.read(handle, 4096).decode("utf-8", "surrogateescape")
                if (path / "old").exists() and target and not (folder / target).exists():
                    (path / ("new" if (path / "new").exists() else "old")).rename(folder / target)
                sync(folder)  # what has taken the old state's place is to be durable before that goes
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(handle)


@contextmanager
def naming_target(target: str | Path, temporary: str | Path | None = None) -> Iterator[None]:
    """Raise what fails on writing `target` as an `OSError` that names it.

    A full disk is an error without a file name in Python, and something else again in each library that writes by
    itself: safetensors, tokenizers, torch, faiss, SQLite.

    Args:
        target: what is written.
        temporary: where it is written first; errors name the target in its place.

    Raises:
        OSError: with `errno`, `strerror` and `filename`. Errors about other files pass as they are.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except Exception as error:
        named = getattr(error, "filename", None)
        if named is not None and not (temporary and str(named).startswith(str(temporary))):
            raise
        if (code := _error_code(error, Path(target))) is None:
            raise
        raise OSError(code, os.strerror(code), str(target)) from error


def is_there(path: Path) -> bool:
    """Whether the system knows the path; False, too, for names that it cannot accept."""
    try:
        path.stat()
    except (OSError, ValueError):
        return False
    return True


def check_writable(target: str | Path) -> None:
    """Raise the `OSError` that writing `target` would end in, before hours of work: no permission, a read-only disk."""
    place = next(parent for parent in Path(target).absolute().parents if parent.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        read_only = os.statvfs(place).f_flag & os.ST_RDONLY
        code = errno.ENOTDIR if not place.is_dir() else errno.EROFS if read_only else errno.EACCES
        raise OSError(code, os.strerror(code), str(target))


def _error_code(error: Exception, target: Path) -> int | None:
    """The errno behind an exception; None: it is not about writing."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    text = str(error)
    if found := re.search(r"\(os error (\d+)\)", text):  # Rust: safetensors, tokenizers
        return int(found[1])
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES):  # faiss, torch
        if os.strerror(code) in text:
            return code
    if text == "database or disk is full":  # SQLite
        return errno.ENOSPC
    if re.search(r"inline_container|iostream error|requested and \d+ written", text):  # torch and numpy keep the cause
        cause = error.__context__  # torch writing to a file that Python opened
        if isinstance(cause, OSError) and cause.errno is not None:
            return cause.errno
        return errno.EIO if shutil.disk_usage(target.parent).free else errno.ENOSPC
    return None


def _place(target: str | Path) -> Path:
    """The absolute path behind symbolic links."""
    place = Path(os.path.realpath(target))
    if not place.name or Path(target).name in ("", ".."):
        raise OSError(errno.EINVAL, "names no file or folder of its own", str(target))
    return place


@contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """A locked temporary folder beside the target."""
    make_folder(target.parent)
    sweep(target.parent, target.name)
    handle = None
    while handle is None:  # else a sweep was faster than the lock
        path = Path(f"{_prefix(target)}{secrets.token_hex(6)}.tmp")
        path.mkdir()
        handle = _locked(path)
    try:
        os.write(handle, target.name.encode("utf-8", "surrogateescape"))
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(handle)


def _locked(path: Path, how: int = 0) -> int | None:
    """A handle that locks a temporary folder until it is closed or its process dies; None if the folder has gone.

    Raises:
        OSError: with LOCK_NB, where it is locked, or where the file system has no locks.
    """
    try:
        handle = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | how)
    except OSError:
        if how & fcntl.LOCK_NB:
            os.close(handle)
            raise
    if os.fstat(handle).st_nlink:
        return handle
    os.close(handle)
    return None


def _left_over(folder: Path, name: str | None) -> list[Path]:
    """Our own temporary folders, and those of no other user."""
    found = []
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            match = TEMPORARY.fullmatch(entry.name)
            if match and (name is None or match["name"] == _short(name)):
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
                    found.append(folder / entry.name)
    return found


def _prefix(target: Path) -> Path:
    """What the paths of the target's temporary folders begin with."""
    return target.with_name(f".{_short(target.name)}.simcse-")


def _short(name: str) -> str:
    return name.encode("utf-8", "surrogateescape")[:LONGEST].decode("utf-8", "ignore")


def _put(new: Path, target: Path, aside: Path) -> None:
    """Put a folder in the target's place. Of two writers at once the later one wins."""
    left = ATTEMPTS
    while True:
        left -= 1
        try:
            if not target.exists():
                new.rename(target)
            elif not _exchanged(new, target):
                shutil.rmtree(aside, ignore_errors=True)
                sync_tree(aside.parent)  # a cut between the two renames leaves the target to `sweep`
                target.rename(aside)
                new.rename(target)
            return
        except OSError as error:
            another = error.errno in (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY)
            if not another or not left:
                if aside.exists() and not target.exists():
                    aside.rename(target)
                raise


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; False where the system or the file system cannot."""
    if sys.platform != "linux":
        return False
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "renameat2"):
        return False
    here = -100  # AT_FDCWD
    if library.renameat2(here, os.fsencode(one), here, os.fsencode(other), EXCHANGE) == 0:
        return True
    found = ctypes.get_errno()
    if found in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(found, os.strerror(found), str(other))
