"""A made-up language to learn, and a run on it that lasts a second."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked import Runs, run_server
from tiny import WORDS

from simcse.training.config import DataConfig, ModelConfig, OptimConfig, TrainConfig


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up language to learn: the positive says each word by another word, the third is unrelated."""
    folder = tmp_path_factory.mktemp("data")
    rng = random.Random(0)
    lexicon = dict(zip(WORDS, rng.sample(WORDS, len(WORDS)), strict=True))
    rows = []
    for _ in range(160):
        words, others = rng.sample(WORDS, 5), rng.sample(WORDS, 5)
        rows.append((" ".join(words), " ".join(lexicon[word] for word in words), " ".join(others)))
    (folder / "text.txt").write_text("".join(f"{a}\n" for a, _, _ in rows))
    (folder / "pairs.csv").write_text("anchor,positive\n" + "".join(f"{a},{b}\n" for a, b, _ in rows[:128]))
    (folder / "triplets.csv").write_text("sent0,sent1,hard_neg\n" + "".join(f"{a},{b},{c}\n" for a, b, c in rows[:128]))
    scored = [(a, b, 5) for a, b, _ in rows[128:]] + [(a, c, 1) for a, _, c in rows[128:]]
    (folder / "dev.tsv").write_text("".join(f"{a}\t{b}\t{s}\n" for a, b, s in scored))
    (folder / "queries.csv").write_text("query,document\n" + "".join(f"{a},{b}\n" for a, b, _ in rows[128:]))
    (folder / "corpus.txt").write_text("".join(f"{b}\n" for _, b, _ in rows))
    return folder


@pytest.fixture
def config(tiny_bert: Path, files: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        model=ModelConfig(name=str(tiny_bert), pooling="mean", projection="none"),
        data=DataConfig(train=str(files / "pairs.csv"), dev=str(files / "dev.tsv")),
        optim=OptimConfig(lr=3e-3),
        output_dir=str(tmp_path / "run"),
        batch_size=32,
        max_steps=12,
        eval_every=6,
        save_every=4,
        log_every=1,
        precision="fp32",
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """Runs of train.py as processes of their own."""
    with run_server(tmp_path_factory.mktemp("printed")) as server:
        yield server
