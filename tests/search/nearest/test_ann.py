"""Files of approximate indexes, and how widely they are searched."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import faiss
import numpy as np
import pytest

from simcse.errors import ConfigError, SearchError
from simcse.search.nearest import ann
from simcse.search.nearest.ann import Ann, new_faiss_index, search_parameters

QUERIES = np.ones((4, 16), np.float32)


@pytest.fixture
def made() -> Callable[..., Ann]:
    """An approximate index of 100 rows."""

    def make(factory: str = "HNSW8_SQ8", **values: int) -> Ann:
        matrix = np.random.default_rng(0).standard_normal((100, 16), np.float32)
        ann = Ann(new_faiss_index(16, factory), **{"covered": 100, "parameter": 4, "k_factor": 2} | values)
        ann.train(matrix)
        ann.add(matrix, np.arange(100))
        return ann

    return make


@pytest.mark.parametrize("factory", ["HNSW8_SQ8", "IVF2,SQ8"])
def test_a_file_that_was_cut_is_refused_before_faiss_maps_it(made, tmp_path, factory):
    """faiss itself crashes on some of them (1.15: cut within a number of a header)."""
    index = made(factory)
    path = tmp_path / "ann-000001.faiss"
    index.write(path)
    values, whole = index.to_json(), path.read_bytes()
    assert values["size"] == len(whole)
    assert Ann.read(path, values, mmap=True).index.ntotal == 100
    for size in range(1, len(whole), 1 if len(whole) < 3000 else 3):
        path.write_bytes(whole[:size])
        with pytest.raises(
            SearchError, match=rf"damaged \(found {size} bytes, expected {len(whole)}\); restore a copy"
        ):
            Ann.read(path, values, mmap=True)
        with pytest.raises(SearchError, match="damaged: found checksum"):
            Ann.read(path, values | {"size": 0}, mmap=True)  # of an index that was made before sizes were kept


@pytest.mark.parametrize(
    ("factory", "covered", "k", "share", "expected"),
    [
        ("HNSW8_SQ8", 100_000, 100, 1, 64),  # as it was tuned
        ("HNSW8_SQ8", 100_000, 10, 0.5, 64 * 5),
        ("HNSW8_SQ8", 100_000, 100, 0.5, 200 * 5),  # as many as there are candidates
        ("HNSW8_SQ8", 6400, 10, 0.5, 64 * 5),
        ("HNSW8_SQ8", 6399, 10, 0.5, None),
        ("HNSW8_SQ8", 100_000, 10, 0, None),
        ("IVF16,SQ8", 100_000, 100, 1, 64),
        ("IVF2,SQ8", 100_000, 100, 0.5, None),
        ("Flat", 100_000, 10, 1, 64),
        ("Flat", 100_000, 10, 0.5, None),
    ],
)
def test_a_filter_widens_the_search_until_exact_search_is_as_fast(made, factory, covered, k, share, expected):
    assert made(factory, covered=covered, parameter=64).parameter_for(k, share) == expected


@pytest.mark.parametrize(("share", "expected"), [(1, 4), (0.5, 12), (0.25, 28), (2 / 9, 32), (0.2, None)])
def test_at_most_twice_the_largest_number_of_cells_is_visited(made, share, expected):
    assert made("IVF16,SQ8", parameter=4).parameter_for(100, share) == expected


def test_how_many_candidates_are_refined(made):
    assert [made(covered=1000).wanted(k) for k in (1, 16, 17, 100, 501)] == [32, 32, 34, 200, 1000]


def test_training_and_few_queries_take_one_thread(made, monkeypatch, capfd):
    taken = []
    monkeypatch.setattr(ann, "faiss_threads", lambda number: taken.append(number) or nullcontext())
    index = made("IVF2,SQ8")
    for queries, threads in ((3, None), (4, None), (4, 5)):
        index.candidates(QUERIES[:queries], 2, None, threads=threads)
    assert taken == [1, 1, None, 5]
    assert capfd.readouterr().out == ""


def test_a_file_is_compared_with_its_checksum_once_when_it_is_first_needed(made, tmp_path, monkeypatch):
    flags, compared, real, verify = [], [], faiss.read_index, Ann.verify
    monkeypatch.setattr(faiss, "read_index", lambda path, flag: flags.append(flag) or real(path, flag))
    monkeypatch.setattr(Ann, "verify", lambda own: compared.append(own) or verify(own))
    new = made()
    new.candidates(QUERIES, 2, None)
    assert new.to_json() == {"covered": 100, "parameter": 4, "k_factor": 2, "key": 0, "crc": 0, "size": 0}
    new.write(tmp_path / "ann")
    assert not compared
    values = new.to_json()
    for mmap, checked, at_once in [
        (True, 0, 0),
        (True, values["size"] - 1, 0),
        (True, values["size"], 1),
        (False, 0, 1),
    ]:
        compared.clear()
        read = Ann.read(tmp_path / "ann", values, mmap=mmap, checked=checked)
        assert len(compared) == at_once
        for _ in range(3):
            read.candidates(QUERIES, 2, None)
        assert len(compared) == 1
    assert flags == [faiss.IO_FLAG_MMAP_IFC] * 3 + [0]
    wrong = Ann.read(tmp_path / "ann", values | {"crc": 7}, mmap=True)
    told = f"{tmp_path / 'ann'}: damaged: found checksum {values['crc']:08x}, expected 00000007; "
    with pytest.raises(SearchError, match=f"^{told}restore a copy or build the index anew$"):
        wrong.candidates(QUERIES, 2, None)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device"),
        (RuntimeError("Error in a function\nit went (wrong) at last"), "it went (wrong) at last"),
        (RuntimeError("could not write (Disk quota exceeded)\n"), "Disk quota exceeded"),
        (RuntimeError("Error in faiss::Writer at io.cpp:103: Error: 'f' failed: it is full"), "it is full"),
    ],
)
def test_a_file_that_cannot_be_written_is_not_left_behind(made, tmp_path, monkeypatch, error, told):
    def failing(index, name):
        Path(name).write_bytes(b"half")
        raise error

    monkeypatch.setattr(faiss, "write_index", failing)
    with pytest.raises(SearchError) as caught:
        made().write(tmp_path / "ann")
    told = f"{tmp_path / 'ann'}: {told}; the index is as it was before; free the way and try again"
    assert str(caught.value) == told
    assert not (tmp_path / "ann").exists()


def test_a_folder_that_has_gone_is_named(made, tmp_path):
    with pytest.raises(SearchError, match="gone/ann: No such file or directory; the index is as it was before"):
        made().write(tmp_path / "gone" / "ann")


def test_indexes_that_faiss_makes_and_does_not_make(made):
    for factory in ("HNSW8_SQ8", "IVF2,SQ8", "PCA8,Flat"):
        assert made(factory).index.metric_type == faiss.METRIC_INNER_PRODUCT
    assert search_parameters(made("PCA8,Flat").index, 4, 10) is None
    told = (
        r"^kind: faiss makes no index of dimension 16 from 'IVF2,XY' \('index_ivf' failed: could not parse .*XY.*\); "
    )
    with pytest.raises(ConfigError, match=f"{told}try auto, flat, hnsw, ivf or ivf-pq$"):
        new_faiss_index(16, "IVF2,XY")
