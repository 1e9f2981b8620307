"""A run killed at random moments, by SIGTERM and SIGKILL, ends as the run that nobody disturbed, to the bit."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from forked import Runs, run_server
from tiny import WORDS

from simcse import SentenceEncoder

KILLS = 12 if os.environ.get("SIMCSE_SOAK") else 2
STEPS = 60


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    with run_server(tmp_path_factory.mktemp("printed")) as server:
        yield server


@pytest.fixture(scope="module")
def options(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """A run with an evaluation every 7 and a save every 5 steps, dropout on."""
    folder = tmp_path_factory.mktemp("data")
    rng = random.Random(0)
    (folder / "text.txt").write_text("".join(f"{' '.join(rng.sample(WORDS, 6))}\n" for _ in range(256)))
    scored = [f"{' '.join(rng.sample(WORDS, 5))}\t{' '.join(rng.sample(WORDS, 5))}\t{i % 6}\n" for i in range(40)]
    (folder / "dev.tsv").write_text("".join(scored))
    return {
        "model.name": tiny_bert, "model.pooling": "mean", "data.train": folder / "text.txt",
        "data.dev": folder / "dev.tsv", "batch_size": 16, "max_steps": STEPS, "eval_every": 7, "save_every": 5,
        "log_every": 1, "optim.lr": 1e-3, "precision": "fp32",
    }  # fmt: skip


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return SentenceEncoder.from_pretrained(folder, device="cpu", dtype="fp32").state_dict()


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_killed_runs_end_as_undisturbed_ones(runs: Runs, options: dict[str, object], tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    started = time.monotonic()
    run = runs.start(options | {"output_dir": whole})
    assert run.status() == 0, run.printed
    seconds = time.monotonic() - started
    expected = {name: weights(whole / name) for name in ("best", "last")}
    rng = random.Random()
    seed = rng.randrange(1 << 30)
    rng.seed(seed)
    for number in range(KILLS):
        folder, sent = tmp_path / f"run-{number}", (signal.SIGTERM, signal.SIGKILL)[number % 2]
        moment = rng.uniform(0.1, 1.0) * seconds
        case = f"seed {seed}, kill {number}: {sent.name} after {moment:.3f} s"
        run = runs.start(options | {"output_dir": folder, "resume": "auto"})
        time.sleep(moment)
        run.kill(sent)
        status = run.status()
        assert status in ((None, 0) if sent == signal.SIGKILL else (None, 0, 143)), (case, run.printed)
        if status == 143:
            assert "--resume auto" in run.printed, case
            assert (folder / "last").is_dir(), case
        for name in ("best", "last"):
            if (folder / name).exists():
                weights(folder / name)  # loads, whenever the kill came
        run = runs.start(options | {"output_dir": folder, "resume": "auto"})
        assert run.status() == 0, (case, run.printed)
        for name in ("best", "last"):
            assert equal(weights(folder / name), expected[name]), case
        assert {path.name for path in folder.iterdir()} == {path.name for path in whole.iterdir()}, case
