"""`evaluate.py` as a user runs it: table on stdout, report in a file, one line for a mistake."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from simcse.console import run

SCRIPT = Path(__file__).parents[2] / "evaluate.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("evaluate_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_model_is_judged_and_reported(
    script: ModuleType, tiny_bert: Path, senteval: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own.csv"
    own.write_text("a,b,score\na dog runs,a dog sleeps,3\na man sings,water and bread,1\nthe cat,the cat,5\n")
    output = tmp_path / "out" / "report.json"
    arguments = [
        "--model", str(tiny_bert), "--pooling", "mean", "--dtype", "fp32", "--device", "cpu",
        "--tasks", "sts16,stsb-dev", "geometry", str(own), "--data_dir", str(senteval), "--aggregation", "wmean",
        "--batch_size", "4", "--output", str(output),
    ]  # fmt: skip
    assert run(script.main, arguments) == 0
    printed = capsys.readouterr()
    for part in ("STS16", "wmean, 5 sub-sets", "own.csv", "uniformity", "sentences/s"):
        assert part in printed.out
    assert f"wrote {output}" in printed.err
    report = json.loads(output.read_text())
    assert set(report["tasks"]) == {"STS16", "STS-B-dev", "own.csv"}
    assert report["protocol"]["pooling"] == "mean"
    assert report["protocol"]["dtype"] == "float32"
    assert report["model"] == str(tiny_bert)
    assert [path.name for path in output.parent.iterdir()] == ["report.json"]


def test_the_data_folder_comes_from_the_environment(
    script: ModuleType,
    tiny_bert: Path,
    senteval: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SIMCSE_DATA", str(senteval.parent))
    assert run(script.main, ["--model", str(tiny_bert), "--tasks", "STS-B", "--markdown", "true"]) == 0
    assert "| STS-B | test | cosine | 8 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--tasks", "sts"], 2, "model"),
        (["--model", "{model}", "--task", "sts"], 2, "unknown option --task; did you mean 'tasks'?"),
        (["--model", "{model}", "--aggregation", "median"], 2, "aggregation"),
        (["--model", "{model}", "--tasks", "STS-C", "--data_dir", "{data}"], 2, "--tasks STS-C: no such task or file"),
        (["--model", "{model}", "--tasks", "CR", "--data_dir", "{data}"], 1, "custrev.neg: not found, and CR needs it"),
        (["--model", "{model}", "--data_dir", "{data}/gone"], 1, "gone: no such folder; set --data_dir"),
        (["--model", "{data}", "--data_dir", "{data}"], 1, "{data}"),
        (["--model", "{model}", "--output", "scores.csv"], 2, "--output scores.csv: unknown extension .csv"),
        (["--model", "{model}", "--pooling", "clss"], 2, "did you mean 'cls'"),
    ],
)
def test_each_mistake_is_one_line(
    script: ModuleType,
    tiny_bert: Path,
    senteval: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    filled = [argument.format(model=tiny_bert, data=senteval) for argument in arguments]
    assert run(script.main, filled) == code
    printed = capsys.readouterr()
    [line] = [line for line in printed.err.splitlines() if line.startswith("error:")]
    assert message.format(model=tiny_bert, data=senteval) in line
    assert "Traceback" not in printed.err
    assert printed.out == ""


def test_help_comes_without_loading_torch() -> None:
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", str(SCRIPT), "--help"], capture_output=True, text=True, check=True
    )
    assert "--aggregation" in shown.stdout
    assert "torch" not in shown.stderr
