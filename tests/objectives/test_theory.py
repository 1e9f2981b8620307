"""What each objective drives a model to: free score tables trained to the end on a known p_d(x, y).

The training set holds the pair (x, y) COUNTS[x, y] times, so p_d is known exactly; noise columns contain class y as
often as it is expected, so nothing is drawn and what is left is theory. The limits are those of Kamigaito and Hayashi
(2021), table 1; those of SANS and sampled softmax are derived below.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from simcse.objectives import (
    BackwardCorrected,
    ContrastiveLogits,
    Decoupled,
    LabelSmoothed,
    NegativeSampling,
    NoiseContrastive,
    Objective,
    SampledSoftmax,
    SelfAdversarial,
    SoftmaxCrossEntropy,
)

COUNTS = torch.tensor([[8, 4, 2, 1, 1], [1, 2, 6, 2, 1], [3, 3, 3, 9, 2]])  # (X, Y)
TWO_LEVELS = torch.tensor([[12, 2, 2, 2, 2], [2, 12, 2, 2, 2]])

Layout = Callable[[Tensor, Tensor], ContrastiveLogits]  # (score table (X, Y), counts (X, Y)) -> ContrastiveLogits


def pairs(counts: Tensor) -> tuple[Tensor, Tensor]:
    """The training set: x (N,) and y (N,)."""
    x, y = torch.meshgrid(torch.arange(counts.shape[0]), torch.arange(counts.shape[1]), indexing="ij")
    repeats = counts.flatten()
    return x.flatten().repeat_interleave(repeats), y.flatten().repeat_interleave(repeats)


def whole_vocabulary(table: Tensor, counts: Tensor) -> ContrastiveLogits:
    """Every class is a candidate; #x / #y goes along."""
    x, y = pairs(counts)
    correction = counts.sum(1)[x] / counts.sum(0)[y]
    return ContrastiveLogits(table[x], y, correction=correction.double())


def with_noise(table: Tensor, counts: Tensor, repeats: Tensor) -> ContrastiveLogits:
    """The target, then class c `repeats[c]` times as noise that does not look at the target: k q(c) = repeats[c]."""
    x, y = pairs(counts)
    noise = torch.arange(counts.shape[1]).repeat_interleave(repeats).expand(len(x), -1)
    columns = torch.cat([y[:, None], noise], 1)
    return ContrastiveLogits(table[x[:, None], columns], torch.zeros_like(y), log_noise=repeats.double().log()[columns])


def uniform_noise(table: Tensor, counts: Tensor) -> ContrastiveLogits:
    return with_noise(table, counts, torch.ones(counts.shape[1], dtype=torch.int64))


def frequency_noise(table: Tensor, counts: Tensor) -> ContrastiveLogits:
    return with_noise(table, counts, counts.sum(0))


def every_sample(table: Tensor, counts: Tensor) -> ContrastiveLogits:
    """Each pair with each subset of the classes as its sample, as often as the subset is likely: class c enters with
    probability 1/4, 1/2, 3/4, 1/2, 1/4, independently. Hits of the target are removed: it is a candidate once."""
    enters = torch.tensor([1, 2, 3, 2, 1])  # quarters
    subsets = torch.tensor(list(itertools.product([0, 1], repeat=5)), dtype=torch.bool)
    quarters = torch.where(subsets, enters, 4 - enters).prod(1)  # times 4^-5
    subsets = subsets.repeat_interleave(quarters, 0)  # (4^5, 5)
    x, y = pairs(counts)
    x, y, valid = x.repeat_interleave(len(subsets)), y.repeat_interleave(len(subsets)), subsets.repeat(len(x), 1)
    valid = valid.scatter(1, y[:, None], True)
    several = valid.count_nonzero(1) > 1  # a sample of nothing but the target teaches nothing
    return ContrastiveLogits(table[x][several], y[several], valid[several], (enters / 4).double().log())


def train(objective: Objective, layout: Layout, counts: Tensor, steps: int = 300) -> Tensor:
    """(X, Y) scores that the objective converges to, from 0: full gradients, so Rprop gets there in a few steps."""
    table = torch.zeros(counts.shape, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Rprop([table], lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        objective(layout(table, counts)).backward()
        optimizer.step()
    assert float(table.grad.abs().max()) < 1e-5, "not converged"
    return table.detach()


def distance(scores: Tensor, expected: Tensor) -> float:
    """Total variation between softmax(scores) and the expected distribution, the worst x."""
    return float((scores.softmax(1) - expected).abs().sum(1).max()) / 2


def conditional(counts: Tensor) -> Tensor:
    return counts / counts.sum(1, keepdim=True).double()


def over_frequency(counts: Tensor) -> Tensor:
    """p_d(y | x) / p_d(y), normalised over y."""
    ratio = conditional(counts) / counts.sum(0)
    return ratio / ratio.sum(1, keepdim=True)


def smoothed(counts: Tensor, share: float) -> Tensor:
    return (1 - share) * conditional(counts) + share / counts.shape[1]


def tempered(counts: Tensor, power: float) -> Tensor:
    """p_d(y | x)^power, normalised over y."""
    raised = conditional(counts) ** power
    return raised / raised.sum(1, keepdim=True)


LIMITS = {
    "SCE": (SoftmaxCrossEntropy(), whole_vocabulary, conditional(COUNTS)),
    "SCE+LS": (LabelSmoothed(smoothing=0.2), whole_vocabulary, smoothed(COUNTS, 0.2)),
    "SCE+BC": (BackwardCorrected(), whole_vocabulary, over_frequency(COUNTS)),
    "NS uniform": (NegativeSampling(), uniform_noise, conditional(COUNTS)),
    "NS uniform, bias": (NegativeSampling(bias=-3.0), uniform_noise, conditional(COUNTS)),
    "NS frequency": (NegativeSampling(), frequency_noise, over_frequency(COUNTS)),
    "NCE uniform": (NoiseContrastive(), uniform_noise, conditional(COUNTS)),
    "NCE frequency": (NoiseContrastive(), frequency_noise, conditional(COUNTS)),
    "sampled softmax": (SampledSoftmax(), every_sample, conditional(COUNTS)),
    "SANS": (SelfAdversarial(adversarial_temperature=0.5), uniform_noise, tempered(COUNTS, 1 / 1.5)),
    "SANS, a = 0": (SelfAdversarial(adversarial_temperature=0.0), uniform_noise, conditional(COUNTS)),
}


@pytest.mark.parametrize("name", sorted(LIMITS))
def test_limit(name: str) -> None:
    """For SANS: with fixed weights w, the optimum is exp(s) = p_d / w with w proportional to exp(a s), so
    exp((1 + a) s) is proportional to p_d. For sampled softmax: that y is the right one of the candidates C has
    probability proportional to p_d(y | x) P(the others enter) P(the rest stay out), so to p_d(y | x) / P(y enters)."""
    objective, layout, expected = LIMITS[name]
    table = train(objective, layout, COUNTS, steps=40 if layout is every_sample else 300)
    assert distance(table, expected) < 0.01


def test_limits_are_different_distributions() -> None:
    """The table above can tell its members apart: they are further from each other than its tolerance by far."""
    limits = [conditional(COUNTS), smoothed(COUNTS, 0.2), over_frequency(COUNTS), tempered(COUNTS, 1 / 1.5)]
    for one, other in itertools.combinations(limits, 2):
        assert distance(one.log(), other) > 0.04


@pytest.mark.parametrize("noise", [uniform_noise, frequency_noise])
def test_the_normaliser_of_nce_tends_to_one(noise: Layout) -> None:
    """NCE learns p_d(y | x) itself, not up to a factor; a bias b moves the sum of exp(s) to exp(-b)."""
    table = train(NoiseContrastive(), noise, COUNTS)
    torch.testing.assert_close(table.exp().sum(1), torch.ones(3, dtype=torch.float64), rtol=1e-3, atol=0)
    table = train(NoiseContrastive(bias=-2.0), noise, COUNTS)
    torch.testing.assert_close(table.exp().sum(1), torch.full((3,), 2.0, dtype=torch.float64).exp(), rtol=1e-3, atol=0)


def test_negative_sampling_has_another_normaliser() -> None:
    """exp(s) = p_d / (k q): its sum over y is Y / k for uniform noise, so ten draws from five classes give 1 / 2."""
    twice = train(NegativeSampling(), lambda t, c: with_noise(t, c, torch.full((5,), 2)), COUNTS)
    torch.testing.assert_close(twice.exp().sum(1), torch.full((3,), 0.5, dtype=torch.float64), rtol=1e-3, atol=0)


def test_uniform_negative_sampling_meets_softmax() -> None:
    ours = train(NegativeSampling(), uniform_noise, COUNTS)
    assert distance(ours, train(SoftmaxCrossEntropy(), whole_vocabulary, COUNTS).softmax(1)) < 0.01


def test_frequency_negative_sampling_meets_backward_correction() -> None:
    ours = train(NegativeSampling(), frequency_noise, COUNTS)
    assert distance(ours, train(BackwardCorrected(), whole_vocabulary, COUNTS).softmax(1)) < 0.01


def test_self_adversarial_meets_label_smoothing_on_two_levels() -> None:
    """p_d is 0.6 for one answer and 0.1 for four. With a = 1 SANS gives sqrt(0.6) : sqrt(0.1), which is the mixture
    (1 - l) p_d + l / 5 with the l that solves (1 - l) 0.1 + l / 5 = sqrt(0.1) / (sqrt(0.6) + 4 sqrt(0.1))."""
    low = 0.1**0.5 / (0.6**0.5 + 4 * 0.1**0.5)
    share = (low - 0.1) / (1 / 5 - 0.1)
    assert 0.1 < share < 0.9
    ours = train(SelfAdversarial(), uniform_noise, TWO_LEVELS)
    theirs = train(LabelSmoothed(smoothing=share), whole_vocabulary, TWO_LEVELS)
    assert distance(ours, theirs.softmax(1)) < 0.01


def test_self_adversarial_is_near_label_smoothing_elsewhere() -> None:
    """On a general p_d the two meet only nearly: for each x one share l brings LS nearer to SANS than SCE is."""
    ours = train(SelfAdversarial(adversarial_temperature=0.5), uniform_noise, COUNTS).softmax(1)
    for x in range(len(COUNTS)):
        row = COUNTS[x : x + 1]
        gaps = [distance(ours[x : x + 1].log(), smoothed(row, share / 100)) for share in range(100)]
        assert min(gaps) < 0.05
        assert min(gaps) < gaps[0] / 3


def many_rows(table: Tensor, counts: Tensor) -> ContrastiveLogits:
    """The target and a large batch: class c in proportion to its frequency, hits of the target left in."""
    return with_noise(table, counts, 50 * counts.sum(0))


def test_other_rows_of_a_batch_are_frequency_noise() -> None:
    """Over a batch softmax learns the ratio p_d(y | x) / p_d(y); with the counts taken out, p_d(y | x)."""
    assert distance(train(SoftmaxCrossEntropy(), many_rows, COUNTS), over_frequency(COUNTS)) < 0.01
    assert distance(train(SampledSoftmax(), many_rows, COUNTS), conditional(COUNTS)) < 0.01


def test_noise_without_the_target_has_another_limit() -> None:
    """Leaving the target out of uniform noise (every other class once) makes sigmoid(s), not softmax(s), equal p_d:
    the loss is p_d log sigmoid(s) + (1 - p_d) log sigmoid(-s) for each class. For a small p_d the two agree."""
    table = train(NegativeSampling(), whole_vocabulary, COUNTS)
    torch.testing.assert_close(table.sigmoid(), conditional(COUNTS), rtol=0, atol=1e-4)


def test_decoupled_falls_without_end_where_one_answer_has_more_than_half() -> None:
    """Along the score of that answer, of share p, the loss falls by 2 p - 1 a step in the end: here 0.6 - 0.4."""
    counts = torch.tensor([[6, 2, 1, 1]])
    direction = torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    far, further = (Decoupled()(whole_vocabulary(t * direction, counts)) for t in (40.0, 41.0))
    assert float(far - further) == pytest.approx(0.2, abs=1e-6)


def bregman_softmax(truth: Tensor, model: Tensor) -> Tensor:
    """Divergence of the generator z log z, summed over y: (X,)."""
    return (truth * (truth / model).log() - truth + model).sum(1)


def bregman_sampling(truth: Tensor, model: Tensor) -> Tensor:
    """Divergence of the generator z log z - (1 + z) log(1 + z), summed over y: (X,)."""
    return (truth * (truth / model).log() - (1 + truth) * ((1 + truth) / (1 + model)).log()).sum(1)


DIVERGENCES = {
    "softmax": (SoftmaxCrossEntropy(), whole_vocabulary, bregman_softmax),
    "sampling": (
        NegativeSampling(),
        uniform_noise,
        bregman_sampling,
    ),  # k q = 1, so that exp(s) is the model's p(y | x)
}


def excess(name: str, table: Tensor) -> Tensor:
    """How far the objective's loss is above its least, that of the true table."""
    objective, layout, _ = DIVERGENCES[name]
    return objective(layout(table, COUNTS)) - objective(layout(conditional(COUNTS).log(), COUNTS))


@pytest.mark.parametrize("name", sorted(DIVERGENCES))
def test_the_loss_above_its_least_is_a_bregman_divergence(name: str) -> None:
    """From p_d to the model's distribution, weighted by p_d(x)."""
    table = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).log_softmax(1)
    expected = (DIVERGENCES[name][2](conditional(COUNTS), table.exp()) * COUNTS.sum(1) / COUNTS.sum()).sum()
    torch.testing.assert_close(excess(name, table), expected)


def test_softmax_penalises_more_where_the_model_is_far_off() -> None:
    """The convexity remark: the generators' second derivatives, 1 / z and 1 / (z (1 + z)), differ by 1 / (1 + z) > 0,
    so softmax is above negative sampling for each wrong model, and the more so the further off it is."""
    wrong = torch.tensor([[0.0, 0, 0, 0, 1], [0, 0, 0, 1, 0], [1, 0, 0, 0, 0]], dtype=torch.float64)  # rare answers
    tables = [(conditional(COUNTS).log() + step * wrong).log_softmax(1) for step in range(1, 12)]
    gaps = torch.stack([excess("softmax", table) - excess("sampling", table) for table in tables])
    assert gaps[0] > 0
    assert (gaps.diff() > 0).all()
