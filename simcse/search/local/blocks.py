"""Checksums of the vectors of an index, one for each block of rows, compared when the block is first touched.

A large index opens without being read. So damage must be found where it would do harm: before a row is searched,
given back, or copied to a file that gets checksums of its own.
"""

from __future__ import annotations

import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from simcse.errors import SearchError
from simcse.vectors import Matrix

__all__ = ["BLOCK_ROWS", "NO_CHECKSUMS", "Blocks", "Checksums", "extended"]

Checksums = npt.NDArray[np.uint32]

BLOCK_ROWS = 256  # 384 KiB at dimension 384: little to read for one row, and 4,000 checksums for a million rows
NO_CHECKSUMS: Checksums = np.empty(0, np.uint32)


def extended(checksums: Checksums, count: int, rows: Matrix) -> Checksums:
    """Checksums of `count` + m rows, from those of the first `count` rows and the bytes of the m rows (m, d) behind."""
    opened = count % BLOCK_ROWS  # rows of the last block, which the first of the new ones go on with
    starts = [0, *range(BLOCK_ROWS - opened, len(rows), BLOCK_ROWS), len(rows)]
    crcs = [int(checksums[-1]) if opened else 0] + [0] * (len(starts) - 2)
    added = [zlib.crc32(rows[start:end].data, crc) for (start, end), crc in zip(pairwise(starts), crcs, strict=True)]
    return np.concatenate([checksums[: count // BLOCK_ROWS], np.array(added, np.uint32)])


class Blocks:
    """CRC-32 of each block of 256 rows of a file, and which blocks were found right since it was opened.

    Args:
        checksums: (b,), of the last block's rows as far as there are any.
        path: of the file, for errors; None for rows in memory, of which there are no checksums.
        before: of the same file when it was shorter; what was found right there is not read again.
    """

    def __init__(self, checksums: Checksums, path: Path | None, before: Blocks | None = None) -> None:
        self.checksums, self.path = checksums, path
        self._sound = np.zeros(len(checksums), bool)
        if before is not None:
            both = min(len(checksums), len(before.checksums))
            self._sound[:both] = before._sound[:both] & (before.checksums[:both] == checksums[:both])
        self._all = bool(self._sound.all())

    def forget(self) -> None:
        """Read every block again when it is next touched: it may have been damaged since."""
        self._sound[:] = False
        self._all = not len(self._sound)

    def check(self, matrix: Matrix, slots: npt.NDArray[np.int64] | None = None) -> None:
        """Compare the blocks in which some rows lie, those that were not found right before.

        Args:
            matrix: (n, d), all rows of the file.
            slots: row numbers of any shape, -1 for none; default all rows.

        Raises:
            SearchError: the bytes are not those that were written.
        """
        if self._all:
            return
        touched = ~self._sound
        if slots is not None:
            touched = np.zeros(len(self._sound), bool)
            touched[slots[slots >= 0] // BLOCK_ROWS] = True
            touched &= ~self._sound
        for block in np.flatnonzero(touched).tolist():
            rows = matrix[block * BLOCK_ROWS : (block + 1) * BLOCK_ROWS]
            crc, expected = zlib.crc32(np.ascontiguousarray(rows).data), int(self.checksums[block])
            if crc != expected:
                first = block * BLOCK_ROWS
                raise SearchError(
                    f"{self.path}: damaged: vectors {first} to {first + len(rows) - 1} have checksum {crc:08x}, "
                    f"expected {expected:08x}; restore a copy or build the index anew"
                )
            self._sound[block] = True
        self._all = bool(self._sound.all())
