"""`simcse plot` as a user types it, on a tiny encoder."""

from __future__ import annotations

from pathlib import Path

import pytest

from simcse.cli import main


def simcse(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_plot_draws_what_it_has_files_for(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIMCSE_DATA", raising=False)
    assert simcse("plot", folder / "one", folder / "two", "--output", tmp_path / "runs", "--formats", "svg") == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["learning.svg", "trajectory.svg"]
    inputs = ("--data", folder / "pairs.tsv", "--sentences", folder / "few.txt", "--corpus", folder / "texts.txt")
    assert simcse("plot", folder / "one", *inputs, "--output", tmp_path / "all", "--formats", "png") == 0
    drawn = sorted(path.stem for path in (tmp_path / "all").iterdir())
    assert drawn == ["cosines", "heat", "learning", "map", "scatter", "spectrum", "trajectory"]


def test_plot_of_a_run_without_evaluations(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SIMCSE_DATA", raising=False)
    run = tmp_path / "run"
    run.mkdir()
    lines = (folder / "one" / "log.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (run / "log.jsonl").write_text("".join(line for line in lines if '"dev"' not in line), encoding="utf-8")
    assert simcse("plot", run, "--output", tmp_path / "plots", "--formats", "svg") == 0
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["learning.svg"]
    assert simcse("plot", run, "--kinds", "trajectory", "--output", tmp_path / "plots") == 2
    assert "--kinds trajectory needs a run with 2 evaluations" in capsys.readouterr().err


def test_plot_names_what_is_missing(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SIMCSE_DATA", raising=False)
    checkpoint = folder / "one" / "best"
    for arguments, message in [
        ((checkpoint,), "nothing to draw"),
        ((checkpoint, "--kinds", "learning"), "--kinds learning needs run folders of simcse train"),
        ((checkpoint, "--kinds", "heat"), "--kinds heat needs --sentences FILE"),
        ((folder / "one", "--kinds", "learnings"), "did you mean 'learning'"),
        ((folder / "one", "--formats", "jpg"), "--formats: found 'jpg'"),
    ]:
        assert simcse("plot", *arguments) == 2
        assert message in capsys.readouterr().err
