"""What is fuzzed: a folder of good files, which of them are damaged, and what reads them then.

A target reads as users do. What it raises beyond the package's own error of one line that names a file is a finding,
as is an assertion of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from formats.make import TEXTS, encode
from fuzzing.samples import (
    SAMPLES,
    Files,
    bodies,
    faiss_files,
    filters,
    owners,
    parquets,
    samples,
    tables,
    task_files,
    teacher_vectors,
)
from pydantic import BaseModel, ValidationError

from simcse.data.augment import read_synonyms
from simcse.data.groups import group_rows
from simcse.data.inspect import inspect
from simcse.data.pairs import read_scored_pairs, read_text_pairs
from simcse.data.readers import read_identified, read_texts, read_training
from simcse.data.tabular import count_rows
from simcse.data.vectors import open_vectors
from simcse.errors import DataError, SimCSEError
from simcse.evaluation.retrieval import load_beir, load_query_pairs
from simcse.evaluation.sts import load_task
from simcse.evaluation.transfer import load_transfer
from simcse.search.documents import file_documents

__all__ = ["TARGETS", "Target", "check_line"]


@dataclass(frozen=True)
class Target:
    """One way to read.

    Attributes:
        files: names of files in a folder -> samples of each, the first of which is good. One is damaged at a time.
        reads: each reads the folder, of which a file was damaged.
        beside: files of the folder that stay as they are.
        refusals: errors that are an answer, too, and need not name a file.
        names: whether an error must name the file that was damaged; else any of the folder.
        share: of the time, in comparison with other targets.
    """

    files: Callable[[], Files]
    reads: tuple[Callable[[Path, str], object], ...]
    beside: Callable[[], Files] = dict
    refusals: tuple[type[Exception], ...] = ()
    names: bool = False
    share: float = 1.0


# ---- tables and texts


def read_lines(folder: Path, name: str) -> None:
    path = folder / name
    count, rows = count_rows(path), 0
    for text in read_texts(path):
        assert isinstance(text, str)
        rows += 1
    assert count is None or rows <= count + 1


def read_documents(folder: Path, name: str) -> None:
    for _, text, metadata in file_documents(folder / name):
        assert text.strip()
        json.dumps(metadata)


def read_to_train(folder: Path, name: str) -> None:
    rows = read_training(folder / name, blank_lines="skip")
    for column in rows.column_names:
        assert all(isinstance(text, str) and text.strip() for text in rows[column][:])


def read_pairs(folder: Path, name: str) -> None:
    pairs = read_scored_pairs(folder / name)
    assert len(pairs.a) == len(pairs.b) == len(pairs.scores) > 0
    assert np.isfinite(np.asarray(pairs.scores, float)).all()


def of_path(read: Callable[[Path], object]) -> Callable[[Path, str], None]:
    """As a target reads; what comes one by one is read to its end."""

    def whole(folder: Path, name: str) -> None:
        found = read(folder / name)
        if isinstance(found, Iterator):
            for _ in found:
                pass

    return whole


def each(*reads: Callable[[Path], object]) -> tuple[Callable[[Path, str], None], ...]:
    return tuple(map(of_path, reads))


def check_line(error: Exception) -> None:
    message = str(error)
    assert message, "an error without a word"
    assert len(message.splitlines()) == 1, f"no single line: {message[:200]!r}"
    assert len(message) <= 2000, "a line of more than 2,000 characters"


# ---- tasks


STS = {"STS12-en-test": "STS12", "STSBenchmark": "STS-B-dev"}


def read_task(folder: Path, name: str) -> object:
    place = name.split("/")
    match place[0]:
        case "STS":
            return load_task(STS[place[1]], folder)
        case "SICK":
            return load_task("SICK-R", folder)
        case "JGLUE":
            return load_task("JSTS", folder)
        case "ir":
            return load_beir(folder / "ir")
    return load_transfer(place[0], folder)


# ---- files of our own


def read_vectors(folder: Path, name: str) -> None:
    file = open_vectors(folder / name)
    rows = 0
    for block in file.blocks():
        assert block.ndim == 2
        assert block.shape[1] == file.dimension
        rows += len(block)
    assert rows == file.rows


def read_manifest(folder: Path, name: str) -> None:
    from simcse.search.local import files

    files.read_manifest(folder)


def read_index(folder: Path, name: str) -> None:
    """Opened, searched, read and verified; what is damaged may show at any of these."""
    from simcse import SearchIndex

    index = SearchIndex.load(folder, encode)
    try:
        fields = {name for _, _, metadata in index.rows() for name in metadata or {}}
        for hits in index.search(["a man", "the dog"], top_k=3, where={"even": True} if "even" in fields else None):
            for hit in hits:
                assert -1.001 <= hit.score <= 1.001
        assert len(list(index.rows())) == len(index)
        assert index.info["count"] == len(index)
        index.verify()
    finally:
        index.close()


def read_layout(folder: Path, name: str) -> None:
    from simcse.encoder import formats
    from simcse.encoder.configuration import read_config, whole_config

    if not name.startswith("simcse"):
        (folder / "simcse.json").unlink(missing_ok=True)
    formats.read_layout(folder)
    whole_config(read_config(folder))


def read_checkpoint(folder: Path, name: str) -> None:
    from simcse import SentenceEncoder

    encoder = SentenceEncoder.from_pretrained(folder, device="cpu", dtype="fp32")
    vectors = encoder.encode(["a man", "naïve 走る"])
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()


def read_run(folder: Path, name: str) -> None:
    from simcse.commands import runs
    from simcse.training.run_dir import RunDir

    shown = runs.read_run(folder)
    assert shown.state == "damaged" or shown.state == "finished" or " at step " in shown.state
    run = RunDir.__new__(RunDir)  # without the comparison of options, which is no reader
    run.folder = folder
    run.finished()


def read_state(folder: Path, name: str) -> None:
    from simcse.training.resume import check_whole, read_config
    from simcse.training.run_dir import RunDir

    if name == "config.yaml":
        read_config(folder)
        return
    if name == "last/run.json":
        facts = check_whole(folder / "last")
        assert {"files", "options", "data"} <= facts.keys()
        return
    run = RunDir.__new__(RunDir)
    run.folder, run.start = folder, folder / "last"
    if name == "log.jsonl":
        run.first_evaluation()
        run.losses()
    else:
        run.load_state()


def read_note(folder: Path, name: str) -> None:
    from simcse.encoder.bulk import npy

    done = npy._read_progress(folder / name, folder / "stopped.npy.partial", 4)
    npy._skip_done(done, npy._Progress("sample", 16), iter(TEXTS), folder / "stopped.npy.partial")


def read_teacher_vectors(folder: Path, name: str) -> None:
    from simcse.training.teacher import cached_vectors

    assert cached_vectors(folder / name, 4, 8).shape == (4, 8)


def read_owner(folder: Path, name: str) -> None:
    """As a run does that finds the folder of another; what says nothing is no error there, and an answer here."""
    from simcse.training import run_lock

    owner = run_lock._parsed((folder / name).read_bytes())
    assert len(run_lock._shown(owner).splitlines()) == 1
    if owner is None:
        raise DataError(f"{folder / name}: says nothing")


def read_map(folder: Path, name: str) -> None:
    from simcse.evaluation.postprocess import Fitted

    fitted = Fitted.load(folder)
    mapped = fitted.apply(np.ones((2, fitted.metadata["d"]), np.float32))
    assert mapped.shape == (2, fitted.metadata["k"])


def read_faiss(folder: Path, name: str) -> None:
    """As an index reads its own file, and as vectors that somebody else wrote."""
    from simcse.search.nearest.ann import Ann
    from simcse.search.tools import vectors

    if name.startswith("ann"):
        crc = json.loads((SAMPLES / "index-3/hnsw/manifest.json").read_bytes())["files"][name]["crc32"]
        values = {"covered": 40, "parameter": 8, "k_factor": 2, "key": 3, "crc": int(crc, 16)}
        values["size"] = (SAMPLES / "index-3/hnsw" / name).stat().st_size
        # the first as one that is too large to be read before it is searched: faiss sees the damage
        for mmap, checked in ((True, 0), (False, 0), (True, 2**20)):
            ann = Ann.read(folder / name, values, mmap=mmap, checked=checked)
            ann.check()
        return
    file = vectors._opened(folder / name)
    assert sum(len(block) for block in file.blocks()) == file.rows


# ---- requests


@cache
def requests() -> dict[str, type[BaseModel]]:
    from simcse.serving import schemas

    names = ("Search", "Similarity", "Encode", "Add", "Delete", "Embeddings")
    return {name: getattr(schemas, f"{name}Request") for name in names}


def read_body(folder: Path, name: str) -> None:
    """As a service does: what is accepted must be a filter, and must be answerable as JSON in UTF-8."""
    from simcse.search.filters import conditions
    from simcse.search.rows import packed_metadata

    try:
        values = json.loads((folder / name).read_bytes())
    except (ValueError, RecursionError):  # the framework's own answer
        return
    request: Any = requests()[name].model_validate(values)
    if name == "Search":
        conditions(request.where, ["lang", "year", "note", "even"])
    for metadata in getattr(request, "metadata", None) or []:
        packed_metadata(metadata)
    json.dumps(request.model_dump(exclude={"metadata"}), ensure_ascii=False).encode()


def read_filter(folder: Path, name: str) -> None:
    from simcse.search.filters import conditions, parse_conditions

    texts = (folder / name).read_text("utf-8", "replace").split("\n")
    for field_, operator, values in conditions(parse_conditions(texts), ["lang", "year", "note"]):
        assert field_ in ("lang", "year", "note")
        assert operator in ("=", "<", "<=", ">", ">=", "!=")
        json.dumps(values)


def text_pairs(path: Path) -> Iterator[tuple[str, str]]:
    return read_text_pairs(str(path))


TARGETS: dict[str, Target] = {
    "texts": Target(tables, (read_lines, *each(read_identified, count_rows)), names=True, share=2),
    "documents": Target(tables, (read_documents,), names=True),
    "training": Target(tables, (read_to_train,), names=True),
    "pairs": Target(tables, (read_pairs, *each(text_pairs)), names=True),
    "groups": Target(tables, each(lambda path: group_rows(path, None), load_query_pairs), names=True),
    "inspect": Target(tables, each(inspect), names=True),
    "synonyms": Target(lambda: {"x.tsv": [b"big\tlarge\thuge\nfast\tquick\n"]}, each(read_synonyms), names=True),
    "tasks": Target(task_files, (read_task,), share=2),
    "parquet": Target(
        lambda: {"x.parquet": [*parquets()]}, (read_documents, read_pairs, *each(read_texts, inspect, text_pairs)),
        names=True,
    ),
    "vectors": Target(samples("encode_to-1", "v.np[yz]", "v.parquet"), (read_vectors,), names=True),
    "manifest": Target(samples("index-3/hnsw", "manifest.json"), (read_manifest,), names=True, share=2),
    "index": Target(samples("index-3/hnsw"), (read_index,), share=2),
    "layout": Target(samples("checkpoint-2", "**/*.json"), (read_layout,), samples("checkpoint-2"), share=0.3),
    "checkpoint": Target(samples("checkpoint-2"), (read_checkpoint,), share=0.3),
    "run": Target(samples("run-1/finished"), (read_run,), share=0.3),
    "state": Target(
        samples("run-1/stopped", "config.yaml", "log.jsonl", "last/run.json", "last/trainer.pt"), (read_state,),
        samples("run-1/stopped"),
    ),
    "note": Target(
        samples("encode_to-1", "stopped*.json"), (read_note,), samples("encode_to-1", "stopped.npy.partial"), share=2,
    ),
    "map": Target(samples("whitening-1"), (read_map,), share=2),
    "teacher": Target(teacher_vectors, (read_teacher_vectors,), names=True),
    "owner": Target(owners, (read_owner,)),
    "faiss": Target(faiss_files, (read_faiss,), names=True, share=0.3),
    "bodies": Target(bodies, (read_body,), refusals=(ValidationError, SimCSEError), share=6),
    "filters": Target(filters, (read_filter,), refusals=(SimCSEError,), share=3),
}  # fmt: skip
