"""The processes that accelerate's launcher was asked for but does not start.

`accelerate launch --cpu --num_processes 2` starts one process unless MPI is set up, and says nothing. A user who asks
for two gets two: the one process starts all, waits for them, and passes their exit status on.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

__all__ = ["missing_processes", "run_processes"]


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
    """Start `count` copies of the script as one group and wait; when one fails, the others are ended.

    Returns:
        0, or the exit status of the first that failed.
    """
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = str(server.getsockname()[1])
    group = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    running = [
        subprocess.Popen(
            [sys.executable, script, *arguments],
            env={**os.environ, **group, "RANK": str(number), "LOCAL_RANK": str(number)},
        )
        for number in range(count)
    ]
    try:
        while True:
            states = [process.poll() for process in running]
            if failed := [state for state in states if state]:
                return failed[0]
            if all(state == 0 for state in states):
                return 0
            time.sleep(0.1)
    finally:
        for process in running:
            if process.poll() is None:
                process.terminate()
        for process in running:
            process.wait()
