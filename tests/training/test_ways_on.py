"""What a run says to type next is typed, and does what it says; nobody is shown an empty table."""

from __future__ import annotations

import gzip
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from simcse.cli import main
from simcse.display.summary import summary
from simcse.training.config import DataConfig, TrainConfig
from simcse.training.run import train
from simcse.training.ways_on import MANY, evaluation, index_input

FETCHED = "simcse data sts --output data && simcse evaluate --model m --tasks sts --data_dir data"


def paste(line: str) -> int:
    """The status of a line that has `&&` between commands, which run here rather than in a process each."""
    for command in line.split(" && "):
        program, *words = shlex.split(command)
        if program == "simcse":
            status = main(words)
        else:
            assert (program, words[0]) == ("python", "-c")
            exec(words[1], {})
            status = 0
        if status:
            return status
    return 0


@pytest.mark.parametrize("kind", ["text.txt", "pairs.csv", "triplets.csv", "corpus"])
def test_the_next_commands_work_when_pasted(
    config: TrainConfig, files: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    data = replace(config.data, train=str(files / kind))
    if kind == "corpus":
        dev, corpus = str(files / "queries.csv"), str(files / "corpus.txt")
        data = replace(config.data, dev=dev, dev_corpus=corpus)
    odd = str(Path(config.output_dir).parent / "my 'own' run")
    config = replace(config, data=data, max_steps=1, output_dir=odd)
    shown = summary(train(config)).splitlines()
    capsys.readouterr()
    lines = {shown[i - 1]: line.strip() for i, line in enumerate(shown) if line.startswith("  ") and i and shown[i - 1]}
    lines = {what.rstrip(":"): line for what, line in lines.items() if what in ("search:", "evaluate:", "python:")}
    assert set(lines) == {"search", "evaluate", "python"}
    said = {}
    for what, line in lines.items():
        assert paste(line) == 0, line
        said[what] = capsys.readouterr().out
    assert '"score"' in said["search"]
    assert ("MRR@10" if kind == "corpus" else "Spearman") in said["evaluate"]
    assert said["python"].startswith("[")


def test_a_run_without_evaluation_shows_its_loss_and_says_once_how_to_get_more(
    config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(config, data=replace(config.data, dev=None), seeds=2)
    report = train(config)
    said = capsys.readouterr().err
    assert said.count("no evaluation data") == 1
    assert "data.dev=FILE" in said or "--data.dev FILE" in said  # where a command was parsed before
    rows = [line for line in summary(report).splitlines() if "loss" in line]
    assert len(rows) == 1
    assert f"{report['training']['loss']['mean']:.3f}" in rows[0]
    assert "evaluate:\n" in summary(report)
    one = train(replace(config, seeds=1, output_dir=config.output_dir + "-1"))
    loss = one["training"]["loss"]
    [row] = [line.split() for line in summary(one).splitlines() if "loss" in line]
    assert row == ["training", "loss", "(lower", "is", "better)", f"{loss['first']:.3f}", f"{loss['last']:.3f}"]
    assert loss["last"] < loss["first"]


@pytest.mark.parametrize("name", ["many.txt", "many texts.txt.gz"])
def test_of_a_large_file_the_first_lines_are_indexed(tmp_path: Path, name: str) -> None:
    text = "".join(f"text {i}\n" for i in range(MANY + 500)).encode()
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    feed, source = index_input(DataConfig(train=str(tmp_path / name)), MANY + 500)
    assert source == "-"
    done = subprocess.run(["bash", "-c", feed.removesuffix("| ")], capture_output=True, check=True)
    assert done.stdout.decode().splitlines() == [f"text {i}" for i in range(MANY)]


@pytest.mark.parametrize(
    ("data", "environment", "expected"),
    [
        (DataConfig("w.txt"), None, FETCHED),
        (DataConfig("w.txt"), "elsewhere", "simcse evaluate --model m --tasks sts"),
        (DataConfig("w.txt", test="my sts"), "elsewhere", "simcse evaluate --model m --tasks sts --data_dir 'my sts'"),
        (DataConfig("w.txt", dev="dev.csv"), None, "simcse evaluate --model m --tasks dev.csv"),
    ],
)
def test_evaluation_is_proposed_on_what_is_there(
    data: DataConfig, environment: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SIMCSE_DATA", raising=False)
    if environment:
        monkeypatch.setenv("SIMCSE_DATA", environment)
    assert evaluation("m", data) == expected
