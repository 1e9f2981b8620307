"""Files of approximate indexes that are opened before their checksum is compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simcse.errors import SearchError
from simcse.search.nearest.ann import Ann, new_faiss_index


@pytest.mark.parametrize("factory", ["HNSW8_SQ8", "IVF2,SQ8"])
def test_a_file_that_was_cut_is_refused_before_faiss_maps_it(tmp_path: Path, factory: str) -> None:
    """faiss itself crashes on some of them (1.15: cut within a number of a header)."""
    matrix = np.random.default_rng(0).standard_normal((100, 16), np.float32)
    ann = Ann(new_faiss_index(16, factory), len(matrix), parameter=4, k_factor=2)
    ann.train(matrix)
    ann.add(matrix, np.arange(100))
    path = tmp_path / "ann-000001.faiss"
    ann.write(path)
    values, whole = ann.to_json(), path.read_bytes()
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
