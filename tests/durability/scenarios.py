"""What is done to a folder while `recorder.c` watches; each step ends with a mark: what is promised from then on.

Run by `recording.recorded` in a process of their own.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from durability.recording import BEGIN, mark

WIDTH = 16
TEXTS = [f"text number {i}" for i in range(60)]
CONFIG = {"optim": {"lr": 1e-5}, "max_steps": 100}
LIBRARY = bytes(range(256)) * 12
STEM = "kernel-0123456789abcdef"


def encode(texts: list[str]) -> np.ndarray:
    """Unit vectors (n, 16) that tell texts apart."""
    rows = [np.random.default_rng(zlib.crc32(text.encode())).standard_normal(WIDTH) for text in texts]
    vectors = np.array(rows, np.float32).reshape(-1, WIDTH)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def main(folder: str, names: list[str]) -> None:
    """Run some scenarios, each in a folder of its name."""
    for name in names:
        Path(folder, name).mkdir()
    for name in names:
        mark(BEGIN + name)
        globals()[name](Path(folder, name))


def small_approximate_indexes() -> None:
    """Build one for few rows, and have it take in few."""
    from simcse.search.local import state
    from simcse.search.nearest import plan

    plan.FLAT_BELOW, state.LONGEST_TAIL = 10, 12


def index(folder: Path) -> None:
    """An index that is saved, changed in every way, and replaced."""
    from simcse import SearchIndex

    small_approximate_indexes()
    place = folder / "new" / "index"

    def promise(index: SearchIndex) -> None:
        mark(json.dumps([[key, text, metadata] for key, text, metadata in index.rows()]))

    metadata = [{"number": i, "note": "x" * (i % 7)} for i in range(40)]
    own = SearchIndex.build(TEXTS[:40], encode, metadata=metadata, kind="hnsw", target_recall=0.1)
    own.save(place)
    promise(own)
    own.add(["one more"], metadata=[{"number": -1}])
    promise(own)
    own.add([f"many more {i}" for i in range(30)])  # so many that the approximate index takes them in
    promise(own)
    own.upsert(["another one", "yet another"], ids=[3, 41])
    promise(own)
    own.delete([0, 5, 6])
    promise(own)
    own.delete(range(10, 34))  # so many that it compacts itself
    promise(own)
    own.optimize()
    promise(own)
    own.compact()
    promise(own)
    own.close()
    other = SearchIndex.build(TEXTS[30:], encode, ids=[f"id {i}" for i in range(30)], kind="flat")
    other.save(place)
    promise(other)
    other.delete(["id 2"])
    promise(other)
    other.add(["the last"], ids=["last"])
    promise(other)
    other.close()


def checkpoint(folder: Path) -> None:
    """An encoder that is saved over another one; a report, a table and a map beside it."""
    import torch
    from tiny import build_encoder

    from simcse import SentenceEncoder
    from simcse.evaluation.postprocess import fit

    tiny = build_encoder(Path(os.environ["SIMCSE_RECORD_LOG"]).parent / "tiny", hidden=8)
    encoder = SentenceEncoder.from_pretrained(tiny, device="cpu", dtype="fp32", pooling="mean")
    for number in range(3):
        with torch.no_grad():
            for weight in encoder.parameters():
                weight.add_(0.01)
        encoder.save_pretrained(folder / "models" / "best")
        mark(f"encoder {number}")
    for texts in (TEXTS, TEXTS[:40]):
        fit(encode, texts).save(folder / "whitening")
        mark(f"whitening of {len(texts)}")


def run(folder: Path) -> None:
    """A run that logs, saves its state and its best encoder, is stopped, and goes on."""
    from simcse.training.run_dir import RunDir

    def encoder(number: int) -> Any:
        def write(new: Path) -> None:
            (new / "config.json").write_text(json.dumps({"number": number}))
            (new / "model.safetensors").write_bytes(bytes([number]) * 3000)

        return write

    def step(run: RunDir, number: int, last: int) -> None:
        run.log({"step": number, "loss": 1 / number, "note": "x" * 200})
        if number % 5 == 0:
            run.save_best(encoder(number))
            mark(str(last))
            run.save_last(encoder(number), {"step": number, "seen": number * 64})
            mark(str(number))

    first = RunDir(folder / "runs" / "one", CONFIG)
    first.open({"train": {"rows": 640, "fingerprint": "abc"}})
    mark("0")
    for number in range(1, 13):
        step(first, number, (number - 1) // 5 * 5)
    first.close()
    again = RunDir(folder / "runs" / "one", CONFIG, "auto")
    again.open({"train": {"rows": 640, "fingerprint": "abc"}})
    mark("10")
    for number in range(11, 18):
        step(again, number, (number - 1) // 5 * 5)
    report = {"tasks": {}, "versions": {}, "protocol": "all", "steps": 17}
    again.write_report(report)
    mark("15 and the report")
    again.close()


def vectors(folder: Path) -> None:
    """Texts that are encoded to a file: stopped and gone on with, and anew; and to a table."""
    from simcse.encoder.bulk import npy

    npy.TEXTS_PER_CHUNK = 8

    def fails(texts: list[str]) -> np.ndarray:
        if TEXTS[30] in texts:
            raise KeyboardInterrupt
        return encode(texts)

    for resume in (True, False):
        try:
            npy.encode_to(folder / "deep" / "v.npy", TEXTS, fails, made_by="e", resume=resume)
        except KeyboardInterrupt:
            mark(f"stopped, resume={resume}")
    npy.encode_to(folder / "deep" / "v.npy", TEXTS, encode, made_by="e")
    mark("v.npy")
    npy.encode_to(folder / "deep" / "v.npz", TEXTS, encode, made_by="e")
    mark("v.npy v.npz")


def kernel(folder: Path) -> None:
    """A compiled library that is put into the cache, found damaged, and put there anew."""
    from simcse.encoder.backends.native.compile import cache_folder, keep, kept

    os.environ["XDG_CACHE_HOME"] = str(folder)
    own = cache_folder()
    mark("")
    path = keep(own, STEM, LIBRARY)
    mark("kept")
    path.write_bytes(LIBRARY[:1000])
    mark("")
    assert kept(own, STEM) is None
    keep(own, STEM, LIBRARY)
    mark("kept")


def aside(folder: Path) -> None:
    """A folder that is replaced where the system cannot exchange two folders."""
    from simcse import files

    with patch.object(files, "_exchanged", lambda one, other: False):
        for number in range(3):
            with files.replaced_folder(folder / "best") as new:
                for name in ("a", "b"):
                    (new / name).write_bytes(bytes([number]) * 2000)
            mark(str(number))


def naive(folder: Path) -> None:
    """Two files written as a program without care writes them: what `disk.py` must find fault with."""
    for number in range(3):
        for name in ("a", "b"):
            new = folder / f"{name}.new"
            new.write_bytes(bytes([number]) * 2000)
            new.replace(folder / name)
        mark(str(number))


def unsynced(folder: Path) -> None:
    """A file that is replaced in one step, but not synced before: the same."""
    from simcse import files

    with patch.object(files, "sync", lambda path: None):
        for number in range(3):
            with files.replaced_file(folder / "a") as new:
                new.write_bytes(bytes([number]) * 2000)
            mark(str(number))
