"""The vectors of an index: an append-only matrix, in memory or in a file of which the first n rows count.

A file may be longer than its index knows: rows behind the committed count are the rest of an addition that was
killed, and the next addition writes over them. So the count, which the store commits, is what makes an addition
visible.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np

from simcse.errors import SearchError
from simcse.search.identity import Matrix

__all__ = ["Vectors"]

ROWS_A_WRITE = 16_384


class Vectors:
    """n rows of d float32 values, little-endian, and the CRC-32 of their bytes."""

    def __init__(
        self, dimension: int, path: Path | None = None, count: int = 0, crc: int = 0, mmap: bool = True
    ) -> None:
        """Open the first `count` rows of `path`, or start empty in memory.

        Raises:
            SearchError: the file is missing, or shorter than `count` rows.
        """
        self.dimension, self.path, self.count, self.crc, self.mmap = dimension, path, count, crc, mmap
        self._buffer: Matrix = np.empty((0, dimension), np.float32)
        if path is not None:
            self._reopen()

    @property
    def matrix(self) -> Matrix:
        """(n, d), a view: do not write to it."""
        return self._buffer[: self.count]

    def append(self, rows: Matrix) -> None:
        """Add rows (m, d) at the end; in a file they are not durable before `sync`."""
        if not len(rows):
            return
        data = np.ascontiguousarray(rows, dtype="<f4")
        if self.path is None:
            self._grow(self.count + len(data))
            self._buffer[self.count : self.count + len(data)] = data
        else:
            with self._opened() as file:
                file.seek(self._bytes(self.count))
                file.write(data.data)
        self.crc = zlib.crc32(data.data, self.crc)
        self.count += len(data)

    def sync(self) -> None:
        """Make all rows durable and visible in `matrix`."""
        if self.path is None:
            return
        with self._opened() as file:
            file.truncate(self._bytes(self.count))
            os.fsync(file.fileno())
        self._reopen()

    def move_to(self, count: int, crc: int) -> None:
        """Take in what another process has committed to the same file."""
        self.count, self.crc = count, crc
        if self.path is not None:
            self._reopen()

    def rewind(self, count: int, crc: int) -> None:
        """Drop all rows from `count` on, after an addition that failed. Only while no other process may be adding."""
        self.move_to(count, crc)
        if self.path is not None and self.path.exists():
            with suppress(OSError):  # what is left over does not count, and the next addition overwrites it
                os.truncate(self.path, self._bytes(count))

    def verify(self) -> None:
        """Read every byte and compare checksums.

        Raises:
            SearchError: the bytes are not those that were written.
        """
        crc, matrix = 0, self.matrix
        for start in range(0, self.count, ROWS_A_WRITE):
            crc = zlib.crc32(np.ascontiguousarray(matrix[start : start + ROWS_A_WRITE]).data, crc)
        if crc != self.crc:
            raise SearchError(
                f"{self.path}: damaged: its {self.count} vectors have checksum {crc:08x}, expected {self.crc:08x}; "
                "restore a copy or build the index anew"
            )

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        assert self.path is not None
        try:
            with self.path.open("r+b" if self.path.exists() else "w+b") as file:
                yield file
        except OSError as error:
            raise SearchError(
                f"{self.path}: {error.strerror}; the index is as it was before; free the way and try again"
            ) from error

    def _bytes(self, rows: int) -> int:
        return 4 * rows * self.dimension

    def _grow(self, rows: int) -> None:
        if rows > len(self._buffer):
            larger = np.empty((max(rows, 2 * len(self._buffer)), self.dimension), np.float32)
            larger[: self.count] = self._buffer[: self.count]
            self._buffer = larger

    def _reopen(self) -> None:
        assert self.path is not None
        found = self.path.stat().st_size if self.path.exists() else 0
        if found < self._bytes(self.count):
            raise SearchError(
                f"{self.path}: truncated: found {found} bytes, expected {self._bytes(self.count)} "
                f"({self.count} vectors of dimension {self.dimension}); restore a copy or build the index anew"
            )
        if not self.count:
            self._buffer = np.empty((0, self.dimension), np.float32)
        elif self.mmap:
            mapped = np.memmap(self.path, dtype="<f4", mode="r", shape=(self.count, self.dimension))
            self._buffer = mapped.view(np.ndarray)
        else:
            flat = np.fromfile(self.path, dtype="<f4", count=self.count * self.dimension)
            self._buffer = flat.reshape(self.count, self.dimension)
