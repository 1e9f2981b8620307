"""Bulk encoding by Ray Data as a user runs it: the same vectors as here, and none lost when a worker is killed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from importlib.util import find_spec

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from simcse import ConfigError, DataError, SentenceEncoder
from simcse.encoder.bulk.ray import EncodeRows, _reason, encode_parquet

NO_RAY = pytest.mark.skipif(not find_spec("ray"), reason="needs ray: pip install 'simcse-kit[ray]'")


def vectors_of(table):
    return np.array(table["vector"].to_pylist(), np.float32)


def test_a_worker_adds_the_vectors_of_the_encoder(tiny_bert, sentences):
    rows = pa.table({"n": range(len(sentences)), "s": sentences})
    done = EncodeRows(str(tiny_bert), "s", {"dtype": "fp32"}, {}, None)(rows)
    assert done.drop_columns("vector") == rows
    assert done.schema.field("vector").type == pa.list_(pa.float32(), 32)
    expected = SentenceEncoder.from_pretrained(tiny_bert, dtype="fp32").encode(sentences)
    np.testing.assert_allclose(vectors_of(done), expected, atol=1e-6)


def test_a_worker_keeps_the_first_dimensions(tiny_bert, sentences):
    done = EncodeRows(str(tiny_bert), "s", {"dtype": "fp32", "truncate_dim": 8}, {}, None)(pa.table({"s": sentences}))
    expected = SentenceEncoder.from_pretrained(tiny_bert, dtype="fp32", truncate_dim=8).encode(sentences)
    np.testing.assert_allclose(vectors_of(done), expected, atol=1e-6)


def workers_of(process):
    """The processes below that hold an encoder."""
    with contextlib.suppress(psutil.NoSuchProcess):
        below = psutil.Process(process.pid).children(recursive=True)
        return [one for one in below if one.name().startswith("ray::Map") or "MapWorker" in " ".join(one.cmdline())]
    return []


@NO_RAY
def test_a_worker_killed_midway_loses_nothing(tiny_bert, sentences, tmp_path):
    """SIGKILL hits a worker once the first rows are written; all rows come out once, with the local vectors.

    Blocks that were done again may stand behind later ones, so rows are compared in the order of their ids.
    """
    count = 12_000
    texts = [f"{sentences[i % 64]} {i} {i * 7919 % 1000}" for i in range(count)]
    for part in range(2):
        share = range(part * count // 2, (part + 1) * count // 2)
        table = pa.table({"id": share, "text": [texts[i] for i in share]})
        pq.write_table(table, tmp_path / f"in{part}.parquet", row_group_size=1000)
    arguments = [
        "encode",
        "in0.parquet",
        "in1.parquet",
        "--model",
        str(tiny_bert),
        "--output",
        "out",
        "--dtype",
        "fp32",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "simcse", *arguments, "--engine", "ray", "--workers", "2"],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True, env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
    )  # fmt: skip
    killed = None
    while process.poll() is None and killed is None:
        if any(tmp_path.glob(".out.*/new/*.parquet")) and (workers := workers_of(process)):
            killed = workers[0]
            killed.kill()
        time.sleep(0.02)
    _, told = process.communicate(timeout=300)
    assert process.returncode == 0, told
    assert killed is not None
    assert f"out: {count} rows with vectors" in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in0.parquet", "in1.parquet", "out"]
    table = pq.read_table(tmp_path / "out").sort_by("id")
    assert table["id"].to_pylist() == list(range(count))
    assert table["text"].to_pylist() == texts
    expected = SentenceEncoder.from_pretrained(tiny_bert, dtype="fp32").encode(texts)
    np.testing.assert_allclose(vectors_of(table), expected, atol=1e-5)


def test_wrong_inputs_are_told_before_ray_starts(tiny_bert, tmp_path):
    pq.write_table(pa.table({"a": ["x"], "b": ["y"]}), tmp_path / "two.parquet")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "none.parquet")
    pq.write_table(pa.table({"text": ["x"], "vector": ["y"]}), tmp_path / "vectors.parquet")
    (tmp_path / "lines.txt").write_text("a dog\n")
    for file, options, error, part in [
        ("missing.parquet", {}, DataError, "no such file"),
        ("lines.txt", {}, DataError, "not a parquet file"),
        ("two.parquet", {}, DataError, "found columns a, b, expected text"),
        ("two.parquet", {"column": "c"}, DataError, "expected c"),
        ("none.parquet", {}, DataError, "found no row"),
        ("vectors.parquet", {}, DataError, "has a column 'vector' already; rename it"),
        ("two.parquet", {"workers": 0}, ConfigError, "^workers: found 0"),
        ("two.parquet", {"column": "a", "model": "./none"}, ConfigError, "^model: found './none', no such folder"),
    ]:
        with pytest.raises(error, match=part):
            encode_parquet([tmp_path / file], tmp_path / "out", **{"model": str(tiny_bert)} | options)
    with pytest.raises(ConfigError, match="expected the name of a new folder"):
        encode_parquet([tmp_path / "two.parquet"], tmp_path, str(tiny_bert))
    assert not (tmp_path / "out").exists()


def test_a_row_without_text_is_told(tiny_bert):
    worker = EncodeRows(str(tiny_bert), "s", {"dtype": "fp32"}, {}, None)
    with pytest.raises(DataError, match="found None, expected a text in every row"):
        worker(pa.table({"s": ["a dog", None]}))


def test_a_worker_takes_the_threads_that_are_its_share(tiny_bert):
    before = torch.get_num_threads()
    try:
        for threads, expected in ((before + 1, before + 1), (None, before + 1), (before, before)):
            EncodeRows(str(tiny_bert), "s", {"dtype": "fp32"}, {}, threads)
            assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def files(tmp_path):
    """A file of texts, and one with a row that has none."""
    pq.write_table(pa.table({"text": ["a dog", "a cat"]}), tmp_path / "whole.parquet")
    pq.write_table(pa.table({"text": ["a dog", None]}), tmp_path / "hole.parquet")
    return tmp_path


@NO_RAY
@pytest.mark.parametrize("address", [None, "10.0.0.1:6379"])
def test_a_cluster_is_joined_where_one_is_named_else_started(files, tiny_bert, monkeypatch, address):
    """Of what Ray is asked for alone: there is no cluster here."""
    import ray

    asked = []

    def init(**options):
        asked.append(options)
        raise ConnectionError("no cluster")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConnectionError, match="no cluster"):
        encode_parquet([files / "whole.parquet"], files / "out", str(tiny_bert), workers=99)
    [options] = asked
    assert options.get("num_cpus") == (None if address else max(os.cpu_count() or 1, 100))
    assert not (files / "out").exists()
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"engine ray needs the package ray: pip install 'simcse-kit\[ray\]'"):
        encode_parquet([files / "whole.parquet"], files / "out", str(tiny_bert))


@NO_RAY
@pytest.mark.filterwarnings("ignore")  # Ray's own, about itself
def test_what_could_not_be_encoded_leaves_nothing_and_a_ray_of_ones_own_goes_on(files, tiny_bert, monkeypatch):
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        options = {"workers": 1, "dtype": "fp32", "device": "cpu"}
        with pytest.raises(
            DataError, match=r"out: was not written: column 'text': found None, expected a text in every row"
        ):
            encode_parquet([files / "hole.parquet"], files / "out", str(tiny_bert), **options)
        one = pa.table({"text": ["a dog"], "vector": [[1.0]]})
        monkeypatch.setattr(ray.data.Dataset, "write_parquet", lambda own, to: pq.write_table(one, f"{to}/x.parquet"))
        with pytest.raises(DataError, match=r"out: was not written: 1 rows came out of 2; try again"):
            encode_parquet([files / "whole.parquet"], files / "out", str(tiny_bert), **options)
        assert sorted(path.name for path in files.iterdir()) == ["hole.parquet", "whole.parquet"]
        assert ray.is_initialized(), "it was not started here"
    finally:
        ray.shutdown()
    assert _reason(ray.exceptions.RayError("\n one\n  two \n")) == "two"
    assert _reason(ray.exceptions.RayError()) == "RayError"
