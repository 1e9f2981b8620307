"""Candidate sets against naive double loops, across simulated processes, and with wrong input."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

import naive
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from simcse.errors import ConfigError, DataError
from simcse.objectives.candidates import (
    CANDIDATES,
    AllViewsCandidates,
    BatchCandidates,
    InBatchCandidates,
    PastKeys,
    build_candidates,
)
from simcse.objectives.logits import ContrastiveLogits, keep_negatives
from simcse.objectives.softmax import SoftmaxCrossEntropy


def random_views(V: int = 3, B: int = 5, D: int = 8, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(V, B, D, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("name", sorted(CANDIDATES))
@settings(max_examples=8, deadline=None)
@given(
    views=st.integers(2, 4),
    rows=st.integers(2, 6),
    temperature=st.floats(0.05, 2.0),
    weight=st.floats(0.1, 8.0),
    seed=st.integers(0, 99),
)
def test_logits_equal_the_double_loop(
    name: str, views: int, rows: int, temperature: float, weight: float, seed: int
) -> None:
    vectors = random_views(views, rows, seed=seed)
    scores = CANDIDATES[name](temperature, weight)(vectors)
    rows = naive.rows(naive.Texts(list(vectors)), name, temperature, weight)
    expected = naive.mean([naive.softmax(row) for row in rows])
    torch.testing.assert_close(SoftmaxCrossEntropy()(scores), expected, rtol=1e-9, atol=0)


def test_shapes_and_targets() -> None:
    vectors = random_views(4, 5)
    assert {name: tuple(candidates()(vectors).logits.shape) for name, candidates in CANDIDATES.items()} == {
        "in_batch": (5, 15),
        "all_views": (10, 20),
        "symmetric": (10, 15),
    }
    assert InBatchCandidates()(vectors).target.tolist() == [0, 1, 2, 3, 4]
    assert AllViewsCandidates()(vectors).target.tolist() == [5, 6, 7, 8, 9, 0, 1, 2, 3, 4]
    assert AllViewsCandidates()(vectors).valid.logical_not().nonzero().tolist() == [[i, i] for i in range(10)]


def on_ranks(world: int, work: Callable[[int, Callable[[Tensor], Tensor]], Tensor]) -> list[Tensor]:
    """Run `work(rank, gather)` in threads whose gather meets at a barrier: one graph over all ranks."""
    barrier, desk, results, errors = threading.Barrier(world, timeout=30), [None] * world, [None] * world, []

    def run(rank: int) -> None:
        def gather(rows: Tensor) -> Tensor:
            desk[rank] = rows
            barrier.wait()
            everyone = torch.cat(desk)
            barrier.wait()
            return everyone

        try:
            results[rank] = work(rank, gather)
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
    return results


@pytest.mark.parametrize("name", sorted(CANDIDATES))
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_give_the_loss_and_gradient_of_one_process(name: str, world: int) -> None:
    """The mean over ranks of the local losses is the loss of the whole batch; so is its gradient, with no factor."""
    vectors = random_views(3, 8).requires_grad_()
    keys = torch.arange(24).reshape(3, 8)
    keys[0, 5] = keys[1, 2] = keys[2, 7]  # repeats across ranks
    log_frequency = torch.rand(3, 8, dtype=torch.float64).log()
    candidates = CANDIDATES[name](temperature=0.1, hard_negative_weight=3.0)
    whole = candidates(vectors, keys=keys, log_frequency=log_frequency)
    expected = SoftmaxCrossEntropy()(whole)
    (expected_gradient,) = torch.autograd.grad(expected, vectors)

    def local(rank: int, gather: Callable[[Tensor], Tensor]) -> ContrastiveLogits:
        mine = slice(rank * 8 // world, (rank + 1) * 8 // world)
        return candidates(
            vectors[:, mine],
            keys=keys[:, mine],
            log_frequency=log_frequency[:, mine],
            gather=gather,
            rank=rank,
        )

    parts = on_ranks(world, local)
    loss = torch.stack([SoftmaxCrossEntropy()(part) for part in parts]).mean()
    (gradient,) = torch.autograd.grad(loss, vectors)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-12)
    if name == "in_batch":
        torch.testing.assert_close(torch.cat([part.log_noise for part in parts]), whole.log_noise)
        torch.testing.assert_close(torch.cat([part.correction for part in parts]), whole.correction)
        assert torch.equal(torch.cat([part.valid for part in parts]), whole.valid)


def test_equal_texts_are_no_negatives() -> None:
    """Unsupervised rows 0 and 3 have one text: neither is a negative of the other, and no one else is touched."""
    keys = torch.tensor([7, 8, 9, 7]).expand(2, 4)
    valid = InBatchCandidates()(random_views(2, 4), keys=keys).valid
    assert valid.logical_not().nonzero().tolist() == [[0, 3], [3, 0]]
    valid = AllViewsCandidates()(random_views(2, 4), keys=keys).valid
    assert valid[0].tolist() == [False, True, True, False, True, True, True, False]


def test_equal_texts_in_triplets() -> None:
    """A candidate with the text of the anchor, or of its positive, is masked; its own target never is."""
    keys = torch.tensor([[1, 2, 3], [4, 1, 6], [5, 4, 9]])  # anchors, positives, hard negatives
    valid = InBatchCandidates()(random_views(3, 3), keys=keys).valid
    #         row 0: positive 1 is anchor 0's text, hard negative 1 is positive 0's; row 1: its positive is anchor 0's
    assert valid.tolist() == [
        [True, False, True, True, False, True],
        [True, True, True, True, True, True],
        [True, True, True, True, True, True],
    ]


def test_masked_candidates_get_no_gradient() -> None:
    """Rows 0, 2 and 3 have one text, so each of them meets row 1's positive alone, and row 1 meets all three."""
    vectors = random_views(2, 4).requires_grad_()
    scores = InBatchCandidates()(vectors, keys=torch.tensor([7, 8, 7, 7]).expand(2, 4))
    gradient = torch.autograd.grad(SoftmaxCrossEntropy()(scores), scores.logits)[0]
    assert (gradient != 0).tolist() == [
        [True, True, False, False],
        [True, True, True, True],
        [False, True, True, False],
        [False, True, False, True],
    ]


def test_hard_negative_weight_touches_the_own_hard_negative_only() -> None:
    vectors = random_views(4, 3)
    shift = InBatchCandidates(hard_negative_weight=2.0)(vectors).logits - InBatchCandidates()(vectors).logits
    assert shift.nonzero().tolist() == [[i, 3 * view + i] for i in range(3) for view in (1, 2)]
    torch.testing.assert_close(shift[shift != 0], torch.full((6,), math.log(2.0), dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scores_are_float32_under_autocast_too(dtype: torch.dtype) -> None:
    vectors = random_views(3, 4).to(dtype)
    expected = InBatchCandidates()(vectors.float()).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = InBatchCandidates()(vectors).logits
    assert logits.dtype == torch.float32
    assert torch.equal(logits, expected)


def test_dot_product() -> None:
    vectors = random_views(2, 4)
    scores = InBatchCandidates(2.0, similarity="dot")(vectors)
    torch.testing.assert_close(scores.logits, vectors[0] @ vectors[1].T / 2)
    assert scores.temperature is None
    assert InBatchCandidates()(vectors).temperature == 0.05


def test_log_noise_is_the_expected_count_and_correction_the_ratio() -> None:
    """Shares 1/2 and 1/4 of the candidates with 3 negatives a row: 3/2 and 3/4 expected; #x / #y = share over share."""
    log_frequency = torch.tensor([[0.5, 0.25, 0.125, 0.125], [0.25, 0.5, 0.125, 0.125]]).log()
    scores = InBatchCandidates()(random_views(2, 4, dtype=torch.float32), log_frequency=log_frequency)
    torch.testing.assert_close(scores.log_noise.exp()[0], torch.tensor([0.75, 1.5, 0.375, 0.375]))
    torch.testing.assert_close(scores.correction, torch.tensor([2.0, 0.5, 1.0, 1.0]))
    two = InBatchCandidates()(random_views(2, 2, dtype=torch.float32), log_frequency=log_frequency[:, :2])
    torch.testing.assert_close(two.log_noise.exp()[0], torch.tensor([0.25, 0.5]))  # one negative a row


def test_expected_counts_of_a_queue() -> None:
    """Two rows and three past texts make four negatives a row."""
    shares, past = torch.tensor([[0.5, 0.25], [0.125, 0.5]]), torch.tensor([0.25, 0.125, 1.0])
    queue = PastKeys(random_views(1, 3, seed=1, dtype=torch.float32)[0], None, past.log())
    views = random_views(2, 2, dtype=torch.float32)
    scores = InBatchCandidates()(views, log_frequency=shares.log(), past=queue)
    expected = 4 * torch.tensor([0.125, 0.5, 0.25, 0.125, 1.0])
    torch.testing.assert_close(scores.log_noise.exp(), expected.expand(2, 5))


def test_queue_adds_negatives_without_gradient() -> None:
    vectors, queue = random_views(3, 4).requires_grad_(), random_views(1, 6, seed=1)[0].requires_grad_()
    keys = torch.arange(12).reshape(3, 4)
    queue_keys = torch.tensor([100, 1, 102, 103, 104, 7])  # anchor 1's text, positive 3's text
    scores = InBatchCandidates()(vectors, keys=keys, past=PastKeys(queue, queue_keys))
    torch.testing.assert_close(scores.logits[:, :8], InBatchCandidates()(vectors, keys=keys).logits)
    torch.testing.assert_close(
        scores.logits[:, 8:], F.normalize(vectors[0], dim=1) @ F.normalize(queue, dim=1).T / 0.05
    )
    assert scores.valid.logical_not().nonzero().tolist() == [[1, 9], [3, 13]]
    SoftmaxCrossEntropy()(scores).backward()
    assert queue.grad is None
    empty = InBatchCandidates()(vectors, past=PastKeys(queue[:0]))
    assert empty.logits.shape == (4, 8)


def test_keep_negatives_draws_evenly() -> None:
    """7 of 15 negatives: each row keeps its target and 7 others; over many draws each has its share 7/15."""
    scores = InBatchCandidates()(random_views(2, 16))
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([keep_negatives(scores, 7, generator).valid for _ in range(400)])  # (400, 16, 16)
    assert (draws.sum(2) == 8).all()
    assert draws[:, torch.arange(16), torch.arange(16)].all()
    shares = draws.double().mean(0)[~torch.eye(16, dtype=torch.bool)]
    deviation = math.sqrt(7 / 15 * 8 / 15 / 400)
    assert float((shares - 7 / 15).abs().max()) < 4.5 * deviation
    assert torch.equal(keep_negatives(scores, 99).valid, scores.valid)
    assert (keep_negatives(scores, 1).valid.sum(1) == 2).all()
    again = [keep_negatives(scores, 7, torch.Generator().manual_seed(seed)).valid for seed in (3, 3, 4)]
    assert torch.equal(again[0], again[1])
    assert not torch.equal(again[0], again[2])
    with pytest.raises(ConfigError, match="count of negatives is 0, expected at least 1"):
        keep_negatives(scores, 0)


@pytest.mark.parametrize("shape", [(4,), (4, 4)])
def test_keep_negatives_thins_the_expected_counts_too(shape: tuple[int, ...]) -> None:
    """2 of 3 negatives, of 2 in row 0: what was expected once is expected 2/3 times; row 0 keeps all it has."""
    valid = torch.ones(4, 4, dtype=torch.bool)
    valid[0, 3] = False
    noise = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).log()
    scores = ContrastiveLogits(torch.zeros(4, 4, dtype=torch.float64), torch.arange(4), valid, noise)
    kept = keep_negatives(scores, 2)
    share = torch.tensor([1, 2 / 3, 2 / 3, 2 / 3], dtype=torch.float64)[:, None]
    torch.testing.assert_close(kept.log_noise.exp(), noise.expand(4, 4).exp() * share)
    assert kept.valid.sum(1).tolist() == [3, 3, 3, 3]


def test_keep_negatives_never_revives_a_masked_candidate() -> None:
    scores = InBatchCandidates()(random_views(2, 4), keys=torch.tensor([7, 8, 9, 7]).expand(2, 4))
    kept = keep_negatives(scores, 3)
    assert torch.equal(kept.valid, scores.valid)


@pytest.mark.parametrize("name", sorted(CANDIDATES))
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "^temperature is 0.0"),
        ({"temperature": -1.0}, "^temperature is -1.0"),
        ({"temperature": math.nan}, "^temperature is nan"),
        ({"hard_negative_weight": 0.0}, "^hard_negative_weight is 0.0"),
        ({"similarity": "euclid"}, "similarity is 'euclid'"),
        ({"tau": 0.1}, "unknown option 'tau'; it accepts hard_negative_weight, "),
    ],
)
def test_wrong_options_are_named(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_candidates(name, **options)
    with pytest.raises(ConfigError, match=r"^candidates is 'all', expected one of "):
        build_candidates("all")


@pytest.mark.parametrize("views", [2, 3, 4])
@pytest.mark.parametrize("name", sorted(CANDIDATES))
def test_most_negatives_are_those_of_different_texts(name: str, views: int) -> None:
    candidates = build_candidates(name)
    expected = candidates(random_views(views, 5)).negatives.sum(1)
    assert candidates.most_negatives(views, 5) == int(expected.max())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 1}, "rank is 1 and gather gave 4 rows, expected a multiple of 4 and a rank below 1$"),
        ({"keys": torch.zeros(2, 3, dtype=torch.int64)}, r"keys: found \(2, 3\), expected \(2, 4\) to fit"),
        ({"log_frequency": torch.zeros(4)}, r"log_frequency: found \(4,\)"),
    ],
)
@pytest.mark.parametrize("candidates", [kind() for kind in CANDIDATES.values()])
def test_wrong_tensors_are_named(candidates: BatchCandidates, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        candidates(random_views(2, 4), **options)


def test_wrong_views_and_queues_are_named() -> None:
    for views in (random_views()[0], random_views(1), torch.zeros(2, 3, 4, dtype=torch.int64)):
        with pytest.raises(ConfigError, match="views: found"):
            InBatchCandidates()(views)
    with pytest.raises(ConfigError, match="past: found"):
        InBatchCandidates()(random_views(2, 4), past=PastKeys(torch.zeros(3, 9)))
    with pytest.raises(ConfigError, match=r"^keys of the batch and of past"):
        InBatchCandidates()(random_views(2, 4), past=PastKeys(torch.zeros(3, 8), torch.zeros(3, dtype=torch.int64)))
    with pytest.raises(ConfigError, match=r"^frequency of the batch and of past"):
        InBatchCandidates()(random_views(2, 4), past=PastKeys(torch.zeros(3, 8), None, torch.zeros(3)))
    with pytest.raises(ConfigError, match="count of negatives is 0"):
        keep_negatives(InBatchCandidates()(random_views(2, 4)), 0)


def test_rows_without_a_negative_are_named() -> None:
    with pytest.raises(DataError, match="row 0 has no valid negative among its 1 candidates"):
        InBatchCandidates()(random_views(2, 1))
    with pytest.raises(DataError, match="row 0 has no valid negative among its 4 candidates"):
        InBatchCandidates()(random_views(2, 4), keys=torch.full((2, 4), 5))
    with pytest.raises(DataError, match="row 1 has its target, column 2, masked out"):
        ContrastiveLogits(torch.zeros(2, 3), torch.tensor([0, 2]), torch.tensor([[True] * 3, [True, True, False]]))
    with pytest.raises(DataError, match="row 1 has target 3, expected a column from 0 to 2"):
        ContrastiveLogits(torch.zeros(2, 3), torch.tensor([0, 3]))
    for target in (-1, 3):
        with pytest.raises(DataError, match=f"row 1 has target {target}, expected a column from 0 to 2"):
            ContrastiveLogits(torch.zeros(2, 3), torch.tensor([0, target]), torch.ones(2, 3, dtype=torch.bool))
    ContrastiveLogits(torch.zeros(2, 2), torch.tensor([0, 1]))  # one negative is enough


FIT = "to fit logits (2, 3)"


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("target", torch.zeros(3, dtype=torch.int64), f"(3,) torch.int64, expected (2,) torch.int64 {FIT}"),
        ("target", torch.zeros(2, dtype=torch.int32), f"(2,) torch.int32, expected (2,) torch.int64 {FIT}"),
        ("valid", torch.ones(2, 2, dtype=torch.bool), f"(2, 2) torch.bool, expected (2, 3) torch.bool {FIT}"),
        ("log_noise", torch.zeros(2), f"(2,) torch.float32, expected (3,) or (2, 3) torch.float32 {FIT}"),
        ("correction", torch.zeros(3), f"(3,) torch.float32, expected (2,) torch.float32 {FIT}"),
        (
            "logits", torch.zeros(2, 3, dtype=torch.bfloat16),
            "(2, 3) torch.bfloat16, expected (R, C) in float32 or float64: cast with .float()",
        ),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_named(field: str, value: Tensor, told: str) -> None:
    good = {"logits": torch.zeros(2, 3), "target": torch.zeros(2, dtype=torch.int64)}
    with pytest.raises(ConfigError) as caught:
        ContrastiveLogits(**(good | {field: value}))
    assert str(caught.value) == f"{field}: found {told}"
