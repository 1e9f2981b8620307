"""Write a sample of each format that simcse has on disk today: PYTHONPATH=tests:. python tests/formats/make.py FOLDER

What is in FOLDER already stays: `files/` holds the samples of every version, and `test_formats.py` opens them for ever.
A new version of a format is a new name here and a new sample there, beside the old one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from tiny import WORDS, build_encoder

WIDTH = 16
TEXTS = [f"{WORDS[i % 60]} {WORDS[(7 * i + 3) % 60]} {WORDS[(11 * i + 5) % 60]}" for i in range(48)]
METADATA = [{"number": i, "even": i % 2 == 0, "word": TEXTS[i].split()[0], "half": i / 2} for i in range(40)]
IDS: list[int | str] = [*range(20), *(f"id {i}" for i in range(20, 40))]
REPLACED, DELETED = {0: TEXTS[40], "id 30": TEXTS[41]}, [1, 2, "id 39"]
STOPPED_AT, STEPS = 4, 8


def encode(texts: list[str]) -> np.ndarray:
    """Unit vectors (n, 16) of the digests of texts: the same on every machine, by every version of numpy."""
    digests = [np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)[:WIDTH] for text in texts]
    rows = np.array(digests, np.float32).reshape(-1, WIDTH) - 127.5
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def rows_of_index() -> list[tuple[int | str, str, dict[str, Any]]]:
    """(id, text, metadata) as they are in each sample of an index."""
    rows = {key: (text, metadata) for key, text, metadata in zip(IDS, TEXTS, METADATA, strict=False)}
    rows |= {key: (text, {}) for key, text in REPLACED.items()}
    return [(key, *row) for key, row in rows.items() if key not in DELETED]


def write_index(kind: str, folder: Path | None = None) -> None:
    """An index in a folder, or in Milvus, in which texts were replaced and deleted since."""
    from simcse import SearchIndex
    from simcse.search.nearest import plan

    with patch.object(plan, "FLAT_BELOW", 10):
        index = SearchIndex.build(
            TEXTS[:40], encode, ids=IDS, metadata=METADATA, kind=kind,
            **({} if kind.startswith("milvus") else {"target_recall": 0.5}),
        )  # fmt: skip
    if folder is not None:
        index.save(folder)
    index.upsert(list(REPLACED.values()), ids=list(REPLACED))
    index.delete(DELETED)
    index.close()


def write_indexes(folder: Path) -> None:
    """Of SQLite and vectors, exact and approximate."""
    for kind in ("flat", "hnsw"):
        write_index(kind, folder / kind)


def write_milvus(folder: Path) -> None:
    """A file of Milvus Lite."""
    folder.mkdir()
    write_index(f"milvus:{folder / 'index.db'}")


def write_checkpoint(folder: Path) -> None:
    """An encoder with a head, a prompt and fewer dimensions, and some of its vectors."""
    import torch

    from simcse import SentenceEncoder
    from simcse.encoder.projection import Projection

    plain = build_encoder(folder.with_name("plain"), hidden=8)
    encoder = SentenceEncoder.from_pretrained(plain, pooling="mean", device="cpu", dtype="fp32")
    torch.manual_seed(1)
    encoder.projection = Projection(encoder.width, 12)
    encoder.prompts, encoder.truncate_dim = {"query": "a question", "document": ""}, 10
    encoder.save_pretrained(folder)
    np.save(folder.with_name(f"{folder.name}-vectors.npy"), encoder.encode(TEXTS[:8]))
    shutil.rmtree(plain)


def run_config() -> Any:
    """Of the sample of a run."""
    from simcse.training.config import DataConfig, ModelConfig, OptimConfig, TeacherConfig, TrainConfig

    return TrainConfig(
        model=ModelConfig(name="run-1/model", pooling="mean", projection="none", dropout=0.0),
        data=DataConfig(train="run-1/pairs.csv", dev="run-1/dev.tsv"),
        teacher=TeacherConfig(name=["checkpoint-2"], loss="l2", cache="run-1/teacher"),
        optim=OptimConfig(lr=3e-3), output_dir="run-1/finished", batch_size=8, max_steps=STEPS,
        eval_every=STOPPED_AT, save_every=STOPPED_AT, log_every=1, precision="fp32",
    )  # fmt: skip


def write_run(folder: Path) -> None:
    """A run with a teacher, stopped at a step and finished, as `simcse train` in the folder above writes it."""
    from simcse.training.run import train
    from simcse.training.run_dir import RunDir

    folder.mkdir()
    pairs = "".join(f"{a},{b}\n" for a, b in zip(TEXTS[:32], TEXTS[16:], strict=True))
    (folder / "pairs.csv").write_text(f"anchor,positive\n{pairs}", encoding="utf-8")
    scored = [f"{a}\t{b}\t{i % 6}\n" for i, (a, b) in enumerate(zip(TEXTS[:20], TEXTS[20:], strict=False))]
    (folder / "dev.tsv").write_text("".join(scored), encoding="utf-8")
    build_encoder(folder / "model", hidden=8)
    save = RunDir.save_last

    def save_and_copy(run: RunDir, write: Callable[[Path], None], state: Any) -> None:
        save(run, write, state)
        if state["step"] == STOPPED_AT:
            shutil.copytree(run.folder, folder / "stopped", ignore=shutil.ignore_patterns(".*"))

    with patch.object(RunDir, "save_last", save_and_copy):
        train(run_config())
    for place in ("best", "last"):  # what is looked at of a finished run is its report and log
        shutil.rmtree(folder / "finished" / place)


def write_vectors(folder: Path) -> None:
    """What `encode_to` writes, and what it leaves when it is stopped."""
    from simcse.encoder.bulk import npy

    def fails(texts: list[str]) -> np.ndarray:
        if TEXTS[30] in texts:
            raise KeyboardInterrupt
        return encode(texts)

    for name in ("v.npy", "v.npz", "v.parquet", "v.jsonl"):
        npy.encode_to(folder / name, TEXTS, encode, made_by="sample", ids=None if name == "v.npy" else range(48))
    with patch.object(npy, "TEXTS_PER_CHUNK", 8):
        try:
            npy.encode_to(folder / "stopped.npy", TEXTS, fails, made_by="sample")
        except KeyboardInterrupt:
            assert json.loads((folder / "stopped.npy.partial.json").read_bytes())["rows"] == 24


def write_map(folder: Path) -> None:
    """Whitening fitted on vectors, and what it makes of some."""
    from simcse.evaluation.postprocess import fit

    fitted = fit(encode, TEXTS, dimensions=6)
    fitted.save(folder)
    np.save(folder.with_name(f"{folder.name}-vectors.npy"), fitted.apply(encode(TEXTS[:8])))


# name and version, in this order, as a run needs a teacher
SAMPLES: dict[str, Callable[[Path], None]] = {
    "index-3": write_indexes,
    "milvus-3": write_milvus,
    "checkpoint-2": write_checkpoint,
    "run-1": write_run,
    "encode_to-1": write_vectors,
    "whitening-1": write_map,
}


def main(folder: Path) -> None:
    """Write the samples that are not there."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)  # a run names its files from here
    for name, write in SAMPLES.items():
        if not Path(name).exists():
            write(Path(name))
            print(f"{name}: {sum(file.stat().st_size for file in Path(name).rglob('*') if file.is_file()):,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
