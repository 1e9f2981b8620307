"""SIGTERM and SIGINT: the step is finished, last/ saved, the way on told; one process or two; one run in a folder."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from forked import ROOT, Run, Runs, run_server, wait_for

from simcse import ConfigError
from simcse.training.config import TrainConfig
from simcse.training.run import train
from simcse.training.run_lock import RunLock


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    with run_server(tmp_path_factory.mktemp("printed")) as server:
        yield server


@pytest.fixture
def options(tiny_bert: Path, files: Path, tmp_path: Path) -> dict[str, object]:
    """A run that takes long, and saves nothing by itself."""
    return {
        "model.name": tiny_bert, "model.pooling": "mean", "model.projection": "none", "data.train": files / "pairs.csv",
        "batch_size": 8, "max_steps": 100_000, "save_every": 1_000_000, "log_every": 1, "precision": "fp32",
        "output_dir": tmp_path / "run",
    }  # fmt: skip


def steps(folder: Path) -> int:
    file = folder / "log.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def check_saved(folder: Path, run: Run) -> None:
    """last/ has the last step that was logged; nobody holds the folder; what is told goes on from there."""
    import torch

    state = torch.load(folder / "last" / "trainer.pt", weights_only=True)
    assert state["step"] == steps(folder)
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "last", "log.jsonl"}
    told = f"interrupted: step {state['step']} of 100000 is done, and saved in {folder / 'last'}; go on with: "
    [line] = [line for line in run.printed.splitlines() if line.startswith("interrupted: ")]
    assert line.startswith(told)
    command = shlex.split(line.removeprefix(told))
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


def two(runs: Runs, options: dict[str, object]) -> list[Run]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = str(server.getsockname()[1])
    group = {
        "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    return [runs.start(options, {**group, "RANK": number, "LOCAL_RANK": number}) for number in "01"]


@pytest.mark.parametrize("told", [0, 1])
def test_a_signal_to_one_process_of_two_stops_both(
    runs: Runs, options: dict[str, object], tmp_path: Path, told: int
) -> None:
    both = two(runs, options)
    wait_for(lambda: steps(tmp_path / "run") > 3 or both[0].ended)
    both[told].kill(signal.SIGTERM)
    assert [run.status() for run in both] == [143, 143], [run.printed for run in both]
    check_saved(tmp_path / "run", both[0])
    assert "interrupted" not in both[1].printed  # one speaks for both


def test_a_locked_folder_stops_both_of_two(runs: Runs, options: dict[str, object], tmp_path: Path) -> None:
    lock = RunLock(tmp_path / "run")
    lock.take()
    both = two(runs, options)
    assert [run.status() for run in both] == [2, 2], [run.printed for run in both]
    assert both[0].printed.count("error: ") == 1
    assert "error: " not in both[1].printed
    lock.release()


PARENT = """
import sys
from simcse.training.launch import run_commands
sys.exit(run_commands([sys.executable, "-c", sys.argv[1]], [{"NUMBER": "0"}, {"NUMBER": "1"}]))
"""


@contextmanager
def run_parent(child: str) -> Iterator[subprocess.Popen[str]]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PARENT, child]
    with subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            for child_process in psutil.Process(process.pid).children() if process.poll() is None else []:
                child_process.kill()


@pytest.mark.parametrize(
    ("child", "status"),
    [
        ("pass", 0),
        ("import os, sys, time; os.environ['NUMBER'] == '1' and sys.exit(7); time.sleep(600)", 7),
        ("import os, time; os.environ['NUMBER'] == '1' and os.kill(os.getpid(), 9); time.sleep(600)", 137),
    ],
    ids=["both are done", "one fails", "one is killed"],
)
def test_the_parent_has_the_status_of_its_children(child: str, status: int) -> None:
    with run_parent(child) as process:
        assert process.wait(60) == status


def test_a_group_that_is_told_to_stop_may_take_its_time(tmp_path: Path) -> None:
    """The first to end does not take the others with it: one of them may be saving."""
    child = (
        "import os, signal, sys, time\n"
        "def stop(*_): time.sleep(int(os.environ['NUMBER'])); os.write(1, b'saved\\n'); sys.exit(143)\n"
        "signal.signal(15, stop); os.write(1, b'ready\\n'); time.sleep(600)"
    )
    with run_parent(child) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
        process.terminate()
        assert process.stdout.read() == "saved\n" * 2
        assert process.wait(60) == 143


def test_a_second_run_in_a_folder_is_refused(
    runs: Runs, options: dict[str, object], config: TrainConfig, tmp_path: Path
) -> None:
    run = runs.start(options)
    wait_for(lambda: steps(tmp_path / "run") > 3)
    pattern = rf"--output_dir .*run: process {run.pid} on {socket.gethostname()} \(since .*\) is writing a run there; "
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


def test_a_run_of_another_host_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its lock is gone, so it was killed, or the file system knows locks of one host only."""
    lock = RunLock(tmp_path)
    lock.path.write_text(json.dumps({"pid": 7, "host": "far-away", "since": "2026-01-01 00:00:00"}))
    lock.take()
    assert "process 7 on far-away (since 2026-01-01 00:00:00) has left no word of its end" in capsys.readouterr().err
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_without_locks_the_file_is_what_there_is_to_go_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(handle: int, how: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("simcse.training.run_lock.fcntl.flock", no_locks)
    one, other = RunLock(tmp_path), RunLock(tmp_path)
    one.take()
    with pytest.raises(ConfigError, match=rf"process {os.getpid()} on .*, or remove .*\.lock if that one has ended"):
        other.take()
    one.release()
    other.take()
    other.release()
