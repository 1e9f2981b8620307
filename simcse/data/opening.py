"""Files as bytes and as lines, unpacked and decoded, within bounds of memory.

The one place where data files are opened: whatever is wrong with one, on the disk or in its bytes, becomes a
`DataError` that names the file, and the line where there are lines.
"""

from __future__ import annotations

import gzip
import io
import itertools
import os
import stat
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

from simcse.errors import DataError, did_you_mean

__all__ = ["MAX_LINE", "check_file", "count_lines", "lines", "name_of", "opened", "reading", "text_lines"]

MAX_LINE = 16 * 2**20  # bytes of a line, and of a row of csv: far beyond any text to encode, little for a machine
BLOCK = 2**18  # bytes unpacked at a time
BESIDE = 1000  # names in a folder among which the nearest is looked for


def name_of(path: Path) -> str:
    """What errors call a source: the path, or `standard input` for `-`."""
    return "standard input" if str(path) == "-" else str(path)


def check_file(path: Path, why: str = "") -> None:
    """Raise a DataError where `path` is no regular file that can be read: a pipe or a device might never end.

    Args:
        path: the file.
        why: who needs it and what to do, for a file that is missing; default the nearest name in its folder.
    """
    with reading(path):
        try:
            mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError) as error:
            said = f"not found, {why}" if why else f"no such file{did_you_mean(path.name, _beside(path))}"
            raise DataError(f"{path}: {said}") from error
        except ValueError as error:
            raise DataError(f"{str(path)!r}: holds a character that no file's name can have; name a file") from error
        if stat.S_ISDIR(mode):
            raise DataError(f"{path}: is a folder; a file is expected")
        if not stat.S_ISREG(mode):
            kind = "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
            raise DataError(
                f"{path}: is a {kind}, expected a file; write what it gives to a file, or pipe it into standard input "
                "where a command accepts -"
            )


def _beside(path: Path) -> list[str]:
    try:
        return [other.name for other in itertools.islice(path.parent.iterdir(), BESIDE)]
    except OSError:
        return []


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what the system and gzip raise while a file is read into a DataError that names it."""
    name = name_of(path)
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{name}: not a whole gzip file ({error}); fetch or compress it again") from error
    except PermissionError as error:
        raise DataError(f"{name}: no permission to read it; change its permissions") from error
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror or error}); name another file") from error


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, unpacked where its name ends in `.gz`; of standard input for `-`.

    Raises:
        DataError: no regular file, no permission, a damaged gzip file; it changed until its end was read.
    """
    with reading(path):
        if str(path) == "-":
            if sys.stdin is None:
                raise DataError("standard input: is closed; pipe something into it, or name a file")
            yield sys.stdin.buffer
            return
        check_file(path)
        with path.open("rb") as file:
            before = os.fstat(file.fileno())
            # GzipFile reads lines in Python, the buffer around it in C
            yield io.BufferedReader(gzip.GzipFile(fileobj=file), BLOCK) if path.suffix == ".gz" else file
            after = os.fstat(file.fileno())
            if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                raise DataError(
                    f"{path}: changed while it was read ({before.st_size:,} bytes before, {after.st_size:,} after); "
                    "read it when it is complete"
                )


def text_lines(path: Path, encoding: str = "utf-8") -> Iterator[str]:
    """Lines with their ends, decoded one by one so that a wrong byte has a line number.

    Raises:
        DataError: as `opened`; a line of more than `MAX_LINE` bytes, or of another encoding.
    """
    with opened(path) as stream:
        for number, raw in enumerate(iter(partial(stream.readline, MAX_LINE + 1), b""), 1):
            if len(raw) > MAX_LINE:
                raise _too_long(path, number)
            try:
                yield raw.decode("utf-8-sig" if number == 1 and encoding == "utf-8" else encoding)
            except UnicodeDecodeError as error:
                was = "utf-16" if number == 1 and raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin1"
                raise DataError(
                    f"{name_of(path)}:{number}: byte 0x{raw[error.start]:02x} at position {error.start + 1} of the "
                    f"line is not UTF-8; convert the file, e.g. iconv -f {was} -t utf-8"
                ) from error


def _too_long(path: Path, number: int) -> DataError:
    return DataError(
        f"{name_of(path)}:{number}: found more than {MAX_LINE:,} bytes without a line end, expected at most so many; "
        "is it text, with a line feed behind each line?"
    )


def lines(path: Path, *, encoding: str = "utf-8") -> Iterator[str]:
    """Lines without their ends. Only a line feed ends a line; `-` is standard input."""
    for line in text_lines(path, encoding):
        yield line.rstrip("\r\n")


def count_lines(path: Path) -> int:
    """How many line feeds a file has.

    Raises:
        DataError: as `text_lines`, but for encodings.
    """
    count = length = 0  # length of the line that is being read
    with opened(path) as stream:
        while block := stream.read(BLOCK):
            count += block.count(b"\n")
            length = len(block) - 1 - block.rfind(b"\n") + (0 if b"\n" in block else length)
            if length > MAX_LINE:
                raise _too_long(path, count + 1)
    return count
