"""What a launcher, torchrun or accelerate's, says to its processes: by the environment, and by its end."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from simcse.errors import ConfigError

__all__ = ["OURS", "check_all_started", "command_as_typed", "command_to_resume", "follow_launcher", "is_launched"]

OURS = "simcse-"  # the run ids of groups that `--processes` starts


def is_launched(processes: int) -> bool:
    """Whether this is one of the processes that a launcher or `--processes` started.

    Raises:
        ConfigError: a launcher did, although `--processes` asks for several.
    """
    ours = os.environ.get("TORCHELASTIC_RUN_ID", "").startswith(OURS)
    if processes > 1 and "RANK" in os.environ and not ours:
        raise ConfigError(
            f"--processes {processes}: a launcher has started {os.environ.get('WORLD_SIZE', 'some')} already; leave "
            "the option or the launcher out"
        )
    return "RANK" in os.environ


def command_as_typed(argv: Sequence[str]) -> list[str]:
    """The command that has these options: ours, or `python -m simcse train` where this process is another program."""
    if list(argv) == sys.argv[-len(argv) :]:
        return [*_program(), *sys.argv[1:]]
    return [sys.executable, "-m", "simcse", "train", *argv]


def _program() -> list[str]:
    """What was typed in front of the options: python and a script, python -m and a module."""
    return sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]


def check_all_started(started: int) -> None:
    """Make sure that `accelerate launch --num_processes N` did not start one process alone, as it does on a CPU.

    Args:
        started: processes of this run.

    Raises:
        ConfigError: it did; says what to type.
    """
    # accelerate's launcher sets MASTER_ADDR where several processes are asked for, torchrun RANK in each that it starts
    asked_for_several = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ
    if started == 1 and asked_for_several and "RANK" not in os.environ:
        raise ConfigError(
            "--num_processes: without several GPUs accelerate's launcher starts 1 process, whatever it says; for N "
            f"type: torchrun --standalone --nproc_per_node N {shlex.join(sys.argv)}; for one, python {sys.argv[0]}, or "
            "unset MASTER_ADDR"
        )


def follow_launcher() -> None:
    """Where a launcher started us, let its death tell us to stop: accelerate's passes no SIGTERM on."""
    if sys.platform == "linux" and any(name in os.environ for name in ("ACCELERATE_MIXED_PRECISION", "RANK")):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def command_to_resume() -> str:
    """The command that goes on with this run: launcher, script, options and `--resume auto`."""
    program, options, launcher = _program(), sys.argv[1:], _launcher()
    if launcher:
        words = [*launcher, *(word for word in program[1:] if word != "-u")]  # torchrun's own
    elif program[-1].endswith(".py") or not os.access(program[-1], os.X_OK) or program[-2] == "-m":
        words = program
    else:  # an installed command is typed without python
        words = [name if shutil.which(name := Path(program[-1]).name) == program[-1] else program[-1]]
    kept = [word for i, word in enumerate(options) if not word.startswith("--resume") and options[i - 1] != "--resume"]
    return shlex.join([*words, *kept, "--resume", "auto"])


def _launcher() -> list[str]:
    """The launcher and its options, as far as the environment that it gave us says them."""
    env = os.environ
    if "ACCELERATE_MIXED_PRECISION" in env:
        words = ["accelerate", "launch", "--num_processes", env.get("WORLD_SIZE", "1")]
        words += ["--cpu"] if env.get("ACCELERATE_USE_CPU", "").lower() == "true" else []
        nodes = {"--num_machines": "GROUP_WORLD_SIZE", "--machine_rank": "GROUP_RANK"}
        nodes |= {"--main_process_ip": "MASTER_ADDR", "--main_process_port": "MASTER_PORT"}
    elif env.get("TORCHELASTIC_RUN_ID", OURS).startswith(OURS):
        return []
    else:
        words = ["torchrun", "--nproc_per_node", env["LOCAL_WORLD_SIZE"]]
        nodes = {"--nnodes": "GROUP_WORLD_SIZE", "--node_rank": "GROUP_RANK"}
        nodes |= {"--master_addr": "MASTER_ADDR", "--master_port": "MASTER_PORT"}
    if env.get("GROUP_WORLD_SIZE", "1") != "1":
        return words + [word for option, name in nodes.items() for word in (option, env[name])]
    return words + (["--standalone"] if words[0] == "torchrun" else [])
