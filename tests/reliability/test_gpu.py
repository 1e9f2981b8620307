"""What only a CUDA device can tell: `pytest -m gpu`. Not run on one yet."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from simcse import SentenceEncoder
from simcse.data.collate import Batches
from simcse.objectives import InBatchCandidates, SoftmaxCrossEntropy
from simcse.training import trainer
from simcse.training.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
from simcse.training.large_batch import cached_backward
from simcse.training.loss import ContrastiveLoss
from simcse.training.model import ContrastiveModel
from simcse.training.run import train

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)
pytestmark = pytest.mark.gpu
BACKENDS = ["auto", "cuda_varlen"]


def load(folder: Path, **options: str) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(folder, **{"device": "cuda", "dtype": "bf16", **options})


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_near_fp32_on_the_cpu(backend: str, dtype: str, minilm: Path, sentences: list[str]) -> None:
    expected = load(minilm, device="cpu", dtype="fp32").encode(sentences)
    got = load(minilm, dtype=dtype, backend=backend).encode(sentences)
    assert (expected * got).sum(1).min() > 0.999


@pytest.mark.parametrize("backend", BACKENDS)
def test_vectors_are_batch_invariant(backend: str, minilm: Path, sentences: list[str]) -> None:
    encoder = load(minilm, backend=backend)
    together = encoder.encode(sentences)
    alone = np.stack([encoder.encode(text) for text in sentences])
    by_three = encoder.encode(sentences, batch_size=3)
    assert (together * alone).sum(1).min() > 0.9999
    assert (together * by_three).sum(1).min() > 0.9999


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_are_near_those_in_fp32(backend: str, minilm: Path, sentences: list[str]) -> None:
    grads = []
    for device, precision, name in (("cpu", "fp32", "huggingface"), ("cuda", "bf16", backend)):
        encoder = load(minilm, device=device, dtype="fp32")
        encoder.asked_backend = name
        batch = Batches(
            datasets.Dataset.from_dict({"text": sentences}), encoder.tokenize(32), batch_size=64, seed=0, device=device
        ).batch_of(0)
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=precision == "bf16"):
            vectors = encoder(batch.tokens)
        vectors.float().pow(3).sum().backward()
        grads.append(torch.cat([w.grad.flatten().cpu() for w in encoder.backbone.encoder.parameters()]))
    assert torch.cosine_similarity(*grads, dim=0) > 0.99


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcache_replays_the_masks(backend: str, minilm: Path, sentences: list[str]) -> None:
    """All rows at once in chunks of one graph, and chunk after chunk: the same loss, the same gradient."""
    from accelerate import Accelerator

    accelerator = Accelerator(mixed_precision="bf16")
    encoder = SentenceEncoder.from_pretrained(minilm, device="cuda", dtype="fp32", dropout=0.1)
    encoder.asked_backend = backend
    torch.manual_seed(0)
    plain = ContrastiveModel(encoder, "train").cuda().train()
    model = accelerator.prepare(plain)
    batch = Batches(
        datasets.Dataset.from_dict({"text": sentences[:24]}), encoder.tokenize(32), batch_size=24, seed=0, device="cuda"
    ).batch_of(0)
    criterion, found = ContrastiveLoss(InBatchCandidates(), SoftmaxCrossEntropy()), []
    for micro in (24, 8, 8):
        model.zero_grad()
        torch.manual_seed(7)
        loss = cached_backward(accelerator, model, batch, criterion, micro)
        found.append((float(loss), torch.cat([w.grad.flatten() for w in plain.parameters() if w.grad is not None])))
    assert found[1][0] == pytest.approx(found[2][0], abs=1e-5)
    assert torch.cosine_similarity(found[1][1], found[2][1], dim=0) > 0.9999
    assert torch.cosine_similarity(found[0][1], found[1][1], dim=0) > 0.5  # other masks, the same task


class KilledError(Exception):
    pass


def test_a_killed_run_goes_on(
    tiny_bert: Path, sentences: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout on; sums of a device may differ in their last bits."""
    file = tmp_path / "text.txt"
    file.write_text("\n".join(sentences) + "\n")
    whole = TrainConfig(
        model=ModelConfig(name=str(tiny_bert), pooling="mean"), data=DataConfig(train=str(file)),
        optim=OptimConfig(lr=1e-3), output_dir=str(tmp_path / "whole"), batch_size=16, max_steps=8, save_every=4,
        log_every=1, precision="bf16",
    )  # fmt: skip
    train(whole)
    config, seen = replace(whole, output_dir=str(tmp_path / "killed")), trainer.seed_step

    def kill(seed: int, step: int) -> None:
        if step == 7:
            raise KilledError
        seen(seed, step)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "seed_step", kill)
        with pytest.raises(KilledError):
            train(config)
    assert train(replace(config, resume="auto"))["training"]["first_step"] == 5
    logs = [(Path(run.output_dir) / "log.jsonl").read_text().splitlines() for run in (whole, config)]
    losses = [[entry["loss"] for entry in map(json.loads, log) if "loss" in entry] for log in logs]
    assert len(losses[0]) == 8
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
