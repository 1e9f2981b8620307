"""Runs of train.py as processes of their own, forked from one that has everything imported: they start at once."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

SERVER = """
import gc, json, os, signal, sys
sys.path.insert(0, os.getcwd())
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its background ignore it, and runs honour that
import train
import simcse.training.run, simcse.display.summary, accelerate, datasets, transformers
import scipy.stats, torch.distributed.tensor, transformers.models.bert.modeling_bert  # else each run would at its start
from simcse.console import run
gc.freeze()  # shared with the runs, not looked at by each
print("ready", flush=True)
for line in sys.stdin:
    order = json.loads(line)
    if pid := os.fork():
        print(pid, flush=True)
        continue
    os.environ.update(order["environment"])
    os.dup2(os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
    os.dup2(1, 2)
    sys.argv = ["train.py", *order["arguments"]]
    sys.orig_argv = ["python", *sys.argv]
    exec(order["code"], {})
    status = run(train.main)
    sys.stdout.flush()
    with open(order["output"] + ".status", "w") as file:
        file.write(str(status))
    os._exit(status)
"""


class Run:
    """A run that was started."""

    def __init__(self, pid: int, output: Path) -> None:
        self.pid, self._output = pid, output

    @property
    def printed(self) -> str:
        """On stdout and stderr, so far."""
        return self._output.read_text() if self._output.exists() else ""

    def kill(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if not self.ended:
            os.kill(self.pid, number)

    @property
    def ended(self) -> bool:
        """Whether it has, all threads of it: the server does not wait for its children, so they stay as zombies."""
        process = Path(f"/proc/{self.pid}")
        state = (process / "stat").read_text().rsplit(")", 1)[1].split()[0]
        return state in ("Z", "X") and len(list((process / "task").iterdir())) <= 1

    def status(self, seconds: float = 120) -> int | None:
        """Its exit status once it has ended; None if a signal ended it."""
        wait_for(lambda: self.ended, seconds)
        file = self._output.with_name(self._output.name + ".status")
        return int(file.read_text()) if file.exists() else None


def wait_for(true: Callable[[], object], seconds: float = 120) -> None:
    """Return when it is; fail if it lasts too long."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "took too long"
        time.sleep(0.002)


class Runs:
    """Starts runs."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process, self._folder = process, folder
        self.started: list[Run] = []

    def start(self, options: Mapping[str, Any], environment: Mapping[str, str] | None = None, code: str = "") -> Run:
        """A run with these options, in this environment besides; `code` is run before it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        output = self._folder / f"run-{len(self.started)}.txt"
        arguments = [f"--{name}={value}" for name, value in options.items()]
        order = {"arguments": arguments, "environment": dict(environment or {}), "output": str(output), "code": code}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        self.started.append(Run(int(self._process.stdout.readline()), output))
        return self.started[-1]


def start_group(runs: Runs, options: Mapping[str, Any], size: int = 2, code: str = "") -> list[Run]:
    """Processes of one run, by rank, in the environment that a launcher gives them."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = str(server.getsockname()[1])
    group = {
        "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]
    return [runs.start(options, group | rank, code) for rank in ranks]


@contextmanager
def run_server(folder: Path) -> Iterator[Runs]:
    """Yield what starts runs; their output goes to the folder."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], cwd=ROOT, env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        runs = Runs(process, folder)
        try:
            yield runs
        finally:
            for run in runs.started:  # those that a failed test left
                run.kill(9)
