"""The moving average of the weights: its value, that the weights come back, and that best/ holds it."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from simcse import ConfigError, SentenceEncoder
from simcse.training.average import WeightAverage
from simcse.training.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
from simcse.training.run import train


def test_the_value_and_the_weights_to_the_bit_behind_it() -> None:
    model = torch.nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    average, seen = WeightAverage(model, 0.75), [model.weight.detach().clone()]
    for _ in range(3):
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3))
        seen.append(model.weight.detach().clone())
        average.update()
    expected = 0.75**3 * seen[0] + 0.25 * (0.75**2 * seen[1] + 0.75 * seen[2] + seen[3])
    with contextlib.suppress(KeyError), average.in_place():
        torch.testing.assert_close(model.weight.detach(), expected)
        raise KeyError
    assert torch.equal(model.weight, seen[3])
    assert average.state_dict().keys() == {"weight"}
    again = WeightAverage(model, 0.75)
    again.load_state_dict(average.state_dict())
    with again.in_place():
        torch.testing.assert_close(model.weight.detach(), expected)


@pytest.mark.parametrize("dev", [True, False])
def test_best_holds_the_average_and_last_the_weights(
    dev: bool, tiny_bert: Path, tmp_path: Path, sentences: list[str]
) -> None:
    texts, scored = tmp_path / "texts.txt", tmp_path / "dev.tsv"
    texts.write_text("\n".join(sentences[:16]) + "\n")
    scored.write_text(
        "".join(f"{a}\t{b}\t{i % 5}\n" for i, (a, b) in enumerate(zip(sentences[:20], sentences[20:40], strict=True)))
    )
    config = TrainConfig(
        model=ModelConfig(str(tiny_bert)), data=DataConfig(str(texts), dev=str(scored) if dev else None),
        optim=OptimConfig(lr=1e-3, ema_decay=0.75), output_dir=str(tmp_path / "run"), precision="fp32", batch_size=8,
        max_steps=1, eval_every=1,
    )  # fmt: skip
    report = train(config)
    start, best, last = (
        SentenceEncoder.from_pretrained(folder, device="cpu", dtype="fp32")
        for folder in (tiny_bert, tmp_path / "run" / "best", tmp_path / "run" / "last")
    )
    for (name, kept), before, after in zip(best.named_parameters(), start.parameters(), last.parameters(), strict=True):
        torch.testing.assert_close(kept, 0.75 * before + 0.25 * after, msg=name)
    if dev:  # what was scored is what is kept
        alone = replace(config, optim=OptimConfig(lr=1e-3), output_dir=str(tmp_path / "alone"))
        assert report["tasks"]["dev.tsv"] != train(alone)["tasks"]["dev.tsv"]


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_out_of_range(decay: float) -> None:
    with pytest.raises(ConfigError, match=r"^optim\.ema_decay is .*: a decay, at least 0 and below 1"):
        TrainConfig(optim=OptimConfig(ema_decay=decay))
