"""Vectors as files: the same numbers whatever the format, a block at a time, and one line for what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simcse import DataError
from simcse.data import vectors
from simcse.data.vectors import open_vectors, vector_column

MATRIX = np.random.default_rng(0).normal(size=(25, 6)).astype(np.float32)


def write(path: Path, matrix: np.ndarray, **others: Any) -> Path:
    """`pandas` writes plain lists, ours are of fixed size: `.parquet` has the former."""
    if path.suffix == ".npy":
        np.save(path, matrix)
    elif path.suffix == ".npz":
        (np.savez_compressed if others.pop("packed", False) else np.savez)(path, vectors=matrix, **others)
    else:
        pq.write_table(pa.table({"vector": matrix.tolist(), **others}), path, row_group_size=10)
    return path


@pytest.mark.parametrize("kind", ["float32", "float64", "float16", "int8"])
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".parquet"])
def test_blocks_are_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, kind: str) -> None:
    monkeypatch.setattr(vectors, "ROWS_A_BLOCK", 7)
    matrix = (10 * MATRIX).astype(kind)
    file = open_vectors(write(tmp_path / f"v{suffix}", matrix))
    assert (file.rows, file.dimension) == (25, 6)
    blocks = list(file.blocks())
    assert all(len(block) <= 7 for block in blocks)
    np.testing.assert_array_equal(np.concatenate(blocks), matrix)
    np.testing.assert_array_equal(np.concatenate(list(file.blocks())), matrix)


def test_arrays_and_columns_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "v.npz", MATRIX, ids=np.arange(25), packed=True)
    np.testing.assert_array_equal(np.concatenate(list(open_vectors(path).blocks())), MATRIX)
    np.savez(path, embeddings=MATRIX)
    assert open_vectors(path).rows == 25
    table = tmp_path / "v.parquet"
    columns = {"text": ["a", "b"], "place": [[1.5, 2.5], [0.5, 1.0]], "embedding": [[1.0], [2.0]]}
    pq.write_table(pa.table(columns), table)
    assert vector_column(table) == "embedding"
    assert open_vectors(table).dimension == 1
    pq.write_table(pa.table({"text": ["a"], "place": [[1.5, 2.5]], "vector": ["none"]}), table)
    assert vector_column(table) is None
    assert open_vectors(table).dimension == 2


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("v.npy", np.ones(3), r"found float64 of shape \(3,\), expected vectors \(n, d\) of numbers"),
        ("v.npy", np.ones((3, 2), np.uint8), "unpack bits by np.unpackbits"),
        ("v.npy", np.array([["a"]]), r"found str32 of shape \(1, 1\)"),
        ("v.npy", np.array([[{}]], object), "not a whole numpy file of numbers"),
        ("v.npy", b"\x93NUMPY\x01\x00", "not a whole numpy file"),
        ("v.npz", b"PK\x03\x04", "not a whole numpy file"),
        ("v.npz", {"a": np.ones((2, 2)), "b": np.ones((2, 2))}, "found the arrays a, b, expected one called vectors"),
        ("v.npz", {"a": np.asfortranarray(np.ones((2, 2)))}, "lies by columns"),
        ("v.parquet", {"text": ["a"]}, r"found columns text \(string\), expected one called vector, of lists of"),
        ("v.parquet", {"a": [[1.0]], "b": [[1.0]]}, "found columns a .*, b .*, expected one called vector"),
        ("v.parquet", b"PAR1", "not a parquet file"),
        ("v.csv", b"1,2", r"unknown extension .csv of vectors; known are .npy, .npz, .parquet"),
    ],
)
def test_what_is_no_file_of_vectors(tmp_path: Path, name: str, content: Any, told: str) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, np.ndarray):
        np.save(path, content)
    elif path.suffix == ".npz":
        np.savez(path, **content)
    else:
        pq.write_table(pa.table(content), path)
    with pytest.raises(DataError, match=told):
        open_vectors(path)
    with pytest.raises(DataError, match="no such file"):
        open_vectors(tmp_path / f"other{path.suffix}")


@pytest.mark.parametrize("wrong", [[1.0, 2.0], None])
def test_rows_of_other_lengths(tmp_path: Path, wrong: Any) -> None:
    pq.write_table(pa.table({"vector": [[1.0], [2.0], wrong, [3.0]]}), tmp_path / "v.parquet")
    with pytest.raises(DataError, match=r"v.parquet: row 3: found [02] values in vector, expected 1"):
        list(open_vectors(tmp_path / "v.parquet").blocks())
