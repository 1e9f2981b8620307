"""C++ compiled on the machine that it runs on, and kept in the user's cache folder as a shared library.

A library is loaded into the process, so whoever can write it runs code as the user, and a library cut short kills the
process by SIGBUS when its pages are touched. So the folder is the user's alone, each of its parents is one that nobody
else can rename entries of, and the name of a library ends with the SHA-256 of its bytes: it appears by one rename, and
what does not hash to its own name is never loaded but compiled anew.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import logging
import os
import shutil
import stat
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from simcse.errors import ConfigError
from simcse.files import replaced_file

__all__ = ["cache_folder", "compiled", "compiler", "opened", "user_folder"]

logger = logging.getLogger(__name__)

SECONDS = 120  # a compiler that needs longer hangs
PRIVATE = 0o700
_compiling = threading.Lock()


def compiled(sources: Sequence[Path], options: Sequence[str]) -> Path | None:
    """The shared library made of C++ sources, from the cache folder or made now.

    Args:
        sources: the first is compiled; the others are what it includes.
        options: of the compiler.

    Returns:
        The library, whose bytes were just verified; None, and a line in the log, if it cannot be made or kept safely.
    """
    name = compiler()
    if name is None:
        logger.info("no C++ compiler (c++, g++, clang++, or what CXX names): torch computes instead")
        return None
    command = [*name.split(), *options]
    key = hashlib.sha256(b"".join(file.read_bytes() for file in sources) + "\0".join(command).encode()).hexdigest()[:16]
    stem = f"{sources[0].stem}-{key}"
    try:
        with _compiling:
            own = user_folder()
            if own is not None and (library := kept(own, stem)) is not None:  # it may lie there read-only
                return library
            folder = cache_folder()
            return kept(folder, stem) or keep(folder, stem, run(command, sources[0]))
    except ConfigError as error:
        logger.warning("%s: torch computes instead", error)
    except (OSError, subprocess.SubprocessError) as error:
        reason = (getattr(error, "stderr", b"") or str(error).encode()).decode(errors="replace").strip()
        logger.info("%s cannot compile %s: torch computes instead (%s)", name, sources[0].name, reason.split("\n")[0])
    return None


def opened(path: Path) -> ctypes.CDLL | None:
    """A compiled library; None, and a line in the log, where the system cannot open it."""
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:  # a folder shared with a machine that has an older C library
        logger.info("%s: %s; torch computes instead", path, error)
        return None


def compiler() -> str | None:
    """What CXX names, with its arguments, or the first C++ compiler that is found."""
    return os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)


def kept(folder: Path, stem: str) -> Path | None:
    """The library of an earlier process: a plain file of the user's, writable by no one else, whole. Others go."""
    for path in folder.glob(f"{stem}-*.so"):
        with suppress(OSError):  # another process removed it, or the folder is read-only
            found = path.lstat()
            private = found.st_uid == os.geteuid() and not others_write(found)
            if private and stat.S_ISREG(found.st_mode) and path == library_path(folder, stem, path.read_bytes()):
                return path
            logger.warning("%s is damaged, a link, or writable by others: not loaded", path)
            path.unlink()
    return None


def keep(folder: Path, stem: str, library: bytes) -> Path:
    """Write a library into the cache folder."""
    path = library_path(folder, stem, library)
    with replaced_file(path) as new:
        new.write_bytes(library)
        new.chmod(PRIVATE)
    return path


def library_path(folder: Path, stem: str, library: bytes) -> Path:
    """Where a library with these bytes lies."""
    return folder / f"{stem}-{hashlib.sha256(library).hexdigest()}.so"


def run(command: Sequence[str], source: Path) -> bytes:
    """What the compiler makes of a source."""
    with tempfile.TemporaryDirectory(prefix="simcse-") as place:
        out = Path(place) / "library.so"
        subprocess.run([*command, str(source), "-o", str(out)], check=True, capture_output=True, timeout=SECONDS)
        return out.read_bytes()


def cache_folder() -> Path:
    """Where a library is put: the user's cache folder, or, where that cannot be written, one of this process.

    Raises:
        ConfigError: others can write there, or put another folder in its place.
    """
    folder = user_folder()
    return folder if folder is not None and os.access(folder, os.W_OK) else process_folder()


def user_folder() -> Path | None:
    """The user's cache folder, which may be read-only; None where there is none and none can be made.

    Raises:
        ConfigError: others can write there, or put another folder in its place.
    """
    with suppress(OSError, RuntimeError):  # RuntimeError: a user without a home
        parent = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        parent.mkdir(PRIVATE, parents=True, exist_ok=True)
        folder = parent.resolve() / "simcse"
        folder.mkdir(PRIVATE, exist_ok=True)
        check_private(folder)
        return folder
    return None


@cache
def process_folder() -> Path:
    """A temporary folder that lives as long as this process.

    Raises:
        ConfigError: as `user_folder`.
    """
    folder = Path(tempfile.mkdtemp(prefix="simcse-")).resolve()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    check_private(folder)
    return folder


def check_private(folder: Path) -> None:
    """Make a folder the user's alone, and see that nobody else can put another in its place.

    Args:
        folder: an absolute path without links on the way; the folder itself is looked at as it is.

    Raises:
        ConfigError: it is a link or somebody else's, or a folder above it can be written by others. In a folder
            with the sticky bit, such as /tmp, others can write but not rename.
    """
    remedy = "name a folder of your own by XDG_CACHE_HOME"
    found = folder.lstat()
    if stat.S_ISLNK(found.st_mode) or found.st_uid != os.geteuid():
        what = "a link" if stat.S_ISLNK(found.st_mode) else f"owned by user {found.st_uid}, not by {os.geteuid()}"
        raise ConfigError(f"{folder} is {what}, so no library is loaded from it; {remedy}")
    for parent in folder.parents:
        above = parent.lstat()
        sticky = above.st_mode & stat.S_ISVTX
        if above.st_uid not in (0, os.geteuid()) or (others_write(above) and not sticky):
            raise ConfigError(
                f"{parent} can be written by others than user {os.geteuid()} (owner {above.st_uid}, mode "
                f"{stat.S_IMODE(above.st_mode):o}), so no library is loaded from {folder}; chmod go-w it, or {remedy}"
            )
    if stat.S_IMODE(found.st_mode) & ~PRIVATE:  # the user himself may have made it read-only
        folder.chmod(stat.S_IMODE(found.st_mode) & PRIVATE)


def others_write(found: os.stat_result) -> bool:
    """Whether a mode lets others write; the group that is named after the user and has no other member is no other."""
    if not found.st_mode & stat.S_IWGRP:
        return bool(found.st_mode & stat.S_IWOTH)
    import grp  # only where there are groups
    import pwd

    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(found.st_gid)
    except KeyError:  # a container without a list of users
        return True
    alone = group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}
    return bool(found.st_mode & stat.S_IWOTH) or not alone
