"""`evaluate.py` as a user runs it: table on stdout, report in a file, one line for a mistake."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
from tiny import build_encoder

from simcse import SentenceEncoder
from simcse.cli import main as simcse
from simcse.console import run
from simcse.evaluation.postprocess import Fitted
from simcse.evaluation.sts import evaluate_sts

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


def test_a_model_is_evaluated_and_reported(
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
    assert run(script.main, ["--model", str(tiny_bert), "--tasks", "STS-B", "--format", "markdown"]) == 0
    assert "| STS-B | test | cosine | 8 |" in capsys.readouterr().out


@pytest.fixture
def whitened(tiny_bert: Path, sentences: list[str], tmp_path: Path) -> Path:
    """A folder of `simcse postprocess`, 8 dimensions."""
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"{text}\n" for text in sentences))
    arguments = [str(texts), "--model", str(tiny_bert), "--pooling", "mean", "--dimensions", "8"]
    assert simcse(["postprocess", *arguments, "--output", str(tmp_path / "whitened"), "--dtype", "fp32"]) == 0
    return tmp_path / "whitened"


def test_a_fitted_map_is_evaluated_with_its_encoder(
    script: ModuleType, tiny_bert: Path, whitened: Path, senteval: Path, tmp_path: Path
) -> None:
    """The same score as by hand: encode, whiten, correlate."""
    arguments = ["--model", str(whitened), "--tasks", "STS-B", "--data_dir", str(senteval), "--dtype", "fp32"]
    assert run(script.main, [*arguments, "--output", str(tmp_path / "out.json")]) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    encoder = SentenceEncoder.from_pretrained(tiny_bert, pooling="mean", dtype="fp32")
    fitted = Fitted.load(whitened)
    by_hand = evaluate_sts(fitted(partial(encoder.encode, normalize=False)), senteval, ["STS-B"])["STS-B"]
    assert report["tasks"]["STS-B"]["spearman"] == pytest.approx(by_hand.spearman)
    assert report["tasks"]["STS-B"]["spearman"] != evaluate_sts(encoder.encode, senteval, ["STS-B"])["STS-B"].spearman
    assert report["protocol"]["postprocess"].startswith("whitening, 32 -> 8, fitted on")
    assert report["protocol"]["pooling"] == "mean"
    assert report["protocol"]["encoder"] == str(tiny_bert)


def test_a_map_is_not_put_on_another_encoder(
    script: ModuleType, whitened: Path, tiny_bert: Path, senteval: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def refused(status: int, *more: str) -> str:
        arguments = ["--model", str(whitened), "--tasks", "STS-B", "--data_dir", str(senteval), *more]
        assert run(script.main, arguments) == status
        return capsys.readouterr().err.strip().splitlines()[-1]

    assert "--pooling cls: " in refused(2, "--pooling", "cls")
    settings = whitened / "postprocess.json"
    about = json.loads(settings.read_text())
    settings.write_text(json.dumps(about | {"encoder": str(build_encoder(tmp_path / "other", seed=7))}))
    assert "other has other weights or settings" in refused(1)
    settings.write_text(json.dumps(about | {"encoder": str(tmp_path / "gone")}))
    message = refused(1)
    assert f"{whitened}: its encoder does not load" in message
    assert "gone" in message


def test_a_run_is_evaluated_by_its_best(
    script: ModuleType, tiny_bert: Path, senteval: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "five/seed-1", "five/seed-2"):
        shutil.copytree(tiny_bert, tmp_path / name / "best")
    arguments = ["--tasks", "STS-B", "--data_dir", str(senteval)]
    assert run(script.main, ["--model", str(tmp_path / "one"), *arguments]) == 0
    assert run(script.main, ["--model", str(tmp_path / "five"), *arguments]) == 2
    assert "five: holds 2 seeds, expected one encoder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--tasks", "sts"], 2, "model"),
        (["--model", "{model}", "--task", "sts"], 2, "unknown option --task; did you mean 'tasks'?"),
        (["--model", "{model}", "--aggregation", "median"], 2, "aggregation"),
        (["--model", "{model}", "--tasks", "STS-C", "--data_dir", "{data}"], 2, "--tasks: found STS-C, no such"),
        (["--model", "{model}", "--tasks", "CR", "--data_dir", "{data}"], 1, "custrev.neg: not found, and CR needs it"),
        (["--model", "{model}", "--data_dir", "{data}/gone"], 1, "gone: no such folder; set --data_dir"),
        (["--model", "{data}", "--data_dir", "{data}"], 1, "{data}"),
        (["--model", "{model}", "--output", "scores.csv"], 2, "--output: scores.csv has the extension .csv"),
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
