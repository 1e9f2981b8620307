"""GradCache: a large batch's gradient, a few rows at a time, dropout on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import datasets
import pytest
import torch
from accelerate import Accelerator

from simcse import SentenceEncoder
from simcse.data.collate import Batch, Batches
from simcse.objectives import InBatchCandidates, SoftmaxCrossEntropy
from simcse.training.large_batch import cached_backward
from simcse.training.loss import ContrastiveLoss
from simcse.training.model import ContrastiveModel


def setup(folder: Path, sentences: list[str], rows: int) -> tuple[ContrastiveModel, Batch]:
    encoder = SentenceEncoder.from_pretrained(folder, device="cpu", dtype="fp32")
    with torch.no_grad():  # the fixture's small random weights put all vectors in one place, where gradients vanish
        for weight in encoder.parameters():
            weight.mul_(10 if weight.ndim > 1 else 1)
    torch.manual_seed(0)
    model = ContrastiveModel(encoder, "train").train()
    data = datasets.Dataset.from_dict({"text": sentences[:rows]})
    return model, Batches(data, encoder.tokenize(32), batch_size=rows, seed=0).batch_of(0)


CRITERION = ContrastiveLoss(InBatchCandidates(), SoftmaxCrossEntropy())


@pytest.mark.parametrize("micro", [1, 5, 8])
def test_equals_the_direct_gradient_with_dropout(tiny_bert: Path, sentences: list[str], micro: int) -> None:
    """The direct way: the same chunks under the same masks, all kept in one graph, one loss."""
    model, batch = setup(tiny_bert, sentences, 24)
    torch.manual_seed(7)
    views = []
    for first in range(0, len(batch), micro):
        last = min(first + micro, len(batch))
        views.append(model.stack(batch.tokens.select(2 * first, 2 * last), 2))
    direct = CRITERION(torch.cat(views, dim=1), batch)
    direct.backward()
    after = torch.get_rng_state()
    expected = {key: weight.grad.clone() for key, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()

    torch.manual_seed(7)
    loss = cached_backward(Accelerator(cpu=True), model, batch, CRITERION, micro)
    assert float(loss) == pytest.approx(direct.item(), abs=1e-6)
    for key, weight in model.named_parameters():
        if key in expected:
            torch.testing.assert_close(weight.grad, expected[key], atol=1e-5, rtol=1e-4, msg=key)
    assert torch.equal(torch.get_rng_state(), after)  # the next draw is the same as after the direct way


def test_more_rows_than_the_batch_is_one_pass(tiny_bert: Path, sentences: list[str]) -> None:
    model, batch = setup(tiny_bert, sentences, 8)
    torch.manual_seed(7)
    one = CRITERION(model(batch), batch).detach()
    torch.manual_seed(7)
    assert float(cached_backward(Accelerator(cpu=True), model, batch, CRITERION, 100)) == float(one)


class OwnGenerator(ModuleType):
    """What torch asks of a device's module, for a device whose dropout draws from a generator of its own."""

    def __init__(self) -> None:
        super().__init__("torch.privateuseone")
        self.generator = torch.Generator()

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        self.generator.manual_seed(seed)

    def get_rng_state(self, device: torch.device) -> torch.Tensor:
        return self.generator.get_state()

    def set_rng_state(self, state: torch.Tensor, device: torch.device) -> None:
        self.generator.set_state(state)


class OnDevice(Accelerator):
    """Computes on the CPU; the random numbers are the device's."""

    device = torch.device("privateuseone:0")


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.Generator]:
    module = OwnGenerator()
    torch._register_device_module("privateuseone", module)
    monkeypatch.setattr(torch, "privateuseone", module)
    yield module.generator
    monkeypatch.undo()
    del sys.modules["torch.privateuseone"]


def test_masks_of_a_device_with_a_generator_of_its_own(
    tiny_bert: Path, sentences: list[str], generator: torch.Generator
) -> None:
    """MPS, XPU and others: the CPU's generator says nothing about their masks."""
    model, batch = setup(tiny_bert, sentences, 12)
    model.eval()

    def dropped(module: torch.nn.Module, inputs: object, vectors: torch.Tensor) -> torch.Tensor:
        return vectors * torch.bernoulli(torch.full_like(vectors, 0.5), generator=generator)

    model.encoder.register_forward_hook(dropped)
    generator.manual_seed(7)
    views = [model.stack(batch.tokens.select(2 * first, 2 * first + 8), 2) for first in (0, 4, 8)]
    CRITERION(torch.cat(views, dim=1), batch).backward()
    expected = {key: weight.grad.clone() for key, weight in model.named_parameters() if weight.grad is not None}
    after = generator.get_state()
    model.zero_grad()
    generator.manual_seed(7)
    cached_backward(OnDevice(cpu=True), model, batch, CRITERION, 4)
    for key, weight in model.named_parameters():
        if key in expected:
            torch.testing.assert_close(weight.grad, expected[key], atol=1e-5, rtol=1e-4, msg=key)
    assert torch.equal(generator.get_state(), after)
