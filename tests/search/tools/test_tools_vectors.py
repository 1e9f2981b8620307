"""Files of vectors beside files of texts: row by row, resumed after a kill, of any format."""

from __future__ import annotations

import io
import sys

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simcse import DataError, SearchIndex
from simcse.search.tools import build as jobs
from simcse.search.tools.build import build_from_files
from simcse.search.tools.vectors import _opened

TEXTS = [f"text number {i} about {i * 7 % 13}" for i in range(50)]
ROWS = [*TEXTS[:20], "", *TEXTS[20:]]  # a blank row has a vector, too, as it is encoded


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "CHUNK", 10)
    (tmp_path / "a.txt").write_text("\n".join(ROWS[:30]) + "\n")
    lines = "\n".join(f'{i},"{text}"' for i, text in enumerate(ROWS[30:]))
    (tmp_path / "b.csv").write_text(f"n,text\n{lines}\n")
    return [tmp_path / "a.txt", tmp_path / "b.csv"]


def vectors_file(folder, suffix, matrix):
    path = folder / f"v{suffix}"
    if suffix == ".npy":
        np.save(path, matrix)
    elif suffix == ".npz":
        np.savez(path, vectors=matrix)
    elif suffix == ".parquet":
        pq.write_table(pa.table({"vector": list(matrix)}), path)
    else:
        index = faiss.IndexIDMap2(faiss.IndexFlatL2(matrix.shape[1]))
        index.add_with_ids(matrix, np.arange(len(matrix))[::-1].copy())
        faiss.write_index(index, str(path))
    return path


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".parquet", ".faiss"])
def test_equals_an_index_that_encodes(files, encoder, tmp_path, suffix):
    path = vectors_file(tmp_path, suffix, encoder.encode(ROWS) + (np.array(ROWS) == "")[:, None])
    index = build_from_files(files, tmp_path / "idx", encoder.encode, vectors=[path])
    plain = build_from_files(files, tmp_path / "plain", encoder.encode)
    assert len(index) == 50
    assert index.search(TEXTS, 3) == plain.search(TEXTS, 3)


def test_several_files_and_a_kill(files, encoder, tmp_path):
    matrix = encoder.encode(ROWS)
    np.save(tmp_path / "v0.npy", matrix[:17])
    np.save(tmp_path / "v1.npy", matrix[17:])
    vectors = [tmp_path / "v0.npy", tmp_path / "v1.npy"]

    def dies(texts):
        if TEXTS[30] in texts:
            raise KeyboardInterrupt
        return encoder.encode(texts)

    with pytest.raises(KeyboardInterrupt):
        build_from_files(files, tmp_path / "idx", dies, vectors=vectors)
    assert list(tmp_path.glob(".idx.partial"))
    index = build_from_files(files, tmp_path / "idx", encoder.encode, vectors=vectors)
    assert [hits[0].text for hits in index.search(TEXTS, 1)] == TEXTS


def test_numbers_that_differ_are_told_before_any_work(files, encoder, tmp_path):
    path = vectors_file(tmp_path, ".npy", encoder.encode(TEXTS))
    encoder.calls = 0
    with pytest.raises(DataError, match=r"v.npy: found 50 vectors for 51 rows of .*a.txt, .*b.csv, expected one"):
        build_from_files(files, tmp_path / "idx", encoder.encode, vectors=[path])
    path = vectors_file(tmp_path, ".npy", np.ones((51, 8), np.float32))
    with pytest.raises(DataError, match=r"v.npy: found vectors of dimension 8, the encoder has 32"):
        build_from_files(files, tmp_path / "idx", encoder.encode, vectors=[path])
    assert encoder.calls <= 4  # probes
    assert not (tmp_path / "idx").exists()


def test_faiss_files_without_vectors_are_refused(files, encoder, tmp_path):
    index = faiss.index_factory(32, "PQ4x4")
    index.train(encoder.encode(TEXTS))
    faiss.write_index(index, str(tmp_path / "v.faiss"))
    with pytest.raises(DataError, match=r"v.faiss: found an index of kind 'IxPq', expected a flat one"):
        build_from_files(files, tmp_path / "idx", encoder.encode, vectors=[tmp_path / "v.faiss"])


@pytest.mark.parametrize("kind", [faiss.IndexFlatIP, faiss.IndexFlatL2, faiss.IndexFlat, "IDMap,Flat", "IDMap2,Flat"])
def test_flat_indexes_of_faiss_are_read_and_refused_wherever_they_are_cut(tmp_path, kind):
    """faiss itself crashes on some of them, where it maps the file (1.15: cut within a number of the header)."""
    path, matrix = tmp_path / "v.faiss", np.random.default_rng(0).standard_normal((5, 16), np.float32)
    index = faiss.index_factory(16, kind) if isinstance(kind, str) else kind(16)
    if isinstance(kind, str):
        index.add_with_ids(matrix, np.arange(5) * 7)
    else:
        index.add(matrix)
    faiss.write_index(index, str(path))
    np.testing.assert_array_equal(np.concatenate([*_opened(path).blocks()]), matrix)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"v.faiss: not a whole index of faiss \("):
            _opened(path)
    place = whole.rindex(np.uint64(80).tobytes())
    path.write_bytes(whole[:place] + np.uint64(79).tobytes() + whole[place + 8 :])
    with pytest.raises(DataError, match=r"v.faiss: not a whole index of faiss \(79 numbers, expected 80\)"):
        _opened(path)


def test_a_parquet_of_texts_and_vectors_is_both(encoder, tmp_path):
    path = tmp_path / "v.parquet"
    columns = {"id": [5, 6], "text": TEXTS[:2], "year": [1999, 2000], "vector": encoder.encode(TEXTS[:2]).tolist()}
    pq.write_table(pa.table(columns), path)
    index = build_from_files([path], tmp_path / "idx", encoder.encode, vectors=[path])
    assert list(index.rows()) == [(5, TEXTS[0], {"year": 1999}), (6, TEXTS[1], {"year": 2000})]
    assert SearchIndex.load(tmp_path / "idx", encoder).search(TEXTS[1], 1)[0][0].id == 6


@pytest.mark.parametrize(("rows", "told"), [(4, "more texts than vectors"), (6, "more vectors than texts")])
def test_numbers_that_differ_are_told_at_the_end_of_a_stream(encoder, tmp_path, monkeypatch, rows, told):
    """Nobody can count what comes from standard input before it has been read."""
    path = vectors_file(tmp_path, ".npy", encoder.encode([f"text {i}" for i in range(rows)]))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"".join(b"text %d\n" % i for i in range(5)))))
    with pytest.raises(DataError, match=rf"v\.npy: found {told}, expected one for each row"):
        build_from_files(["-"], tmp_path / "idx", encoder.encode, vectors=[path])
    assert not (tmp_path / "idx").exists()
