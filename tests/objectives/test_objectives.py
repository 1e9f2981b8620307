"""Every objective against a naive double loop, its numeric gradient, extreme scores, and wrong input."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import naive
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import simcse.objectives as objectives
from simcse.errors import ConfigError
from simcse.objectives import (
    CANDIDATES,
    OBJECTIVES,
    BackwardCorrected,
    ContrastiveLogits,
    InBatchCandidates,
    LabelSmoothed,
    Margin,
    NegativeSampling,
    NoiseContrastive,
    SelfAdversarial,
    SoftmaxCrossEntropy,
    build_objective,
)

T = naive.TEMPERATURE


def random_scores(seed: int = 0, R: int = 5, C: int = 7, *, shared_noise: bool = False) -> ContrastiveLogits:
    """Cosines over a temperature, a third of the candidates masked, noise and correction at random."""
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.rand(R, C, generator=generator, dtype=torch.float64) * 2 - 1) / T
    target = torch.randint(C, (R,), generator=generator)
    valid = torch.rand(R, C, generator=generator) > 1 / 3
    valid[torch.arange(R), target] = valid[torch.arange(R), (target + 1) % C] = True
    noise = torch.randn((C,) if shared_noise else (R, C), generator=generator, dtype=torch.float64)
    correction = torch.rand(R, generator=generator, dtype=torch.float64) + 0.5
    return ContrastiveLogits(logits, target, valid, noise, correction, temperature=T)


def naive_loss(name: str, scores: ContrastiveLogits) -> torch.Tensor:
    """The mean of the formula over the rows, in float64."""
    noise = scores.log_noise.expand_as(scores.logits).tolist()
    rows = []
    for i, y in enumerate(scores.target.tolist()):
        others = [c for c in range(scores.logits.shape[1]) if c != y and scores.valid[i, c]]
        found = [scores.logits[i, c].double() for c in [y, *others]]
        counts = [noise[i][c] for c in [y, *others]]
        rows.append(naive.Row(found[0], found[1:], counts, float(scores.correction[i])))
    return naive.mean([naive.OBJECTIVES[name](row) for row in rows])


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 999), rows=st.integers(1, 6), columns=st.integers(2, 9), shared_noise=st.booleans())
def test_objective_equals_the_double_loop(name: str, seed: int, rows: int, columns: int, shared_noise: bool) -> None:
    """Loss and gradient."""
    scores = random_scores(seed, rows, columns, shared_noise=shared_noise)
    scores.logits.requires_grad_()
    found, expected = build_objective(name)(scores), naive_loss(name, scores)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    [gradient], [wanted] = torch.autograd.grad(found, scores.logits), torch.autograd.grad(expected, scores.logits)
    torch.testing.assert_close(gradient, wanted, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_all_valid_is_the_same_as_no_mask(name: str) -> None:
    scores = random_scores()
    whole = replace(scores, valid=torch.ones_like(scores.valid))
    objective = build_objective(name)
    torch.testing.assert_close(objective(replace(scores, valid=None)), objective(whole))


# self_adversarial's own weights have no gradient by definition: see test_adversarial_weights_have_no_gradient
@pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - {"self_adversarial"}))
@pytest.mark.parametrize("masked", [True, False])
def test_gradient_equals_the_numeric_one(name: str, masked: bool) -> None:
    scores = random_scores(seed=3)
    scores = scores if masked else replace(scores, valid=None)
    objective = build_objective(name)
    logits = scores.logits.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda logits: objective(replace(scores, logits=logits)), logits)


def test_adversarial_weights_have_no_gradient() -> None:
    """With a = 0 the weights are 1/n whatever the scores, so autograd and differences agree; with a = 1 the gradient of
    a negative is its weight times sigmoid(s), as if the weight were a constant."""
    scores = random_scores(seed=3)
    logits = scores.logits.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda logits: SelfAdversarial(adversarial_temperature=0.0)(replace(scores, logits=logits)), logits
    )
    loss = SelfAdversarial()(replace(scores, logits=logits)) * len(logits)
    (gradient,) = torch.autograd.grad(loss, logits)
    weights = scores.logits.masked_fill(~scores.negatives, -math.inf).softmax(1)
    expected = (weights * scores.logits.sigmoid()).scatter(1, scores.target[:, None], 0.0)
    torch.testing.assert_close(gradient.scatter(1, scores.target[:, None], 0.0), expected)


@pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - {"margin"}))  # its scores are cosines, never extreme
@pytest.mark.parametrize("size", [1.0, 1e2, 1e4])
def test_extreme_scores_stay_exact_in_float32(name: str, size: float) -> None:
    """All signs of extreme targets and negatives: within float32's rounding of the naive loop in float64, no NaN."""
    signs = torch.tensor([[1.0, 1.0, -1.0], [1.0, -1.0, -1.0], [-1.0, 1.0, 0.5], [-1.0, -1.0, -1.0], [0.0, 1.0, 0.0]])
    logits = (size * signs).requires_grad_()
    scores = ContrastiveLogits(
        logits, torch.zeros(5, dtype=torch.int64), torch.ones(5, 3, dtype=torch.bool), torch.zeros(3), torch.ones(5), T
    )
    loss = build_objective(name)(scores)
    expected = naive_loss(name, replace(scores, logits=logits.detach()))
    assert loss.item() == pytest.approx(float(expected), rel=1e-6, abs=1e-6)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.isfinite(gradient).all()


def test_margin_is_steady_at_the_ends() -> None:
    """Cosines of exactly 1 and -1, float32: finite loss and gradient, and the loss falls as the cosine grows."""
    cosines = torch.linspace(-1, 1, 201)[:, None]
    logits = (torch.cat([cosines, torch.zeros(201, 2)], 1) / 0.05).requires_grad_()
    losses = [Margin(margin=0.5)(ContrastiveLogits(row[None], torch.tensor([0]), temperature=0.05)) for row in logits]
    assert torch.stack(losses).diff().max() < 0
    (gradient,) = torch.autograd.grad(torch.stack(losses).sum(), logits)
    assert torch.isfinite(gradient).all()


def test_margin_zero_is_softmax() -> None:
    scores = random_scores()
    torch.testing.assert_close(Margin(margin=0.0)(scores), SoftmaxCrossEntropy()(scores))
    assert Margin(margin=0.2)(scores) > SoftmaxCrossEntropy()(scores)


def test_options_that_change_nothing_give_the_plain_objective() -> None:
    scores = random_scores()
    torch.testing.assert_close(LabelSmoothed(smoothing=0.0)(scores), SoftmaxCrossEntropy()(scores))
    even = replace(scores, correction=torch.ones_like(scores.correction))
    torch.testing.assert_close(BackwardCorrected()(even), SoftmaxCrossEntropy()(scores))
    no_noise = replace(scores, log_noise=torch.zeros_like(scores.log_noise))
    torch.testing.assert_close(NoiseContrastive()(no_noise), NegativeSampling()(scores))
    shifted = replace(scores, logits=scores.logits - 3)
    torch.testing.assert_close(NegativeSampling(bias=-3.0)(scores), NegativeSampling()(shifted))
    torch.testing.assert_close(SelfAdversarial(bias=-3.0)(scores), SelfAdversarial()(shifted))


def test_label_smoothing_never_meets_a_masked_logit() -> None:
    """Torch's own label smoothing is infinite on a masked logit; here masked candidates have no share."""
    scores = random_scores()
    torch_loss = torch.nn.functional.cross_entropy(scores.masked, scores.target, label_smoothing=0.1)
    assert torch.isinf(torch_loss)
    assert torch.isfinite(LabelSmoothed()(scores))


@pytest.mark.parametrize("candidates", sorted(CANDIDATES))
@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_every_objective_takes_every_candidate_set(candidates: str, name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    views = torch.randn(3, 6, 8, generator=generator).to(torch.bfloat16).requires_grad_()
    keys = torch.arange(18).reshape(3, 6)
    keys[0, 1] = keys[1, 2]
    log_frequency = torch.full((3, 6), 1 / 6).log()
    scores = CANDIDATES[candidates](hard_negative_weight=2.0)(views, keys=keys, log_frequency=log_frequency)
    loss = build_objective(name)(scores)
    loss.backward()
    assert loss.shape == ()
    assert torch.isfinite(loss)
    assert float(views.grad.abs().sum()) > 0


@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_what_an_objective_says_it_needs_is_what_it_refuses_to_do_without(
    name: str, similarity: str, counts: bool
) -> None:
    """Counts of the texts, cosines, or neither."""
    objective = build_objective(name)
    log_frequency = torch.zeros(2, 4) if counts else None
    scores = InBatchCandidates(similarity=similarity)(torch.randn(2, 4, 8), log_frequency=log_frequency)
    if objective.needs_counts and not counts:
        with pytest.raises(ConfigError, match=f"objective {name} needs the counts"):
            objective(scores)
    elif objective.needs_angles and similarity == "dot":
        with pytest.raises(ConfigError, match=f"objective {name} .*set similarity to 'cosine'"):
            objective(scores)
    else:
        assert torch.isfinite(objective(scores))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("label_smoothed", {"smoothing": 1.0}, "smoothing is 1.0"),
        ("label_smoothed", {"smoothing": -0.1}, "smoothing is -0.1"),
        ("label_smoothed", {"smoothing": math.nan}, "smoothing is nan"),
        ("margin", {"margin": 4.0}, "margin is 4.0 radians"),
        ("margin", {"margin": math.pi}, r"margin is 3\.14\d* radians"),
        (
            "self_adversarial", {"adversarial_temperature": -1.0},
            "^objective self_adversarial: adversarial_temperature is -1.0, expected a number of at least 0$",
        ),
        ("self_adversarial", {"adversarial_temperature": math.inf}, "adversarial_temperature is inf"),
        ("self_adversarial", {"bias": math.inf}, "^objective self_adversarial: bias is inf, expected a finite number"),
        ("negative_sampling", {"bias": math.inf}, "^objective negative_sampling: bias is inf"),
        ("noise_contrastive", {"bias": math.nan}, "^objective noise_contrastive: bias is nan"),
        ("softmax", {"smoothing": 0.1}, "unknown option 'smoothing'; it accepts no options"),
        ("margin", {"degree": 1}, "unknown option 'degree'; it accepts margin"),
        ("margin", {"margin": "10"}, "margin is '10', expected a number"),
        ("hinge", {}, "^objective is 'hinge', expected one of backward_corrected, "),
    ],
)  # fmt: skip
def test_wrong_options_are_named(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_objective(name, **options)


def test_objectives_are_frozen_and_compare_by_value() -> None:
    assert build_objective("margin", margin=0.2) == Margin(margin=0.2)
    with pytest.raises(FrozenInstanceError):
        Margin().margin = 0.3


def test_public_names_are_sorted_and_there() -> None:
    assert objectives.__all__ == sorted(objectives.__all__, key=lambda name: (not name.isupper(), name))
    assert all(hasattr(objectives, name) for name in objectives.__all__)
    assert list(OBJECTIVES) == sorted(OBJECTIVES)


def test_the_documentation_explains_every_name() -> None:
    text = (Path(__file__).parents[2] / "docs" / "objectives.md").read_text(encoding="utf-8")
    described = {line.split("`")[1] for line in text.splitlines() if line.startswith("| `")}
    assert set(OBJECTIVES) | set(CANDIDATES) <= described
    assert (Path(__file__).parents[2] / "docs" / "figures" / "objectives-convexity.svg").is_file()
