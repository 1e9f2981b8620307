"""The sweep on tiny runs: they are trained, scored, listed, and a study goes on where it was stopped."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from simcse.cli import main as simcse
from simcse.console import run

optuna = pytest.importorskip("optuna")

SWEEP = Path(__file__).parents[2] / "examples" / "sweep"


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(SWEEP)
    monkeypatch.delitem(sys.modules, "sweep", raising=False)
    import sweep

    yield sweep
    sys.modules.pop("sweep", None)


@pytest.fixture
def options(tmp_path: Path, tiny_bert: Path) -> list[str]:
    """Of a run of 2 steps of 8 texts."""
    (tmp_path / "texts.txt").write_text("".join(f"a man walks {i} miles\n" for i in range(16)))
    rows = ["a\tb\tscore", "a man sings\ta man plays\t4", "a dog\tthe rain\t0", "the sun\ta cat\t1"]
    (tmp_path / "dev.tsv").write_text("\n".join(rows))
    return [
        "--data.train", str(tmp_path / "texts.txt"), "--data.dev", str(tmp_path / "dev.tsv"), "--model.name",
        str(tiny_bert), "--model.projection", "none", "--batch_size", "8", "--output_dir", str(tmp_path / "sweep"),
    ]  # fmt: skip


SPACE = ["--range", "optim.lr=1e-5..1e-3", "--choice", "temperature=.03,.1", "model.pooling=cls,mean"]


def test_trials_are_runs_and_a_study_goes_on(
    sweep, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(sweep.main, [*options, *SPACE, "--trials", "1"]) == 0
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{tmp_path}/sweep/study.db")
    stopped = study.ask(sweep.space_of(["optim.lr=1e-5..1e-3"], ["temperature=.03,.1", "model.pooling=cls,mean"]))
    assert run(sweep.main, [*options, *SPACE, "--trials", "2"]) == 0
    told = capsys.readouterr().out
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert study.trials[2].params == stopped.params  # that one, again, in its own folder
    assert simcse(["runs", str(tmp_path / "sweep"), "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {Path(row["run"]).name for row in rows} == {"trial-000", "trial-001"}
    by_name = {Path(row["run"]).name: row for row in rows}
    for name, trial in (("trial-000", study.trials[0]), ("trial-001", study.trials[2])):
        config = by_name[name]
        assert (config["state"], config["dev"]["mean"]) == ("finished", trial.value)
        assert 1e-5 <= trial.params["optim.lr"] <= 1e-3
        for option, value in config["options"].items():
            assert str(trial.params[option]).lstrip("0") == str(value).lstrip("0")
    assert f"{study.best_value:.2f} on dev" in told
    # as many as asked for are there
    assert run(sweep.main, [*options, *SPACE, "--trials", "2"]) == 0
    assert len(study.trials) == 3
    assert run(sweep.main, [*options, "--range", "optim.lr=1e-5..1e-4", "--trials", "2"]) == 2
    assert "holds another sweep" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--range", "optim.lr=1e-5"], "--range of --optim.lr: found '1e-5', expected NAME=LOW..HIGH"),
        (["--range", "optim.lr=1e-3..1e-5"], "found '1e-3..1e-5', expected NAME=LOW..HIGH"),
        (["--choice", "temperature=.05,,.1"], "found '.05,,.1', expected NAME=VALUE,VALUE"),
        (["--choice", "temprature=.05,.1"], "did you mean"),
        ([], "nothing to try"),
    ],
)
def test_each_mistake_is_told_before_a_study_is_made(
    sweep, options: list[str], tmp_path: Path, given: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(sweep.main, [*options, *given, "--trials", "2"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


def test_a_dev_set_is_needed(sweep, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    kept = [option for i, option in enumerate(options) if "--data.dev" not in (option, options[i - 1])]
    assert run(sweep.main, [*kept, *SPACE, "--trials", "2"]) == 2
    assert "--data.dev is not given" in capsys.readouterr().err
