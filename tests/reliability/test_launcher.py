"""SIGTERM to a launcher stops its two processes, with last/ saved. Long form: imports are slow."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from forked import ROOT, wait_for


@pytest.mark.parametrize(
    ("launcher", "status"),
    [
        (
            ["torchrun", "--nproc_per_node", "2", "--standalone", str(ROOT / "train.py")],
            1,
        ),  # its own, whatever ours was
        (["python", "-m", "simcse", "train", "--processes", "2"], 143),
    ],
)
@pytest.mark.skipif(not os.environ.get("SIMCSE_SOAK"), reason="long form: make soak")
def test_a_signal_to_the_launcher_of_two_is_passed_on(
    tiny_bert: Path, tmp_path: Path, sentences: list[str], launcher: list[str], status: int
) -> None:
    rows = [f"{a},{b}\n" for a, b in zip(sentences[::2], sentences[1::2], strict=True)]
    (tmp_path / "pairs.csv").write_text("anchor,positive\n" + "".join(rows))
    options = {
        "model.name": tiny_bert, "model.pooling": "mean", "model.projection": "none",
        "data.train": tmp_path / "pairs.csv", "batch_size": 8, "max_steps": 100_000, "save_every": 1_000_000,
        "log_every": 1, "precision": "fp32", "output_dir": tmp_path / "run",
    }  # fmt: skip
    arguments = [f"--{name}={value}" for name, value in options.items()]
    log = tmp_path / "run" / "log.jsonl"
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PATH": path}
    command = [*launcher, *arguments]
    last = tmp_path / "run" / "last" / "trainer.pt"
    with (tmp_path / "printed").open("w") as printed:
        process = subprocess.Popen(command, env=environment, stderr=printed)
        wait_for(lambda: (log.exists() and log.read_bytes().count(b"\n") > 3) or process.poll() is not None)
        process.terminate()
        assert process.wait(60) == status
    assert last.is_file()
    assert not (tmp_path / "run" / ".lock").exists()
    said = (tmp_path / "printed").read_text()
    assert said.count("Traceback") == (launcher[0] == "torchrun")
    [line] = [line for line in said.splitlines() if line.startswith("interrupted: ")]
    assert line.endswith(f"go on with: {shlex.join([*command, '--resume', 'auto'])}")
