"""SIGTERM and SIGINT: the step is finished, last/ saved, the way on shown; one process or two; one run in a folder."""

from __future__ import annotations

import shlex
import signal
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from forked import Run, Runs, start_group, wait_for

from simcse import ConfigError
from simcse.training.config import TrainConfig
from simcse.training.run import train
from simcse.training.run_lock import RunLock


@pytest.fixture
def options(tiny_bert: Path, files: Path, tmp_path: Path) -> dict[str, object]:
    """A run that lasts long, and saves nothing by itself."""
    return {
        "model.name": tiny_bert, "model.pooling": "mean", "model.projection": "none", "data.train": files / "pairs.csv",
        "batch_size": 8, "max_steps": 100_000, "save_every": 1_000_000, "log_every": 1, "precision": "fp32",
        "output_dir": tmp_path / "run",
    }  # fmt: skip


def steps(folder: Path) -> int:
    file = folder / "log.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def check_saved(folder: Path, run: Run) -> None:
    """last/ has the last step that was logged; the folder is not locked; the command shown goes on from there."""
    import torch

    state = torch.load(folder / "last" / "trainer.pt", weights_only=True)
    assert state["step"] == steps(folder)
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "last", "log.jsonl"}
    shown = f"interrupted: step {state['step']} of 100000 is done, and saved in {folder / 'last'}; go on with: "
    [line] = [line for line in run.printed.splitlines() if line.startswith("interrupted: ")]
    assert line.startswith(shown)
    command = shlex.split(line.removeprefix(shown))
    assert command[:2] == ["python", "train.py"]
    assert f"--output_dir={folder}" in command
    assert command[-2:] == ["--resume", "auto"]
    assert "Traceback" not in run.printed


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_finishes_the_step_and_saves(
    runs: Runs, options: dict[str, object], tmp_path: Path, number: signal.Signals, status: int
) -> None:
    run = runs.start(options)
    wait_for(lambda: steps(tmp_path / "run") > 3)
    run.kill(number)
    assert run.status() == status, run.printed
    check_saved(tmp_path / "run", run)
    assert f"{number.name}: stopping behind this step" in run.printed
    before = steps(tmp_path / "run")
    again = runs.start(options | {"resume": "auto"})
    wait_for(lambda: steps(tmp_path / "run") > before + 1 or again.ended)
    assert f"resuming at step {before + 1} of 100000 from " in again.printed
    again.kill(number)
    assert again.status() == status, again.printed


def test_a_second_signal_stops_at_once(runs: Runs, options: dict[str, object], tmp_path: Path) -> None:
    run = runs.start(options)
    wait_for(lambda: steps(tmp_path / "run") > 3)
    run.kill(signal.SIGSTOP)  # so that both come within one step
    run.kill(signal.SIGTERM)
    run.kill(signal.SIGCONT)
    wait_for(lambda: "stopping behind this step" in run.printed)
    run.kill(signal.SIGTERM)
    assert run.status() in (None, 143)


@pytest.mark.parametrize("sent", [0, 1])
def test_a_signal_to_one_process_of_two_stops_both(
    runs: Runs, options: dict[str, object], tmp_path: Path, sent: int
) -> None:
    both = start_group(runs, options)
    wait_for(lambda: steps(tmp_path / "run") > 3 or both[0].ended)
    both[sent].kill(signal.SIGTERM)
    assert [run.status() for run in both] == [143, 143], [run.printed for run in both]
    check_saved(tmp_path / "run", both[0])
    assert "interrupted" not in both[1].printed  # one speaks for both


@pytest.mark.parametrize("killed", [0, 1])
def test_who_is_left_when_one_of_two_is_killed_says_so_in_one_line(
    runs: Runs, options: dict[str, object], tmp_path: Path, killed: int
) -> None:
    both = start_group(runs, options)
    wait_for(lambda: steps(tmp_path / "run") > 3 or both[0].ended)
    both[killed].kill(signal.SIGKILL)
    left = both[1 - killed]
    assert left.status() == 1, left.printed
    [line] = [line for line in left.printed.splitlines() if line.startswith("error: ")]
    assert line.startswith(
        "error: another process of this run has ended, was killed or cannot be reached; go on with: "
    )
    assert line.endswith(" --resume auto")
    assert "Traceback" not in left.printed


LATE = """
import os, signal
from simcse.training.trainer import Trainer
train = Trainer.train
def late(*arguments):
    train(*arguments)
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGTERM)
Trainer.train = late
"""


def test_a_signal_to_one_behind_the_last_step_stops_both(
    runs: Runs, options: dict[str, object], tmp_path: Path
) -> None:
    """None of the two goes on to the report alone, and the run can be gone on with."""
    options |= {"max_steps": 4}
    both = start_group(runs, options, code=LATE)
    assert [run.status() for run in both] == [143, 143], [run.printed for run in both]
    assert "interrupted: all 4 steps are done, and saved in " in both[0].printed
    again = runs.start(options | {"resume": "auto"})
    assert again.status() == 0, again.printed
    assert (tmp_path / "run" / "report.json").is_file()


def test_a_locked_folder_stops_both_of_two(runs: Runs, options: dict[str, object], tmp_path: Path) -> None:
    lock = RunLock(tmp_path / "run")
    lock.acquire()
    both = start_group(runs, options)
    assert [run.status() for run in both] == [2, 2], [run.printed for run in both]
    assert both[0].printed.count("error: ") == 1
    assert "error: " not in both[1].printed
    lock.release()


def test_a_second_run_in_a_folder_is_refused(
    runs: Runs, options: dict[str, object], config: TrainConfig, tmp_path: Path
) -> None:
    run = runs.start(options)
    wait_for(lambda: steps(tmp_path / "run") > 3)
    pattern = rf"output_dir=.*run: process {run.pid} on {socket.gethostname()} \(since .*\) is writing a run there; "
    for resume in ("never", "auto"):
        with pytest.raises(ConfigError, match=pattern) as caught:
            train(replace(config, resume=resume))
        assert "\n" not in str(caught.value)
    run.kill(signal.SIGKILL)  # frees the folder, and leaves what it was writing
    assert run.status() is None
    (tmp_path / "run" / ".last.simcse-0123456789ab.tmp" / "new").mkdir(parents=True)
    with pytest.raises(ConfigError, match="holds another run"):
        train(config)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"config.yaml", "log.jsonl"}
