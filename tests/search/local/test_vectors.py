"""The vectors of an index by themselves: what lies in the file, what is read of it and compared, what is dropped."""

from __future__ import annotations

import os
import zlib

import numpy as np
import pytest

from simcse import SearchError
from simcse.search.local.blocks import BLOCK_ROWS
from simcse.search.local.vectors import Vectors

D = 4
ROWS = np.random.default_rng(0).standard_normal((2 * BLOCK_ROWS + 10, D)).astype(np.float32)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "vectors.f32"


def written(path, rows=ROWS):
    """What adds to a file, with the first rows in it; in memory, without a path."""
    vectors = Vectors(D, path)
    vectors.append(rows)
    vectors.sync()
    return vectors


def opened(other, **options):
    """Another one of the same file, as of another process."""
    vectors = Vectors(D, other.path, **options)
    vectors.move_to(other.count, other.checksums)
    return vectors


def put(path, slot, value=7.0):
    """Write over the first number of a row."""
    with path.open("r+b") as file:
        file.seek(4 * D * slot)
        file.write(np.array([value], "<f4").tobytes())


@pytest.mark.parametrize("where", ["memory", "file"])
@pytest.mark.parametrize("kind", ["<f8", ">f4", "every second"])
def test_rows_are_float32_in_one_order_whatever_is_added(path, where, kind):
    assert Vectors(D).matrix.dtype == np.float32, "without rows, too"
    rows = np.repeat(ROWS, 2, axis=0)[::2] if kind == "every second" else ROWS.astype(kind)
    vectors = written(path if where == "file" else None, rows[:100])
    vectors.append(rows[100:])
    vectors.sync()
    assert np.array_equal(vectors.checked(), ROWS)
    if where == "file":
        assert path.read_bytes() == ROWS.astype("<f4").tobytes()


@pytest.mark.parametrize("mmap", [True, False])
def test_rows_behind_the_committed_ones_do_not_count(path, mmap):
    """Of an addition that is under way, or was killed."""
    other = written(path, ROWS[:10])
    before = opened(other, mmap=mmap)
    other.append(ROWS[10:])
    assert path.stat().st_size == ROWS.nbytes
    vectors = Vectors(D, path, mmap)
    vectors.move_to(before.count, before.checksums)
    assert np.array_equal(vectors.checked(), ROWS[:10])


def test_a_file_is_mapped_unless_told_otherwise(path):
    """So it is not read before it is needed; and what it holds is not changed by way of the matrix."""
    other = written(path)
    mapped, read = opened(other), opened(other, mmap=False)
    put(path, slot=0)
    assert mapped.matrix[0, 0] == 7
    assert read.matrix[0, 0] == ROWS[0, 0]
    with pytest.raises(ValueError, match="read-only"):
        mapped.matrix[0] = 0


@pytest.mark.parametrize("mmap", [True, False])
def test_only_what_was_read_anew_is_compared_anew(path, monkeypatch, mmap):
    """After another process's addition: of a mapped file the blocks behind, of one read into memory all of them."""
    other = written(path, ROWS[: 2 * BLOCK_ROWS])
    vectors = opened(other, mmap=mmap)
    vectors.checked()
    other.append(ROWS[2 * BLOCK_ROWS :])
    other.sync()
    vectors.move_to(other.count, other.checksums)
    compared, crc32 = [], zlib.crc32
    monkeypatch.setattr(zlib, "crc32", lambda data, crc=0: compared.append(len(data)) or crc32(data, crc))
    assert np.array_equal(vectors.checked(), ROWS)
    assert compared == ([10] if mmap else [BLOCK_ROWS, BLOCK_ROWS, 10])


def test_only_the_rows_that_are_asked_for_are_compared(path):
    vectors = opened(written(path))
    put(path, slot=BLOCK_ROWS)
    assert len(vectors.checked(np.array([0, 2 * BLOCK_ROWS]))) == len(ROWS)
    for slots in (np.array([BLOCK_ROWS + 1]), None):
        with pytest.raises(SearchError, match=rf"{path}: damaged: vectors 256 to 511 have checksum"):
            vectors.checked(slots)


@pytest.mark.parametrize("mmap", [True, False])
def test_what_was_taken_in_already_is_not_read_again(path, mmap):
    """As after another process's deletion, which leaves the vectors as they are."""
    other = written(path)
    vectors = opened(other, mmap=mmap)
    path.unlink()
    vectors.move_to(other.count, other.checksums)
    assert np.array_equal(vectors.checked(), ROWS)


@pytest.mark.parametrize("where", ["memory", "file", "file that stays long"])
@pytest.mark.parametrize("count", [0, 10, BLOCK_ROWS])
def test_an_addition_that_failed_is_dropped(path, monkeypatch, where, count):
    """From the file, too; where that fails, the next addition writes over the rest."""
    vectors = Vectors(D, None if where == "memory" else path)
    if count:
        vectors.append(ROWS[:count])
        vectors.sync()
    checksums = vectors.checksums
    vectors.append(-ROWS)
    with monkeypatch.context() as patch:
        if where == "file that stays long":
            patch.setattr(os, "truncate", lambda path, size: (path / "none").stat())
        vectors.rewind(count, checksums)
    assert vectors.count == count
    assert vectors.matrix.shape == (count, D)
    assert vectors.matrix.dtype == np.float32
    assert np.array_equal(vectors.checked(), ROWS[:count])
    if where != "memory":
        assert path.stat().st_size == 4 * D * (count + (len(ROWS) if where == "file that stays long" else 0))
    vectors.append(ROWS[count:])
    vectors.sync()
    assert np.array_equal(vectors.checked(), ROWS)
    if where != "memory":
        assert path.stat().st_size == ROWS.nbytes
        assert np.array_equal(opened(vectors, mmap=False).checked(), ROWS)
