"""An index as files: what other packages read is what the index holds, and makes the same index again."""

from __future__ import annotations

import json

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest

from simcse import ConfigError, SearchIndex
from simcse.search.tools import export as exporting
from simcse.search.tools.build import build_from_files
from simcse.search.tools.export import export

TEXTS = [f"text number {i} about {i * 7 % 13}" for i in range(30)]
METADATA = [
    {"year": 1990 + i, "share": i if i % 2 else i / 3, "ok": i > 3, "any": ["a", i], "id": "x"} for i in range(29)
]


@pytest.fixture
def index(encoder, monkeypatch):
    monkeypatch.setattr(exporting, "ROWS_A_BLOCK", 7)
    index = SearchIndex.build(TEXTS, encoder, ids=range(100, 130), metadata=[*METADATA, {"year": None, "more": 2**60}])
    index.delete([110])
    return index


def test_parquet(index, encoder, tmp_path):
    path, done = tmp_path / "deep" / "x.parquet", []
    assert export(index, path, done.append) == sum(done) == 29
    table = pq.read_table(path)
    types = {field.name: str(field.type) for field in table.schema if field.name != "vector"}
    assert types == {
        "id": "int64", "text": "string", "year": "int64", "share": "double", "ok": "bool", "any": "string",
        "metadata_id": "string", "more": "int64",
    }  # fmt: skip
    rows = table.to_pylist()
    assert [row["id"] for row in rows] == [i for i in range(100, 130) if i != 110]
    np.testing.assert_array_equal([row["vector"] for row in rows], index.vectors([row["id"] for row in rows]))
    assert rows[1]["share"] == 1
    assert (rows[0]["any"], rows[0]["metadata_id"], rows[0]["more"], rows[-1]["more"]) == ('["a", 0]', "x", None, 2**60)
    again = build_from_files([path], tmp_path / "again", encoder, vectors=[path])
    for found, expected in zip(again.search(TEXTS, 4), index.search(TEXTS, 4), strict=True):
        assert [hit.id for hit in found] == [hit.id for hit in expected]
        # without the row that was deleted others lie elsewhere, and some CPUs' products round by place
        np.testing.assert_allclose([hit.score for hit in found], [hit.score for hit in expected], rtol=0, atol=1e-6)
    assert {hit.id for hit in again.search(TEXTS[5], 50, where={"year": {">=": 2015}})[0]} == set(range(125, 129))


def test_faiss(index, encoder, tmp_path):
    path = tmp_path / "x.faiss"
    assert export(index, path) == 29
    beside = [json.loads(line) for line in (tmp_path / "x.faiss.jsonl").read_text().splitlines()]
    scores, found = faiss.read_index(str(path)).search(index.vectors([107, 120]), 5)
    for row, hits in enumerate(index.search([TEXTS[7], TEXTS[20]], 5)):
        assert [beside[slot]["text"] for slot in found[row]] == [hit.text for hit in hits]
        np.testing.assert_allclose(scores[row], [hit.score for hit in hits], atol=1e-6)
    again = build_from_files([tmp_path / "x.faiss.jsonl"], tmp_path / "again", encoder, vectors=[path])
    expected = [(key, text) for key, text, _ in index.rows()]
    assert [(key, text) for key, text, _ in again.rows()] == expected
    fields = next(again.rows())[2]
    assert fields == {"year": 1990, "share": 0.0, "ok": False, "any": ["a", 0], "metadata_id": "x", "more": None}


def test_ids_that_are_texts_and_numbers(encoder, tmp_path):
    index = SearchIndex.build(TEXTS[:2], encoder, ids=[7, "x"])
    export(index, tmp_path / "x.parquet")
    assert pq.read_table(tmp_path / "x.parquet")["id"].to_pylist() == ["7", "x"]


def test_nothing_half_written(index, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"found .*x.csv, expected a name that ends in .parquet or .faiss"):
        export(index, tmp_path / "x.csv")

    def fails(n):
        raise KeyboardInterrupt

    for name in ("x.parquet", "x.faiss"):
        with pytest.raises(KeyboardInterrupt):
            export(index, tmp_path / name, fails)
    assert not list(tmp_path.iterdir())
