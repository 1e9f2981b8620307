"""GradCache: a large batch's gradient, a few rows at a time, dropout on."""

from __future__ import annotations

from pathlib import Path

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
