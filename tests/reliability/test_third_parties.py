"""Our losses give the numbers of sentence-transformers' for the same vectors, and the same gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers.sentence_transformer import losses as theirs
from torch import Tensor

from simcse.objectives import InBatchCandidates, SoftmaxCrossEntropy
from simcse.objectives.scored import SCORED


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def agree(ours: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor], vectors: Tensor) -> None:
    found, expected = ours(vectors), other(vectors)
    torch.testing.assert_close(found, expected)
    [gradient], [wanted] = torch.autograd.grad(found, vectors), torch.autograd.grad(expected, vectors)
    torch.testing.assert_close(gradient, wanted, rtol=1e-7, atol=1e-12)  # a cold softmax leaves little: 1e-9
    assert wanted.any()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 9999),
    views=st.integers(2, 5),
    rows=st.integers(2, 9),
    temperature=st.floats(0.02, 2.0),
)
def test_softmax_in_batch_is_multiple_negatives_ranking(seed: int, views: int, rows: int, temperature: float) -> None:
    """With any number of hard negatives."""
    reference = theirs.MultipleNegativesRankingLoss(model=None, scale=1 / temperature)  # type: ignore[arg-type]
    candidates, objective = InBatchCandidates(temperature=temperature), SoftmaxCrossEntropy()
    agree(
        lambda vectors: objective(candidates(vectors)),
        lambda vectors: reference.compute_loss_from_embeddings(list(vectors), torch.empty(0)),
        drawn(seed, views, rows, 6),
    )


SCORED_THERE: dict[str, Callable[[float], Any]] = {
    "cosent": lambda temperature: theirs.CoSENTLoss(model=None, scale=1 / temperature),  # type: ignore[arg-type]
    "angle": lambda temperature: theirs.AnglELoss(model=None, scale=1 / temperature),  # type: ignore[arg-type]
    "cosine_mse": lambda _: theirs.CosineSimilarityLoss(model=None),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", SCORED)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 9999), rows=st.integers(2, 9), temperature=st.floats(0.05, 2.0))
def test_losses_of_scored_pairs(name: str, seed: int, rows: int, temperature: float) -> None:
    reference = SCORED_THERE[name](temperature)
    scores = torch.arange(rows, dtype=torch.float64) / 8
    agree(
        lambda vectors: SCORED[name](vectors, scores, temperature),
        lambda vectors: reference.compute_loss_from_embeddings(list(vectors.unbind(1)), scores),
        drawn(seed, rows, 2, 6),
    )
