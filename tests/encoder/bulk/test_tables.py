"""Vectors with ids and texts: each format read by another package, killed and resumed, whole or not at all."""

from __future__ import annotations

import json
import locale
import re
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simcse import ConfigError, DataError, SentenceEncoder
from simcse.encoder.bulk import npy, tables
from simcse.vectors import Matrix, Quantize, quantize

Table = tuple[list[Any], list[str] | None, npt.NDArray[Any]]


def from_npz(file: Path) -> Table:
    with np.load(file) as arrays:
        return arrays["ids"].tolist(), None, arrays["vectors"]


def from_parquet(file: Path) -> Table:
    columns = pq.read_table(file).to_pydict()
    return columns["id"], columns["text"], np.array(columns["vector"])


def from_jsonl(file: Path) -> Table:
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").strip().split("\n")]
    return [row["id"] for row in rows], [row["text"] for row in rows], np.array([row["vector"] for row in rows])


def lengths(texts: list[str]) -> Matrix:
    return np.array([[len(text), 1 / len(text)] for text in texts], np.float32).reshape(-1, 2)


READ: dict[str, Callable[[Path], Table]] = {".npz": from_npz, ".parquet": from_parquet, ".jsonl": from_jsonl}


@pytest.fixture(scope="module")
def encoder(tiny_bert: Path) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(tiny_bert, pooling="mean", device="cpu", dtype="fp32")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npy, "TEXTS_PER_CHUNK", 10)
    monkeypatch.setattr(tables, "ROWS_A_BATCH", 7)


@pytest.mark.parametrize("kind", ["none", "float16", "int8", "binary"])
@pytest.mark.parametrize("suffix", READ)
def test_each_format_holds_the_same(
    encoder: SentenceEncoder, sentences: list[str], tmp_path: Path, suffix: str, kind: Quantize
) -> None:
    path = tmp_path / f"v{suffix}"
    texts = ['é \u2028 "quoted" \\ 语', *sentences]
    assert encoder.encode_to(path, iter(texts), ids=range(10, 75), quantize=kind) == 65
    ids, found, vectors = READ[suffix](path)
    assert ids == list(range(10, 75))
    assert found in (None, texts)
    expected = quantize(encoder.encode(texts), kind)
    off = np.abs(vectors.astype(float) - expected)
    if kind == "binary":
        off = np.unpackbits(vectors.astype(np.uint8) ^ expected, axis=1)
        assert off.mean() < 0.001  # a value at 0 may fall on either side: batches differ
    else:
        assert off.max() <= {"none": 1e-6, "float16": 1e-3, "int8": 1}[kind]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", READ)
def test_a_killed_call_goes_on(
    encoder: SentenceEncoder, sentences: list[str], tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off() -> Iterator[str]:
        yield from sentences[:35]
        raise KeyboardInterrupt

    path = tmp_path / f"v{suffix}"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        encoder.encode_to(path, cut_off(), ids=(f"d{i}" for i in range(64)))
    assert path.read_bytes() == b"old"

    def killed(*args: Any) -> None:
        args[0].write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # and again while what was encoded is written
        patch.setitem(tables.WRITERS, suffix, killed)
        with pytest.raises(KeyboardInterrupt):
            encoder.encode_to(path, sentences, ids=(f"d{i}" for i in range(64)))
    assert path.read_bytes() == b"old"
    with monkeypatch.context() as patch:
        encoded: list[int] = []
        plain = type(encoder)._encode

        def counting(self: SentenceEncoder, *args: Any) -> Any:
            encoded.append(len(args[3]))
            return plain(self, *args)

        patch.setattr(type(encoder), "_encode", counting)
        encoder.encode_to(path, sentences, ids=(f"d{i}" for i in range(64)))
    assert not sum(encoded)
    ids, texts, vectors = READ[suffix](path)
    assert ids == [f"d{i}" for i in range(64)]
    assert texts in (None, sentences)
    np.testing.assert_allclose(vectors, encoder.encode(sentences), atol=1e-6)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_ids_of_numbers_and_texts_become_texts(encoder: SentenceEncoder, tmp_path: Path) -> None:
    path = tmp_path / "v.parquet"
    encoder.encode_to(path, ["a", "the", "dog"], ids=[np.int64(7), "x", None])
    assert pq.read_table(path)["id"].to_pylist() == ["7", "x", "2"]
    encoder.encode_to(path, ["a", "the", "dog"])
    assert pq.read_table(path)["id"].to_pylist() == [0, 1, 2]
    encoder.encode_to(path, ["a", "the", "dog"], ids=[2**63 - 1, -(2**63), 0])
    assert pq.read_table(path)["id"].to_pylist() == [2**63 - 1, -(2**63), 0]
    for number in (2**63, -(2**63) - 1):
        encoder.encode_to(path, ["a", "the"], ids=[1, number])
        assert pq.read_table(path)["id"].to_pylist() == ["1", str(number)]
    assert encoder.encode_to(path, []) == 0
    assert pq.read_table(path).num_rows == 0


@pytest.mark.parametrize(
    ("ids", "told"),
    [
        ([1, 2], "ids: found 2, expected one for each text"),
        ([1, 2, 3, 4], "ids: found more than the 3 texts"),
        ([1, 2, 3.5], "id 2: found 3.5, expected a text or a whole number"),
    ],
)
def test_wrong_ids(encoder: SentenceEncoder, tmp_path: Path, ids: list[Any], told: str) -> None:
    with pytest.raises(DataError, match=told):
        encoder.encode_to(tmp_path / "v.jsonl", ["a", "the", "dog"], ids=ids)
    assert not (tmp_path / "v.jsonl").exists()


def test_wrong_texts_and_names(encoder: SentenceEncoder, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"text 1: half of a surrogate pair is no character: '\\ud800'"):
        encoder.encode_to(tmp_path / "v.jsonl", ["a", "\ud800"])
    with pytest.raises(DataError, match="text 1 is of type int"):
        encoder.encode_to(tmp_path / "v.jsonl", ["a", 5])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match=r"v.csv, expected a name that ends in .npy, .npz, .parquet or .jsonl"):
        encoder.encode_to(tmp_path / "v.csv", ["a"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", READ)
def test_vectors_that_cannot_be_read_leave_no_table(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "vectors.npy").write_bytes(b"damaged")
    rows = tables.Rows(tmp_path)
    assert list(rows.noting(["a"], None)) == ["a"]
    if suffix == ".npz":  # copied as they are
        (tmp_path / "vectors.npy").unlink()
    with pytest.raises((OSError, ValueError)):
        tables.write_table(tmp_path / f"v{suffix}", tmp_path / "vectors.npy", rows)
    rows.close()
    assert {path.name for path in tmp_path.iterdir()} <= {"vectors.npy"}


@pytest.mark.parametrize("suffix", [".npy", *READ])
def test_a_bar_counts_all_texts_then_all_rows(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    path, texts = tmp_path / f"v{suffix}", [f"text {i}" for i in range(25)]

    def cut_off() -> Iterator[str]:
        yield from texts[:23]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        npy.encode_to(path, cut_off(), lengths, made_by="one")
    with pytest.raises(ConfigError, match=rf"v{suffix}.partial: begun with encoder one, d=2, but this one is other"):
        npy.encode_to(path, texts, lengths, made_by="other")
    assert not capsys.readouterr().err
    npy.encode_to(path, texts, lengths, made_by="one", total=25, show_progress=True)
    bars = capsys.readouterr().err
    shown = re.findall(r"(\w+) \S+ (\d+/\S+) [\d,.]+ (\w+)/s", bars)
    assert shown == [("encoding", "25/25", "texts"), ("writing", "25/25", "rows")][: 1 if suffix == ".npy" else 2]


@pytest.mark.parametrize("suffix", READ)
def test_no_texts_and_few_have_the_same_types(tmp_path: Path, suffix: str) -> None:
    for name, texts in (("none", []), ("some", [f"text {i}" for i in range(16)])):
        npy.encode_to(tmp_path / f"{name}{suffix}", texts, lengths, made_by="e")
    none, some = (tmp_path / f"{name}{suffix}" for name in ("none", "some"))
    if suffix == ".npz":
        assert np.load(none)["ids"].dtype == np.load(some)["ids"].dtype == np.int64
    elif suffix == ".parquet":
        assert pq.read_schema(none) == pq.read_schema(some)
        assert pq.read_schema(none).types == [pa.int64(), pa.string(), pa.list_(pa.float32(), 2)]
        groups = pq.ParquetFile(some).metadata
        assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [7, 7, 2]
    else:
        assert not none.read_bytes()


def test_texts_and_short_numbers_as_they_are_in_any_locale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until they are written, they lie on the disk of the file, which has the room."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no such folder"))
    before = locale.setlocale(locale.LC_CTYPE)
    locale.setlocale(locale.LC_CTYPE, "C")
    try:
        npy.encode_to(tmp_path / "v.jsonl", ["é \u2028 语\r\n"], lengths, made_by="e", quantize="float16")
    finally:
        locale.setlocale(locale.LC_CTYPE, before)
    line = '{"id": 0, "text": "é \u2028 语\\r\\n", "vector": [7, 0.14282227]}\n'
    assert (tmp_path / "v.jsonl").read_bytes().decode("utf-8") == line


def test_vectors_and_ids_beyond_the_size_of_a_plain_zip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 150)  # bytes, in place of 2 GiB
    texts = [f"text {i}" for i in range(25)]
    npy.encode_to(tmp_path / "v.npz", texts, lengths, made_by="e")
    ids, _, vectors = from_npz(tmp_path / "v.npz")
    assert ids == list(range(25))
    assert np.array_equal(vectors, lengths(texts))


def test_a_table_is_written_without_all_vectors_in_memory(tmp_path: Path) -> None:
    wide = np.ones((21, 50_000), np.float32)
    tracemalloc.start()
    try:
        npy.encode_to(tmp_path / "v.parquet", ["a"] * 21, lambda texts: wide[: len(texts)], made_by="e")
        assert tracemalloc.get_traced_memory()[1] < 0.7 * wide.nbytes
    finally:
        tracemalloc.stop()
    assert pq.read_metadata(tmp_path / "v.parquet").num_rows == 21
