"""Every format that simcse ever had on disk opens still, says what was written, and can be gone on with.

The samples in `files/` were written by `make.py` when their version was new, and are never written again. What says no
version is from before there was one; what says a newer one is refused.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from formats.make import IDS, SAMPLES, STOPPED_AT, TEXTS, encode, rows_of_index, run_config

from simcse import SearchIndex, SentenceEncoder
from simcse.data.vectors import open_vectors
from simcse.encoder.bulk import npy
from simcse.errors import ConfigError, ModelError, SearchError, SimCSEError
from simcse.evaluation.postprocess import Fitted
from simcse.search.milvus import storage
from simcse.search.nearest import plan
from simcse.training.run import train
from simcse.training.run_dir import RunDir

FILES = Path(__file__).parent / "files"
MOST = 300_000  # bytes of all samples
KINDS = ["flat", "hnsw"]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the samples, in which names of a run are looked for."""
    shutil.copytree(FILES, tmp_path / "files")
    monkeypatch.chdir(tmp_path / "files")
    return tmp_path / "files"


def changed(file: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    content = json.loads(file.read_bytes())
    change(content)
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def test_samples_of_all_formats_of_today_are_kept() -> None:
    """One that is missing: PYTHONPATH=tests:. python tests/formats/make.py tests/formats/files"""
    assert set(SAMPLES) <= {path.name for path in FILES.iterdir()}
    assert sum(path.stat().st_size for path in FILES.rglob("*") if path.is_file()) < MOST


def check_index(index: SearchIndex) -> None:
    index.verify()
    expected = sorted(rows_of_index(), key=str)
    assert sorted(index.rows(), key=str) == expected
    keys, texts = [row[0] for row in expected], [row[1] for row in expected]
    np.testing.assert_allclose(index.vectors(keys), encode(texts), atol=1e-6)
    assert [hit.id for [hit] in index.search(texts, top_k=1)] == keys
    [hits] = index.search(texts[0], top_k=50, where={"number": {">=": 30}, "even": True})
    assert sorted(map(str, (hit.id for hit in hits))) == sorted(str(IDS[i]) for i in (32, 34, 36, 38))
    index.add(["one more"], ids=["new"])
    index.delete([keys[0]])
    index.verify()
    assert len(index) == len(expected)
    index.close()


@pytest.mark.parametrize("kind", KINDS)
def test_an_index(kind: str, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "FLAT_BELOW", 10)
    index = SearchIndex.load(files / "index-3" / kind, encode)
    assert index.info["kind"] == kind
    assert index.info["deleted"] == 5  # rows that were replaced or deleted, and lie in the file of vectors still
    check_index(index)


def test_an_index_in_milvus(files: Path) -> None:
    check_index(SearchIndex.load(f"milvus:{files / 'milvus-3' / 'index.db'}", encode))


def check_encoder(folder: Path, vectors: np.ndarray) -> SentenceEncoder:
    encoder = SentenceEncoder.from_pretrained(folder, device="cpu", dtype="fp32")
    np.testing.assert_allclose(encoder.encode(TEXTS[:8]), vectors, atol=1e-5)
    return encoder


def test_a_checkpoint(files: Path) -> None:
    folder, vectors = files / "checkpoint-2", np.load(files / "checkpoint-2-vectors.npy")
    encoder = check_encoder(folder, vectors)
    assert (encoder.prompts, encoder.truncate_dim) == ({"query": "a question", "document": ""}, 10)
    check_encoder(encoder.save_pretrained(files / "again"), vectors)

    def version_1(settings: dict[str, Any]) -> None:
        for name in {*settings} - {"pooling", "projection", "max_length"}:
            del settings[name]
        settings["format"] = 1

    changed(folder / "simcse.json", version_1)
    whole = SentenceEncoder.from_pretrained(folder, device="cpu", dtype="fp32").encode(TEXTS[:8])  # (8, 12)
    np.testing.assert_allclose(whole[:, :10] / np.linalg.norm(whole[:, :10], axis=1, keepdims=True), vectors, atol=1e-5)


def losses(folder: Path) -> list[float]:
    return [
        record["loss"]
        for record in map(json.loads, (folder / "log.jsonl").read_text().splitlines())
        if "loss" in record
    ]


def go_on(name: str) -> dict[str, Any]:
    """The report of a run of the samples, which goes on or has come to its end."""
    return train(replace(run_config(), output_dir=f"run-1/{name}", resume="auto"))


@pytest.mark.parametrize("said", [True, False])
def test_a_run_that_was_stopped(files: Path, said: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """It is the same run: with its data, with the vectors of its teacher, and with the losses that it had."""
    if not said:
        changed(files / "run-1" / "stopped" / "last" / "run.json", lambda facts: facts.pop("format"))
    cached = {path.name: path.stat().st_mtime_ns for path in (files / "run-1" / "teacher").glob("*.npy")}
    report = go_on("stopped")
    assert f"resuming at step {STOPPED_AT + 1} of" in capsys.readouterr().err
    assert {path.name: path.stat().st_mtime_ns for path in (files / "run-1" / "teacher").glob("*.npy")} == cached
    np.testing.assert_allclose(losses(files / "run-1" / "stopped"), losses(files / "run-1" / "finished"), rtol=1e-3)
    assert set(report["tasks"]) == {"dev.tsv"}


def test_a_run_from_before_an_option_was_there(files: Path) -> None:
    """It had the default, whatever the option is; only another value makes another run of it."""

    def without(options: dict[str, Any]) -> None:
        del options["temperature"], options["optim"]["warmup"]

    changed(files / "run-1" / "stopped" / "last" / "run.json", lambda facts: without(facts["options"]))
    file = files / "run-1" / "stopped" / "config.yaml"
    options = yaml.safe_load(file.read_text())
    without(options)
    file.write_text(yaml.safe_dump(options))
    RunDir(file.parent, run_config().as_dict(), "auto").close()
    with pytest.raises(ConfigError, match=r"^temperature is 0\.1, but the run in .* was started with 0\.05"):
        RunDir(file.parent, replace(run_config(), temperature=0.1).as_dict(), "auto")


@pytest.mark.parametrize("said", [True, False])
def test_a_run_that_has_come_to_its_end(files: Path, said: bool) -> None:
    """Its last/ was removed since, which a user may do."""
    if not said:
        changed(files / "run-1" / "finished" / "report.json", lambda report: report.pop("format"))
    before = (files / "run-1" / "finished" / "log.jsonl").read_bytes()
    run = RunDir("run-1/finished", replace(run_config(), resume="auto").as_dict(), "finished")
    report = run.finished()
    run.close()
    assert report is not None
    assert report["tasks"]["dev.tsv"]["n"] == 20
    assert (files / "run-1" / "finished" / "log.jsonl").read_bytes() == before


def test_vectors_in_every_format(files: Path) -> None:
    for name in ("v.npy", "v.npz", "v.parquet"):
        file = open_vectors(files / "encode_to-1" / name)
        np.testing.assert_array_equal(np.concatenate(list(file.blocks())), encode(TEXTS))
    rows = [json.loads(line) for line in (files / "encode_to-1" / "v.jsonl").read_text().splitlines()]
    assert [(row["id"], row["text"]) for row in rows] == list(enumerate(TEXTS))
    np.testing.assert_allclose([row["vector"] for row in rows], encode(TEXTS), atol=1e-7)


def encode_the_rest(files: Path) -> list[str]:
    """Encode to the file that was stopped; returns which texts were encoded."""
    seen: list[str] = []

    def noting(texts: list[str]) -> np.ndarray:
        seen.extend(texts)
        return encode(texts)

    npy.encode_to(files / "encode_to-1" / "stopped.npy", TEXTS, noting, made_by="sample")
    np.testing.assert_array_equal(np.load(files / "encode_to-1" / "stopped.npy"), encode(TEXTS))
    return seen


@pytest.mark.parametrize("said", [True, False])
def test_encoding_that_was_stopped(files: Path, said: bool) -> None:
    if not said:
        changed(files / "encode_to-1" / "stopped.npy.partial.json", lambda note: note.pop("format"))
    assert encode_the_rest(files) == TEXTS[24:]


@pytest.mark.parametrize("said", [True, False])
def test_a_map(files: Path, said: bool) -> None:
    if not said:
        changed(files / "whitening-1" / "postprocess.json", lambda settings: settings.pop("format"))
    vectors = Fitted.load(files / "whitening-1").apply(encode(TEXTS[:8]))
    np.testing.assert_allclose(vectors, np.load(files / "whitening-1-vectors.npy"), atol=1e-5)


def open_run(folder: Path) -> None:
    RunDir(folder, run_config().as_dict(), "auto").close()


# file of the samples, the key of its version, the newest known, what reads it, its error
NEWER: dict[str, tuple[str, str, int, Callable[[Path], Any], type[SimCSEError]]] = {
    "index": (
        "index-3/flat/manifest.json", "version", 3,
        lambda file: SearchIndex.load(file.parent, encode), SearchError,
    ),
    "checkpoint": (
        "checkpoint-2/simcse.json", "format", 2,
        lambda file: SentenceEncoder.from_pretrained(file.parent), ModelError,
    ),
    "run": ("run-1/stopped/last/run.json", "format", 1, lambda file: open_run(file.parents[1]), ModelError),
    "report": ("run-1/finished/report.json", "format", 1, lambda file: open_run(file.parent), ModelError),
    "vectors": (
        "encode_to-1/stopped.npy.partial.json", "format", 1,
        lambda file: encode_the_rest(file.parents[1]), ConfigError,
    ),
    "map": ("whitening-1/postprocess.json", "format", 1, lambda file: Fitted.load(file.parent), ModelError),
}  # fmt: skip


@pytest.mark.parametrize("name", NEWER)
def test_a_newer_version_is_refused(name: str, files: Path) -> None:
    """What, found, known, remedy; and nothing of the file is changed."""
    place, key, known, read, error = NEWER[name]
    file = changed(files / place, lambda content: content.update({key: known + 1, "of the future": [1]}))
    before = file.read_bytes()
    with pytest.raises(error) as refused:
        read(file)
    said = f"{place}: found format version {known + 1}, this program knows {known}; upgrade simcse"
    assert str(refused.value).endswith(said)
    assert file.read_bytes() == before
    for damaged in ("new", None, True, 0, 1.5):
        changed(file, lambda content, damaged=damaged: content.update({key: damaged}))  # type: ignore[misc]
        with pytest.raises(error, match=r"damaged|expected an integer"):
            read(file)


def test_a_newer_index_in_milvus_is_refused(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "LAYOUT", 2)
    with pytest.raises(SearchError, match=r"index\.db: found format version 3, this program knows 2; upgrade simcse$"):
        SearchIndex.load(f"milvus:{files / 'milvus-3' / 'index.db'}", encode)
    monkeypatch.setattr(storage, "LAYOUT", 4)
    with pytest.raises(SearchError, match=r"index\.db: found format version 3, expected 4; build it anew$"):
        SearchIndex.load(f"milvus:{files / 'milvus-3' / 'index.db'}", encode)
