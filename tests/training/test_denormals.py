"""Moments below 1.2e-38 become 0, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from simcse.training import trainer
from simcse.training.config import DataConfig, ModelConfig, SourceConfig, TrainConfig
from simcse.training.denormals import TINY, drop_denormals
from simcse.training.run import train


def test_what_is_normal_stays_to_the_bit() -> None:
    weight = torch.nn.Parameter(torch.ones(6))
    optimizer = torch.optim.AdamW([weight])
    weight.grad = torch.ones(6)
    optimizer.step()
    kept = torch.tensor([1.2e-38, -1.2e-38, 1.0, float("inf"), 0.0, -3e-5])
    state = optimizer.state[weight]
    state["exp_avg"], state["exp_avg_sq"] = kept.clone(), torch.full((6,), 1e-45)
    drop_denormals(optimizer.state.values())
    assert state["exp_avg"].equal(kept)
    assert state["exp_avg_sq"].equal(torch.zeros(6))
    assert state["step"] == 1
    state["exp_avg"].fill_(4.2e-45)
    for _ in range(50):  # what the docstring says: it would stay for ever
        weight.grad = torch.zeros(6)
        optimizer.step()
    assert (state["exp_avg"] > 0).all()
    drop_denormals(optimizer.state.values())
    assert not state["exp_avg"].any()


def test_a_run_keeps_none(
    tiny_bert: Path, tmp_path: Path, sentences: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a loss of next to no weight, whose gradients are denormals themselves."""
    monkeypatch.setattr(trainer, "NORMAL_EVERY", 8)
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(sentences[:16]) + "\n")
    config = TrainConfig(
        model=ModelConfig(str(tiny_bert)), data=DataConfig(sources=[SourceConfig(str(texts), weight=1e-37)]),
        output_dir=str(tmp_path / "run"), precision="fp32", batch_size=4, max_steps=8,
    )  # fmt: skip
    train(config)
    state = torch.load(tmp_path / "run" / "last" / "trainer.pt", weights_only=True)["optimizer"]["state"]
    moments = torch.cat([one["exp_avg"].abs().flatten() for one in state.values()])
    assert (moments >= TINY).any()  # there was something to learn
    assert not ((moments > 0) & (moments < TINY)).any()
