"""Candidates from a vocabulary: all of it, and samples with their hits removed."""

from __future__ import annotations

import pytest
import torch

from simcse.errors import ConfigError, DataError
from simcse.objectives import (
    OBJECTIVES,
    NegativeSampling,
    SampledSoftmax,
    SoftmaxCrossEntropy,
    Uniform,
    build_objective,
    sampled_candidates,
    vocabulary_candidates,
)

QUERIES = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TABLE = torch.randn(9, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
TARGET = torch.tensor([0, 8, 3, 3])


def test_vocabulary_scores_are_all_dot_products() -> None:
    scores = vocabulary_candidates(QUERIES, TABLE, TARGET)
    for i in range(4):
        for c in range(9):
            assert float(scores.logits[i, c]) == pytest.approx(sum((QUERIES[i] * TABLE[c]).tolist()))
    assert torch.equal(scores.positive, scores.logits[torch.arange(4), TARGET])
    valid = torch.ones(4, 9, dtype=torch.bool)
    valid[0, 5] = False
    assert torch.equal(vocabulary_candidates(QUERIES, TABLE, TARGET, valid=valid).valid, valid)


@pytest.mark.parametrize("shared", [True, False])
def test_sampled_scores_pick_from_the_whole_table(shared: bool) -> None:
    noise = torch.tensor([3, 5, 3]) if shared else torch.tensor([[1, 2, 0], [3, 8, 5], [7, 6, 4], [3, 3, 1]])
    whole = vocabulary_candidates(QUERIES, TABLE, TARGET).logits
    log_noise = torch.randn(9, dtype=torch.float64)
    scores = sampled_candidates(QUERIES, TABLE, TARGET, noise, log_noise=log_noise)
    columns = torch.cat([TARGET[:, None], noise.expand(4, 3)], 1)
    torch.testing.assert_close(scores.logits, whole.gather(1, columns))
    torch.testing.assert_close(scores.log_noise, log_noise[columns])
    assert torch.equal(scores.negatives[:, 1:], noise.expand(4, 3) != TARGET[:, None])
    assert sampled_candidates(QUERIES, TABLE, TARGET, noise, remove_hits=False).negatives[:, 1:].all()


@pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - {"margin"}))  # which needs cosines
def test_every_objective_takes_a_vocabulary_and_a_sample(name: str) -> None:
    """On all classes, each once as noise (log count 0), a sample of all the others gives the same loss."""
    table, options = TABLE.clone().requires_grad_(), {"correction": torch.tensor([1.0, 2.0, 0.5, 0.5]).double()}
    objective, log_noise = build_objective(name), torch.zeros(9, dtype=torch.float64)
    whole = objective(vocabulary_candidates(QUERIES, table, TARGET, log_noise=log_noise, **options))
    drawn = Uniform(9, 8).sample(TARGET)
    sampled = objective(sampled_candidates(QUERIES, TABLE, TARGET, drawn, log_noise=log_noise, **options))
    torch.testing.assert_close(whole.detach(), sampled)
    whole.backward()
    assert torch.isfinite(table.grad).all()


def test_a_sample_of_everything_is_the_whole_softmax() -> None:
    """All other classes as noise, each expected once: log E[count] is 0 and the losses agree."""
    noise = Uniform(9, 8)
    drawn = noise.sample(TARGET)
    log_noise = noise.log_expected_count(torch.cat([TARGET[:, None], drawn], 1), TARGET)
    torch.testing.assert_close(log_noise, torch.zeros(4, 9))
    sampled = sampled_candidates(QUERIES, TABLE, TARGET, drawn, log_noise=log_noise)
    whole = vocabulary_candidates(QUERIES, TABLE, TARGET)
    torch.testing.assert_close(SampledSoftmax()(sampled), SoftmaxCrossEntropy()(whole))
    torch.testing.assert_close(NegativeSampling()(sampled), NegativeSampling()(whole))


def test_half_precision_is_scored_in_float32() -> None:
    scores = vocabulary_candidates(QUERIES.bfloat16(), TABLE.bfloat16(), TARGET)
    assert scores.logits.dtype == torch.float32
    torch.testing.assert_close(scores.logits, QUERIES.bfloat16().float() @ TABLE.bfloat16().float().T)
    noise = torch.tensor([[1, 2], [3, 4], [5, 6], [7, 8]])
    with torch.autocast("cpu", torch.bfloat16):
        for drawn in (noise, noise[0]):
            sampled = sampled_candidates(QUERIES.float(), TABLE.float(), TARGET, drawn)
            expected = sampled_candidates(QUERIES, TABLE, TARGET, drawn).logits.float()
            torch.testing.assert_close(sampled.logits, expected)


def test_wrong_tensors_are_named() -> None:
    with pytest.raises(ConfigError, match=r"table: found \(9, 5\)"):
        vocabulary_candidates(QUERIES, TABLE[:, :5], TARGET)
    with pytest.raises(ConfigError, match=r"table: found \(6,\)"):
        vocabulary_candidates(QUERIES, TABLE[0], TARGET)
    with pytest.raises(ConfigError, match=r"target: found \(3,\), expected \(4,\)"):
        vocabulary_candidates(QUERIES, TABLE, TARGET[:3])
    with pytest.raises(ConfigError, match=r"noise: found \(3, 2\)"):
        sampled_candidates(QUERIES, TABLE, TARGET, torch.zeros(3, 2, dtype=torch.int64))
    with pytest.raises(ConfigError, match=r"noise: found \(4, 2\) torch.float32"):
        sampled_candidates(QUERIES, TABLE, TARGET, torch.zeros(4, 2))
    with pytest.raises(DataError, match="row 1 has target 9, expected a column from 0 to 8"):
        vocabulary_candidates(QUERIES, TABLE, torch.tensor([0, 9, 3, 3]))
    with pytest.raises(DataError, match="row 2 has no valid negative among its 3 candidates"):
        sampled_candidates(QUERIES, TABLE, TARGET, torch.tensor([[1, 2], [3, 4], [3, 3], [3, 5]]))
    with pytest.raises(DataError, match="row 2: noise is 9, expected a row of the table from 0 to 8"):
        sampled_candidates(QUERIES, TABLE, TARGET, torch.tensor([[1, 2], [3, 4], [3, 9], [3, 5]]))
    with pytest.raises(DataError, match="row 1: target is -1, expected a row of the table from 0 to 8"):
        sampled_candidates(QUERIES, TABLE, torch.tensor([0, -1, 3, 3]), torch.tensor([1, 2]))
