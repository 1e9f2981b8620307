"""The mean of several encoders, in Python and as a command."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from simcse import SentenceEncoder
from simcse.cli import main
from simcse.encoder.soup import soup
from simcse.errors import ConfigError, ModelError


@pytest.fixture
def models(tiny_bert: Path, tmp_path: Path) -> list[Path]:
    """Three encoders of one start."""
    folders = []
    for seed in range(3):
        torch.manual_seed(seed)
        encoder = SentenceEncoder.from_pretrained(tiny_bert, pooling="mean", device="cpu", dtype="fp32")
        with torch.no_grad():
            for weight in encoder.parameters():
                weight.add_(0.01 * torch.randn_like(weight))
        folders.append(encoder.save_pretrained(tmp_path / f"run/seed-{seed}/best"))
    return folders


def test_weights_are_the_mean(models: list[Path]) -> None:
    states = [SentenceEncoder.from_pretrained(folder, device="cpu", dtype="fp32").state_dict() for folder in models]
    for name, weight in soup(models).state_dict().items():
        torch.testing.assert_close(weight, sum(state[name] for state in states) / 3)


def test_a_run_with_seeds_stands_for_all_of_them(
    models: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dev = tmp_path / "dev.tsv"
    dev.write_text("".join(f"the dog {i}\tthe cat {i * i}\t{i}\n" for i in range(6)))
    assert main(["soup", str(tmp_path / "run"), "--output", str(tmp_path / "soup"), "--dev", str(dev)]) == 0
    printed = capsys.readouterr()
    assert printed.out.count("seed-") == 3
    assert "the mean of 3 encoders" in printed.err
    written = SentenceEncoder.from_pretrained(tmp_path / "soup", device="cpu", dtype="fp32")
    assert written.fingerprint == soup(models).fingerprint


def test_what_cannot_be_averaged_is_told(
    models: list[Path], tiny_bert: Path, tiny_roberta: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        soup(models[:1])
    with pytest.raises(ModelError, match="average models of one start"):
        soup([models[0], tiny_roberta])
    with pytest.raises(ModelError, match="pooling cls, expected mean"):
        soup([models[0], tiny_bert])
    assert main(["soup", str(models[0]), "--output", str(tmp_path / "soup")]) == 2
    assert "MODELS: found 1 encoder, expected at least 2" in capsys.readouterr().err
