"""The queue holds the newest positives, as the slow copy sees them."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest
import torch

from simcse import ConfigError, SentenceEncoder
from simcse.data.collate import Batches
from simcse.training.build import build_loss
from simcse.training.config import ModelConfig, TrainConfig
from simcse.training.model import ContrastiveModel
from simcse.training.momentum import MomentumQueue


def test_the_newest_positives_by_the_slow_copy(tiny_bert: Path, sentences: list[str]) -> None:
    encoder = SentenceEncoder.from_pretrained(tiny_bert, device="cpu", dtype="fp32")
    model = ContrastiveModel(encoder, "none").train()
    data = datasets.Dataset.from_dict({"anchor": sentences[:32], "positive": sentences[32:]})
    batches = Batches(data, encoder.tokenize(32), batch_size=8, seed=0)
    queue = MomentumQueue(model, 12, momentum=0.9)
    before = {key: weight.clone() for key, weight in queue.copy.named_parameters()}
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.01)
    queue.update(model, batches.batch_of(0))
    for key, weight in queue.copy.named_parameters():
        torch.testing.assert_close(weight, before[key] + 0.001, atol=1e-6, rtol=0)
    assert (queue.vectors.shape, queue.keys.shape) == ((8, 32), (8,))
    second = batches.batch_of(1)
    queue.update(model, second)
    assert queue.vectors.shape == (12, 32)
    texts = [data[int(row)]["positive"] for row in second.rows]
    expected = queue.copy.encoder.encode(texts, normalize=False)
    torch.testing.assert_close(queue.vectors[-8:], torch.from_numpy(expected), atol=1e-5, rtol=1e-5)
    assert queue.keys[-8:].equal(second.keys[1])
    views = model(second.tokens, 2)
    alone, longer = (build_loss(TrainConfig(), q)(second, views) for q in (None, queue))
    assert longer > alone  # the queue's other vectors are further negatives


def test_what_does_not_go_together() -> None:
    with pytest.raises(ConfigError, match=r"--model\.queue needs --scores info_nce, and these are 'nt_xent'"):
        TrainConfig(model=ModelConfig(queue=8), scores="nt_xent")
    with pytest.raises(ConfigError, match=r"--model\.momentum is 1"):
        TrainConfig(model=ModelConfig(momentum=1.0))
