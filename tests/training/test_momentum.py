"""The queue holds the newest positives, as the slow copy sees them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
import torch

from simcse import SentenceEncoder
from simcse.data.collate import Batches
from simcse.objectives import OBJECTIVES
from simcse.training.build_loss import build_loss
from simcse.training.config import DataConfig, ModelConfig, TrainConfig
from simcse.training.model import ContrastiveModel
from simcse.training.momentum import MomentumQueue
from simcse.training.run import train


def test_the_newest_positives_by_the_slow_copy(tiny_bert: Path, sentences: list[str]) -> None:
    encoder = SentenceEncoder.from_pretrained(tiny_bert, device="cpu", dtype="fp32")
    model = ContrastiveModel(encoder, "none").train()
    data = datasets.Dataset.from_dict({"anchor": sentences[:32], "positive": sentences[32:]})
    batches = Batches(data, encoder.tokenize(32), batch_size=8, seed=0)
    queue = MomentumQueue(model, 12, ema_decay=0.9)
    before = {key: weight.clone() for key, weight in queue.average.module.named_parameters()}
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.01)
    queue.update(model, batches.batch_of(0))
    for key, weight in queue.average.module.named_parameters():
        torch.testing.assert_close(weight, before[key] + 0.001, atol=1e-6, rtol=0)
    assert (queue.vectors.shape, queue.keys.shape) == ((8, 32), (8,))
    second = batches.batch_of(1)
    queue.update(model, second)
    assert queue.vectors.shape == (12, 32)
    texts = [data[int(row)]["positive"] for row in second.rows]
    expected = queue.average.module.encoder.encode(texts, normalize=False)
    torch.testing.assert_close(queue.vectors[-8:], torch.from_numpy(expected), atol=1e-5, rtol=1e-5)
    assert queue.keys[-8:].equal(second.keys[1])
    views = model(second)
    alone, longer = (replace(build_loss(TrainConfig()), queue=q)(views, second) for q in (None, queue))
    assert longer > alone  # the queue's other vectors are further negatives


@pytest.mark.parametrize("objective", ["backward_corrected", "noise_contrastive", "softmax"])
def test_objectives_with_counts_take_a_queue_too(
    objective: str, tiny_bert: Path, tmp_path: Path, sentences: list[str]
) -> None:
    """Counts of past texts are kept with their vectors, over a kill too."""
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(sentences[:24] + sentences[:8]) + "\n")  # some come twice
    config = TrainConfig(
        model=ModelConfig(str(tiny_bert), queue_size=12), data=DataConfig(str(texts)), objective=objective,
        output_dir=str(tmp_path / "run"), precision="fp32", batch_size=8, max_steps=2, log_every=1, save_every=1,
    )  # fmt: skip
    train(config)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert len(losses) == 2
    state = torch.load(tmp_path / "run" / "last" / "trainer.pt", weights_only=True)["queue"]
    assert state["vectors"].shape == (12, 32)
    if OBJECTIVES[objective].needs_counts:
        shares = state["log_frequency"].exp()  # (12,)
        assert shares.shape == (12,)
        assert {round(float(share) * 32) for share in shares} == {1, 2}
    else:
        assert state["log_frequency"].shape == (0,)


def test_a_resumed_queue_has_its_counts(tiny_bert: Path, sentences: list[str]) -> None:
    encoder = SentenceEncoder.from_pretrained(tiny_bert, device="cpu", dtype="fp32")
    model = ContrastiveModel(encoder, "none").train()
    data = datasets.Dataset.from_dict({"text": sentences[:16] + sentences[:16]})
    batch = Batches(data, encoder.tokenize(32), batch_size=8, seed=0, with_counts=True).batch_of(0)
    first, second = (MomentumQueue(model, 6, ema_decay=0.9) for _ in range(2))
    first.update(model, batch)
    second.load_state_dict(first.state_dict())
    assert batch.log_frequency is not None
    for queue in (first, second):
        assert torch.equal(queue.log_frequency, batch.log_frequency[1][-6:])
