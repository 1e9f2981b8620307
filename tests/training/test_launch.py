"""Launchers: what to type where accelerate's starts too few processes, and what to type again after a stop."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_simple_launcher_cmd_env
from forked import Runs

from simcse.training.launch import command_as_typed, command_to_resume

TYPED = ["train.py", "--config", "a b.yaml", "--resume", "never", "--resume=auto", "--seed", "3"]
AGAIN = "train.py --config 'a b.yaml' --seed 3 --resume auto"
NODES = {"GROUP_WORLD_SIZE": "2", "GROUP_RANK": "0", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "1"}


@pytest.mark.parametrize("processes", [1, 2])
def test_accelerate_starts_one_process_on_a_cpu(
    runs: Runs, tiny_bert: Path, files: Path, tmp_path: Path, processes: int
) -> None:
    """In the environment that accelerate's launcher gives to the process that it starts, whatever it was asked for."""
    typed = launch_command_parser().parse_args(["--cpu", "--num_processes", str(processes), "train.py"])
    _, environment = prepare_simple_launcher_cmd_env(_validate_launch_command(typed)[0])
    options = {"model.name": tiny_bert, "data.train": files / "pairs.csv", "batch_size": 8, "max_steps": 1}
    run = runs.start(options | {"model.pooling": "mean", "output_dir": tmp_path / "run"}, environment)
    assert run.status() == (0 if processes == 1 else 2), run.printed
    if processes == 2:
        [line] = run.printed.splitlines()
        assert line.startswith("error: --num_processes: ")
        assert "; for N type: torchrun --standalone --nproc_per_node N train.py --model.name=" in line
        assert not (tmp_path / "run").exists()


TOLD = """
import ctypes, simcse.commands.train
def waiting(said):
    ctypes.CDLL(None).prctl(2, ctypes.byref(number := ctypes.c_int()))  # PR_GET_PDEATHSIG
    print(f"{said}: told by {number.value} when the launcher dies", flush=True)
    raise SystemExit
simcse.commands.train.waiting = waiting
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
@pytest.mark.parametrize(("environment", "number"), [({"RANK": "0"}, 15), ({}, 0)])
def test_a_launcher_is_followed_before_anything_is_imported(
    runs: Runs, environment: dict[str, str], number: int
) -> None:
    run = runs.start({"data.train": "x.txt"}, environment, TOLD)
    run.status()
    assert f"importing torch and transformers: told by {number} when" in run.printed


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, "python"),
        ({"ACCELERATE_MIXED_PRECISION": "no"}, "accelerate launch --num_processes 1"),
        (
            {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "True"},
            "accelerate launch --num_processes 1 --cpu",
        ),
        (
            {**TORCHRUN, **NODES, "ACCELERATE_MIXED_PRECISION": "bf16"},
            "accelerate launch --num_processes 4 --num_machines 2 --machine_rank 0 --main_process_ip 10.0.0.1 "
            "--main_process_port 29500",
        ),
        (TORCHRUN, "torchrun --nproc_per_node 2 --standalone"),
        (
            {**TORCHRUN, **NODES},
            "torchrun --nproc_per_node 2 --nnodes 2 --node_rank 0 --master_addr 10.0.0.1 --master_port 29500",
        ),
    ],
)
def test_the_command_to_resume_is_what_was_typed(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], words: str
) -> None:
    monkeypatch.setattr("sys.argv", TYPED)
    monkeypatch.setattr("sys.orig_argv", ["python", *TYPED])
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert command_to_resume() == f"{words} {AGAIN}"


def test_an_installed_command_is_resumed_by_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "simcse"
    file.write_text("")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.argv", [str(file), "train", "--seed", "3"])
    monkeypatch.setattr("sys.orig_argv", [sys.executable, *sys.argv])
    assert command_to_resume() == "simcse train --seed 3 --resume auto"
    monkeypatch.setenv("PATH", "/nowhere")
    assert command_to_resume() == f"{file} train --seed 3 --resume auto"


@pytest.mark.parametrize(
    ("program", "script", "environment", "words"),
    [
        (["python", "-m", "simcse"], "/x/simcse/__main__.py", {}, "python -m simcse"),
        ([".venv/bin/python", "train.py"], "train.py", {}, ".venv/bin/python train.py"),
        (["python", "-X", "dev", "train.py"], "train.py", {}, "python -X dev train.py"),
        (["/bin/python3", "-u", "-m", "simcse"], "/x/simcse/__main__.py", TORCHRUN,
         "torchrun --nproc_per_node 2 --standalone -m simcse"),
        (["/bin/python3", "-u", "train.py"], "train.py", TORCHRUN, "torchrun --nproc_per_node 2 --standalone train.py"),
        (["python", "-m", "simcse"], "/x/simcse/__main__.py", {**TORCHRUN, "TORCHELASTIC_RUN_ID": "simcse-7"},
         "python -m simcse"),
    ],
)  # fmt: skip
def test_the_program_to_resume_is_what_was_typed(
    monkeypatch: pytest.MonkeyPatch, program: list[str], script: str, environment: dict[str, str], words: str
) -> None:
    """As Python has it in sys.orig_argv; torchrun adds -u, and starts the python that it runs in."""
    options = ["train", "--processes", "2"]
    monkeypatch.setattr("sys.argv", [script, *options])
    monkeypatch.setattr("sys.orig_argv", [*program, *options])
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert command_to_resume() == f"{words} train --processes 2 --resume auto"
    assert command_as_typed(options) == [*program, *options]
    assert command_as_typed(["--seed", "3"]) == [sys.executable, "-m", "simcse", "train", "--seed", "3"]
