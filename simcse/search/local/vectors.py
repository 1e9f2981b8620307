"""The vectors of an index: an append-only matrix, in memory or in a file of which the first n rows count.

A file may be longer than its index knows: rows behind the committed count are the rest of an addition that was
killed, and the next addition writes over them. So the count, which the store commits, is what makes an addition
visible.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from simcse.errors import SearchError
from simcse.search.local.blocks import NO_CHECKSUMS, Blocks, Checksums, extended
from simcse.vectors import Matrix

__all__ = ["Vectors"]


class Vectors:
    """n rows of d float32 values, little-endian, and the checksums of their blocks."""

    def __init__(self, dimension: int, path: Path | None = None, mmap: bool = True) -> None:
        """No rows, in memory or in a file; `move_to` opens those that a file holds already."""
        self.dimension, self.path, self.mmap = dimension, path, mmap
        self.count, self.checksums = 0, NO_CHECKSUMS
        self.blocks = Blocks(NO_CHECKSUMS, path)
        self._buffer: Matrix = np.empty((0, dimension), np.float32)

    @property
    def matrix(self) -> Matrix:
        """(n, d), a view: do not write to it. Nothing is compared with its checksum."""
        return self._buffer[: self.count]

    def checked(self, slots: npt.NDArray[np.int64] | None = None) -> Matrix:
        """`matrix`, of which these rows, by default all, were compared with their checksums.

        Raises:
            SearchError: they are damaged.
        """
        self.blocks.check(self.matrix, slots)
        return self.matrix

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
            self.checksums = extended(self.checksums, self.count, data)
        self.count += len(data)

    def sync(self) -> None:
        """Make all rows durable and visible in `matrix`."""
        if self.path is None:
            return
        with self._opened() as file:
            file.truncate(self._bytes(self.count))
            os.fsync(file.fileno())
        self._reopen(self.count, self.checksums)

    def move_to(self, count: int, checksums: Checksums) -> None:
        """Take in what has been committed to the file.

        Raises:
            SearchError: the file is missing, or shorter than `count` rows.
        """
        if count == self.count and np.array_equal(checksums, self.checksums):
            return
        if self.path is None:
            self.count = count
        else:
            self._reopen(count, checksums)

    def rewind(self, count: int, checksums: Checksums) -> None:
        """Drop all rows from `count` on, after an addition that failed. Only while no other process may be adding."""
        self.move_to(count, checksums)
        if self.path is not None and self.path.exists():
            with suppress(OSError):  # what is left over does not count, and the next addition overwrites it
                os.truncate(self.path, self._bytes(count))

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

    def _reopen(self, count: int, checksums: Checksums) -> None:
        assert self.path is not None
        try:
            found = self.path.stat().st_size
        except FileNotFoundError:
            found = 0
        if found < self._bytes(count):
            raise SearchError(
                f"{self.path}: truncated: found {found} bytes, expected {self._bytes(count)} "
                f"({count} vectors of dimension {self.dimension}); restore a copy or build the index anew"
            )
        if not count:
            self._buffer = np.empty((0, self.dimension), np.float32)
        elif self.mmap:
            mapped = np.memmap(self.path, dtype="<f4", mode="r", shape=(count, self.dimension))
            self._buffer = mapped.view(np.ndarray)
        else:
            flat = np.fromfile(self.path, dtype="<f4", count=count * self.dimension)
            self._buffer = flat.reshape(count, self.dimension)
        self.count, self.checksums = count, checksums
        self.blocks = Blocks(checksums, self.path, self.blocks if self.mmap else None)
