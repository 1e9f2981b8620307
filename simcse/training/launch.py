"""The processes that accelerate's launcher was asked for but does not start.

`accelerate launch --cpu --num_processes 2` starts one process unless MPI is set up, and says nothing. A user who asks
for two gets two: the one process starts all, waits for them, and passes their exit status on.
"""

from __future__ import annotations

import ctypes
import math
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from simcse.training.interrupt import heard_signals

__all__ = ["command_to_resume", "follow_launcher", "missing_processes", "run_commands", "run_processes"]

SECONDS_TO_END = 60  # that a group which was told to stop has, once its first process has ended


def missing_processes() -> int:
    """How many processes the launcher was asked for on this machine's CPU, if it left their start to us; else 0."""
    environment = os.environ
    if environment.get("ACCELERATE_USE_CPU", "").lower() != "true" or "RANK" in environment:
        return 0
    if "MASTER_ADDR" not in environment:  # set by the launcher where more than one process is asked for
        return 0
    if any(name in environment for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "WORLD_SIZE")):
        return 0  # MPI started them
    asked, machines = _asked_for()
    return asked if asked > 1 and machines == 1 else 0


def _asked_for() -> tuple[int, int]:
    """Processes and machines on the launcher's command line, or in accelerate's config file."""
    import psutil
    from accelerate.commands.config import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    words = psutil.Process(os.getppid()).cmdline()
    start = next((i for i, word in enumerate(words) if word == "launch" or word.endswith(".launch")), len(words) - 1)
    options, _ = launch_command_parser().parse_known_args(words[start + 1 :])
    processes, machines = options.num_processes, options.num_machines
    if processes is None or machines is None:
        try:
            config = load_config_from_file(options.config_file)
        except OSError:  # the user never ran `accelerate config`
            config = None
        processes = processes if processes is not None else getattr(config, "num_processes", 1)
        machines = machines if machines is not None else getattr(config, "num_machines", 1)
    return int(processes or 1), int(machines or 1)


def run_processes(count: int, script: str, arguments: Sequence[str]) -> int:
    """Start `count` copies of the script as one group and wait, passing signals on; when one fails, the others end.

    Returns:
        0, or the exit status of the first that failed.
    """
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = str(server.getsockname()[1])
    group = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    follow_launcher()
    environments = [{**group, "RANK": str(number), "LOCAL_RANK": str(number)} for number in range(count)]
    return run_commands([sys.executable, script, *arguments], environments)


def run_commands(command: Sequence[str], environments: Sequence[Mapping[str, str]] = ({},)) -> int:
    """Run a command, once in each environment, and pass SIGTERM and SIGINT on to it.

    Returns:
        0, or the exit status of the first that failed; 128 + the signal that ended it.
    """
    told: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        told.append(number)  # passed on below, where all have been started

    before = {number: signal.signal(number, hear) for number in heard_signals()}
    # a group of their own: Ctrl-C of a terminal reaches us alone, and them once
    running = [subprocess.Popen(command, env={**os.environ, **extra}, process_group=0) for extra in environments]
    passed, deadline = 0, math.inf
    try:
        while True:
            for number in told[passed:]:
                passed += 1
                for process in running:
                    process.send_signal(number)  # nothing happens where it has ended
            states = [process.poll() for process in running]
            failed = [state for state in states if state]
            if all(state is not None for state in states) or (failed and time.monotonic() > deadline):
                return (failed[0] if failed[0] > 0 else 128 - failed[0]) if failed else 0
            if failed and deadline == math.inf:  # told to stop, they end by themselves, one after the other
                deadline = time.monotonic() + (SECONDS_TO_END if told else 0)
            time.sleep(0.05)
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()  # waiting for the one that failed, it would not hear anything else
            process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def follow_launcher() -> None:
    """Where a launcher started us, let its death tell us to stop: accelerate's passes no SIGTERM on."""
    if sys.platform == "linux" and any(name in os.environ for name in ("ACCELERATE_MIXED_PRECISION", "RANK")):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def command_to_resume() -> str:
    """The command line as it was typed, with its launcher, and with `--resume auto`."""
    import psutil

    script, arguments = Path(sys.argv[0]).name, sys.argv[1:]
    words = ["python", *sys.argv]
    with suppress(psutil.Error):
        for process in (psutil.Process(), *psutil.Process().parents()):
            line = process.cmdline()
            names = line[: len(line) - len(arguments)]
            if line[len(names) :] != arguments or not any(Path(word).name == script for word in names):
                break
            words = line
    if len(words) > 1 and Path(words[0]).name.startswith("python") and shutil.which(Path(words[1]).name) == words[1]:
        words = [Path(words[1]).name, *words[2:]]
    kept = [word for i, word in enumerate(words) if not word.startswith("--resume") and words[i - 1] != "--resume"]
    return shlex.join([*kept, "--resume", "auto"])
