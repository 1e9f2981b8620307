"""Writing so that a kill at any moment leaves the old state or the new one, never a mixture."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["check_writable", "naming_target", "replaced_file", "replaced_folder", "settled_folder"]


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
        about = getattr(error, "filename", None)
        if about is not None and not (temporary and str(about).startswith(str(temporary))):
            raise
        if (code := _error_code(error, Path(target))) is None:
            raise
        raise OSError(code, os.strerror(code), str(target)) from error


def check_writable(target: str | Path) -> None:
    """Raise the `OSError` that writing `target` would end in, before hours of work: no permission, a read-only disk."""
    place = next(parent for parent in Path(target).absolute().parents if parent.exists())
    if not os.access(place, os.W_OK):
        read_only = os.statvfs(place).f_flag & os.ST_RDONLY
        code = errno.EROFS if read_only else errno.EACCES
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
        return errno.EIO if shutil.disk_usage(target.parent).free else errno.ENOSPC
    return None


@contextmanager
def replaced_file(target: str | Path) -> Iterator[Path]:
    """Yield a name beside `target` to write to; it replaces the target when the block ends, and goes when it fails."""
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with naming_target(target, beside):
            yield beside
            beside.replace(target)
    finally:
        with suppress(OSError):  # the error that led here says more
            beside.unlink(missing_ok=True)


@contextmanager
def replaced_folder(target: str | Path) -> Iterator[Path]:
    """Yield an empty folder beside `target` to fill; it replaces the target at the end, and goes when the block fails.

    A folder cannot be replaced in one step: the old one is first renamed to `.NAME.old`. `settled_folder` finds it
    there if the process died between the two renames.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside, old = target.with_name(f".{target.name}.{os.getpid()}.tmp"), target.with_name(f".{target.name}.old")
    settled_folder(target)
    shutil.rmtree(beside, ignore_errors=True)
    try:
        with naming_target(target, beside):
            beside.mkdir()
            yield beside
            if target.exists():
                target.rename(old)
            beside.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def settled_folder(target: str | Path) -> Path:
    """`target`, after finishing a replacement that was killed half-way; the folder may still not exist."""
    target = Path(target)
    old = target.with_name(f".{target.name}.old")
    if old.exists():
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(target)
    return target
