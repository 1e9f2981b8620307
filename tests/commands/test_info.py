"""`simcse info MODEL`: what runs, and why nothing else does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kinds import build

from simcse.cli import main


def test_what_runs_and_why(tiny_bert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(tiny_bert), "--device", "cpu", "--dtype", "fp32", "--format", "json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["architecture"] == "bert, 2 layers of width 32"
    assert (facts["pooling"], facts["dtype"], facts["dimension"]) == ("cls", "float32", 32)
    assert (facts["backend"], facts["training"]) == ("torch", "without padding")
    reasons = facts["backends"]
    assert list(reasons) == ["huggingface", "torch", "native", "int8", "onnx", "cuda_varlen"]
    assert reasons["huggingface"] is reasons["torch"] is None
    assert reasons["native"]
    assert "model.onnx is not there" in reasons["onnx"]


def test_one_that_is_padded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(tmp_path, "albert")
    assert main(["info", str(tmp_path), "--device", "cpu", "--dtype", "fp32", "--format", "text"]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    why = "it has no pass for albert, only for bert, "
    assert ["backend", "huggingface"] in lines
    assert ["huggingface", "runs"] in lines
    told = {name: text for name, text in lines if text.startswith((why, f"padded, as {why}"))}
    assert list(told) == ["training", "torch", "native", "int8", "cuda_varlen"]
