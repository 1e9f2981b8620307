"""What Ray Data is asked for, by a stand-in that runs the worker in this process: clusters of any size, in no time."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simcse import ConfigError, DataError, SentenceEncoder
from simcse.encoder.bulk import ray as bulk
from simcse.encoder.bulk.ray import encode_parquet

pytestmark = [
    pytest.mark.skipif(not find_spec("ray"), reason="needs ray: pip install 'simcse-kit[ray]'"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Ray's own, about itself
]

PROMPTS = {"query": "query: ", "code": "def "}
TEXTS = [f"a dog and {i} cats" for i in range(200)]


class Here:
    """Ray's data set of some files, and a note of all that it is asked for."""

    def __init__(self) -> None:
        self.asked, self.resources, self.error = {}, {"CPU": 8.0}, None

    def read_parquet(self, files, **options):
        self.asked["files"], self.asked["read"] = files, options
        return self

    def map_batches(self, function, *, fn_constructor_args, **options):
        self.asked["worker"], self.asked["map"] = (function, fn_constructor_args), options
        return self

    def write_parquet(self, folder):
        import ray

        context = ray.data.DataContext.get_current()
        self.asked["context"] = context.enable_progress_bars, context.execution_options.preserve_order
        if self.error:
            raise self.error
        function, arguments = self.asked["worker"]
        rows = pa.concat_tables([pq.read_table(file) for file in self.asked["files"]])
        pq.write_table(function(*arguments)(rows), f"{folder}/part.parquet")


@pytest.fixture
def here(monkeypatch):
    import ray

    stand_in = Here()
    monkeypatch.setattr(bulk, "ROWS_A_BATCH", 2)
    monkeypatch.setattr(ray, "init", lambda **options: None)
    monkeypatch.setattr(ray, "cluster_resources", lambda: stand_in.resources)
    monkeypatch.setattr(ray.data, "read_parquet", stand_in.read_parquet)
    return stand_in


@pytest.fixture
def model(tiny_bert, tmp_path, monkeypatch):
    """With prompts; named by a relative path."""
    encoder = SentenceEncoder.from_pretrained(tiny_bert)
    encoder.prompts = PROMPTS
    encoder.save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    return "model"


@pytest.fixture
def files(model):
    """Texts in two files, as relative paths; their only column is `line`."""
    for part in range(2):
        pq.write_table(pa.table({"line": TEXTS[part * 100 : part * 100 + 100]}), f"in{part}.parquet")
    return ["in0.parquet", "in1.parquet"]


@pytest.mark.parametrize(
    ("resources", "options", "gpus", "cpus"),
    [
        ({"CPU": 8.0}, {}, None, 3),
        ({"CPU": 9.0}, {"workers": 1}, None, 8),
        ({"CPU": 1.0}, {"workers": 5}, None, 1),
        ({"CPU": 8.0, "GPU": 2.0}, {}, 1, None),
        ({"CPU": 8.0, "GPU": 2.0}, {"device": "cpu"}, None, 3),
    ],
)
def test_workers_share_processors_or_have_an_accelerator_each(here, files, model, resources, options, gpus, cpus):
    here.resources = resources
    assert encode_parquet(files, "out", model, **options) == 200
    workers = options.get("workers", 2)
    assert here.asked["map"] == {
        "batch_format": "pyarrow", "batch_size": 2, "zero_copy_batch": True, "concurrency": workers,
        "num_gpus": gpus, "num_cpus": cpus,
    }  # fmt: skip
    assert here.asked["worker"][1][-1] == cpus
    assert here.asked["read"] == {"override_num_blocks": max(4 * workers, 7)}, "at least so many, else 16 batches each"
    assert here.asked["context"] == (False, True), "no bars, rows in order"


@pytest.mark.parametrize(
    ("options", "alike"),
    [
        ({}, {}),
        ({"normalize": False}, {"normalize": False}),
        ({"prompt": "find: "}, {"prompt": "find: "}),
        ({"prompt_name": "code"}, {"prompt": "def "}),
        ({"role": "query"}, {"prompt": "query: "}),
    ],
)
def test_vectors_are_those_of_encode(here, files, model, options, alike):
    """Of files and a folder that every worker finds, whatever folder it runs in."""
    encode_parquet(files, "out", model, dtype="fp32", **options)
    assert here.asked["files"] == [str(Path(name).resolve()) for name in files]
    assert here.asked["worker"][1][0] == str(Path(model).resolve())
    table = pq.read_table("out")
    assert table["line"].to_pylist() == TEXTS
    expected = SentenceEncoder.from_pretrained(model, dtype="fp32").encode(TEXTS, **alike)
    np.testing.assert_allclose(np.array(table["vector"].to_pylist()), expected, atol=1e-5)


def test_the_column_that_is_named_is_encoded(here, model):
    pq.write_table(pa.table({"text": ["a dog"], "title": ["a cat"]}), "two.parquet")
    for column, text in ((None, "a dog"), ("title", "a cat")):
        encode_parquet(["two.parquet"], f"out-{column}", model, column=column, dtype="fp32")
        expected = SentenceEncoder.from_pretrained(model, dtype="fp32").encode([text])
        np.testing.assert_allclose(np.array(pq.read_table(f"out-{column}")["vector"].to_pylist()), expected, atol=1e-5)


def test_an_error_of_the_cluster_is_told_in_a_line(here, files):
    import ray

    here.error = ray.exceptions.RayError("a node\nis out of memory")
    with pytest.raises(DataError, match=r"^out: was not written: is out of memory$"):
        encode_parquet(files, "out", "some/model")
    assert here.asked["worker"][1][0] == "some/model", "no folder here: a name of the hub"
    assert sorted(path.name for path in Path().iterdir()) == ["in0.parquet", "in1.parquet", "model"]


@pytest.mark.parametrize(
    ("names", "options", "told"),
    [
        (["a.parquet"], {"column": "lime"}, "columns line, more, expected lime; did you mean 'line'?; name it as the"),
        (["a.parquet"], {}, "a.parquet: found columns line, more, expected text; name it as the option column"),
        (["none.parquet", "none.parquet"], {}, "none.parquet, none.parquet: found no row, expected at least one"),
        (["a.parquet"], {"column": "line", "output": "-"}, "output: found -, expected the name of a new folder"),
        (["a.parquet"], {"column": "line", "model": "/none"}, "model: found '/none', no such folder"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_before_ray_starts(here, model, names, options, told):
    pq.write_table(pa.table({"line": ["a"], "more": ["b"]}), "a.parquet")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), "none.parquet")
    with pytest.raises((ConfigError, DataError)) as caught:
        encode_parquet(names, **{"output": "out", "model": model} | options)
    assert told in str(caught.value)
    assert not here.asked
