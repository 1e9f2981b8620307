"""Writing so that a kill at any moment leaves the old state or the new one, never a mixture."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["replaced_file", "replaced_folder", "settled_folder"]


@contextmanager
def replaced_file(target: str | Path) -> Iterator[Path]:
    """Yield a name beside `target` to write to; it replaces the target when the block ends, and goes when it fails."""
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield beside
        beside.replace(target)
    finally:
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
    beside.mkdir()
    try:
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
