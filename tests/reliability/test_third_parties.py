"""What we compute is what others do for the same vectors: losses and their gradients, and the scores of evaluations.

sentence-transformers and pytorch-metric-learning are compared with as they are; the original SimCSE and SentEval, which
are no packages, by their formulas.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import ir_measures
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import AP, RR, R, nDCG
from pytorch_metric_learning.losses import NTXentLoss
from scipy.stats import pearsonr, spearmanr
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses as theirs
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
from torch import Tensor

from simcse import SentenceEncoder
from simcse.data.collate import Batches
from simcse.data.pairs import ScoredPairs
from simcse.evaluation.pairs import evaluate_pairs
from simcse.evaluation.retrieval import Collection, evaluate_retrieval
from simcse.evaluation.sts import TASKS, score_sts
from simcse.objectives import AllViewsCandidates, InBatchCandidates, SoftmaxCrossEntropy
from simcse.objectives.scored import SCORED
from simcse.training.large_batch import cached_backward
from simcse.training.loss import ContrastiveLoss, MatryoshkaLoss
from simcse.training.model import ContrastiveModel


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


@pytest.fixture
def both(tiny_bert: Path, tmp_path: Path) -> tuple[SentenceEncoder, SentenceTransformer]:
    """An encoder whose vectors lie apart, and the same in sentence-transformers."""
    encoder = SentenceEncoder.from_pretrained(tiny_bert, pooling="mean", dropout=0.0, device="cpu", dtype="fp32")
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.mul_(10 if weight.ndim > 1 else 1)
    encoder.save_pretrained(tmp_path / "saved")
    return encoder, SentenceTransformer(str(tmp_path / "saved"), device="cpu")


@pytest.mark.parametrize(("views", "micro", "kept"), [(2, 1, ()), (2, 5, ()), (3, 4, ()), (3, 5, (8, 20, 32))])
def test_grad_cache_is_cached_multiple_negatives_ranking(
    both: tuple[SentenceEncoder, SentenceTransformer],
    sentences: list[str],
    views: int,
    micro: int,
    kept: tuple[int, ...],
) -> None:
    """The gradient of each weight, a few rows at a time, of the first dimensions alone, too: MatryoshkaLoss, which sums
    over them where we take the mean."""
    encoder, other = both
    names, rows = ("anchor", "positive", "hard_negative")[:views], 12
    columns = {name: sentences[rows * place : rows * (place + 1)] for place, name in enumerate(names)}
    model = ContrastiveModel(encoder, "none").train()
    batch = Batches(datasets.Dataset.from_dict(columns), encoder.tokenize(32), batch_size=rows, seed=0).batch_of(0)
    criterion: Any = ContrastiveLoss(InBatchCandidates(), SoftmaxCrossEntropy())
    criterion = MatryoshkaLoss(criterion, kept) if kept else criterion
    loss = cached_backward(Accelerator(cpu=True), model, batch, criterion, micro)

    other.train()
    reference: Any = theirs.CachedMultipleNegativesRankingLoss(other, mini_batch_size=micro, scale=20)
    if kept:
        reference = theirs.MatryoshkaLoss(other, reference, list(kept), matryoshka_weights=[1 / len(kept)] * len(kept))
    texts = [[columns[name][int(row)] for row in batch.rows] for name in names]
    expected = reference([other.preprocess(column) for column in texts], torch.empty(0))
    expected.backward()
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-5)
    wanted = {name.split("model.", 1)[1]: weight.grad for name, weight in other.named_parameters()}
    greatest = max(float(gradient.abs().max()) for gradient in wanted.values() if gradient is not None)
    assert greatest > 1e-2
    compared = 0
    for name, weight in encoder.backbone.named_parameters():
        torch.testing.assert_close(weight.grad, wanted[name], rtol=0, atol=1e-5 * greatest, msg=name)
        compared += 1
    assert compared == 37


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


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 9999), rows=st.integers(2, 9), temperature=st.floats(0.05, 2.0))
def test_softmax_on_all_views_is_nt_xent(seed: int, rows: int, temperature: float) -> None:
    """pytorch-metric-learning's, where the two views of a row are a class."""
    candidates, objective = AllViewsCandidates(temperature=temperature), SoftmaxCrossEntropy()
    reference, classes = NTXentLoss(temperature=temperature), torch.arange(rows).repeat(2)
    agree(
        lambda vectors: objective(candidates(vectors)),
        lambda vectors: reference(vectors.reshape(2 * rows, 6), classes),
        drawn(seed, 2, rows, 6),
    )


def unsupervised(vectors: Tensor, temperature: float) -> Tensor:
    """SimCSE, eq. 4: cross-entropy of sim(h_i, h'_j) / tau, i's own being right."""
    similarities = F.cosine_similarity(vectors[0].unsqueeze(1), vectors[1].unsqueeze(0), dim=-1)  # (B, B)
    return F.cross_entropy(similarities / temperature, torch.arange(len(similarities)))


def supervised(vectors: Tensor, temperature: float, alpha: float) -> Tensor:
    """SimCSE, eq. 5, and eq. 8 with the weight alpha of an anchor's own hard negative."""
    positives, negatives = (
        (F.cosine_similarity(vectors[0].unsqueeze(1), vectors[view].unsqueeze(0), dim=-1) / temperature).exp()
        for view in (1, 2)
    )  # (B, B) each
    weights = 1 + (alpha - 1) * torch.eye(len(positives), dtype=torch.float64)  # (B, B)
    denominator = (positives + weights * negatives).sum(1)  # (B,)
    return -(positives.diagonal() / denominator).log().mean()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 9999), rows=st.integers(2, 9), temperature=st.floats(0.03, 2.0), alpha=st.floats(0.1, 10.0))
def test_the_originals_formulas(seed: int, rows: int, temperature: float, alpha: float) -> None:
    objective = SoftmaxCrossEntropy()
    plain = InBatchCandidates(temperature=temperature)
    agree(lambda h: objective(plain(h)), lambda h: unsupervised(h, temperature), drawn(seed, 2, rows, 6))
    weighted = InBatchCandidates(temperature=temperature, hard_negative_weight=alpha)
    agree(lambda h: objective(weighted(h)), lambda h: supervised(h, temperature, alpha), drawn(seed, 3, rows, 6))


def exact_vectors(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 8) vectors of one or four ones, whose cosines are multiples of 1/4 without rounding, so that many are
    tied."""
    found = np.zeros((count, 8))
    for vector in found:
        vector[rng.choice(8, size=rng.choice([1, 4]), replace=False)] = 1
    return found


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 9999), levels=st.integers(2, 8))
def test_sts_is_sentevals(seed: int, levels: int) -> None:
    """Gold scores and cosines with ties, which share their mean rank on both sides. SentEval correlates the cosines of
    each sub-set and takes the mean, plain or by pairs; "all", the paper's, correlates those of all sub-sets at once."""
    rng, parts, vectors = np.random.default_rng(seed), [], {}
    for name in TASKS["STS12"].subsets:
        n = int(rng.integers(4, 12))
        gold = rng.integers(0, levels, n) * 5 / (levels - 1)
        gold[:2] = 0, 5
        texts = [[f"{name} {side} {row}" for row in range(n)] for side in "ab"]
        for column in texts:
            vectors |= dict(zip(column, exact_vectors(rng, n), strict=True))
        vectors[texts[0][0]], vectors[texts[1][0]] = np.eye(8)[:2]  # no sub-set has one cosine alone
        vectors[texts[0][1]] = vectors[texts[1][1]]
        parts.append(ScoredPairs(*texts, gold, name))

    def encode(texts: list[str]) -> np.ndarray:
        return np.stack([vectors[text] for text in texts])

    def cosine(u: np.ndarray, v: np.ndarray) -> float:
        return float(np.dot(u, v) / (np.linalg.norm(u) * np.linalg.norm(v)))

    cosines = [np.array([cosine(vectors[a], vectors[b]) for a, b in zip(p.a, p.b, strict=True)]) for p in parts]
    golds = [part.scores for part in parts]
    for column, correlation in (("spearman", spearmanr), ("pearson", pearsonr)):
        each = [correlation(*pair).statistic for pair in zip(cosines, golds, strict=True)]
        expected = {
            "all": correlation(np.concatenate(cosines), np.concatenate(golds)).statistic,
            "mean": np.mean(each),
            "wmean": np.average(each, weights=[len(part) for part in parts]),
        }
        for aggregation, wanted in expected.items():
            score = score_sts(encode, {"STS12": parts}, aggregation)["STS12"]  # type: ignore[arg-type]
            assert getattr(score, column) == pytest.approx(100 * wanted, abs=1e-6), aggregation
            assert [getattr(part, column) for part in score.subsets.values()] == pytest.approx(100 * np.array(each))


def test_scored_pairs_are_sentence_transformers(
    both: tuple[SentenceEncoder, SentenceTransformer], sentences: list[str]
) -> None:
    """By the vectors of one encoder, each by its own code; gold scores with ties. They give shares, we per cent."""
    encoder, other = both
    a, b, gold = sentences[:32], sentences[32:], [row % 6 / 5 for row in range(32)]
    expected = EmbeddingSimilarityEvaluator(a, b, gold, main_similarity="cosine")(other)
    found = evaluate_pairs(encoder.encode, ScoredPairs(a, b, np.array(gold), "pairs"))
    assert found.spearman == pytest.approx(100 * expected["spearman_cosine"], abs=1e-3)
    assert found.pearson == pytest.approx(100 * expected["pearson_cosine"], abs=1e-3)


MEASURES = {"ndcg@10": nDCG @ 10, "recall@1": R @ 1, "recall@10": R @ 10, "recall@100": R @ 100, "map": AP}


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 9999), documents=st.integers(2, 150), queries=st.integers(1, 5), grades=st.integers(1, 3))
def test_retrieval_is_ir_measures_where_documents_are_tied(
    seed: int, documents: int, queries: int, grades: int
) -> None:
    """Equal cosines keep the corpus's order here; trec_eval puts the greater id first. So the ids fall down the corpus:
    one order is the other. With other ids the figures of tied documents differ by definition."""
    rng = np.random.default_rng(seed)
    ids = [f"d{documents - row:03d}" for row in range(documents)]
    pool = rng.standard_normal((documents // 3 + 1, 48)).astype(np.float32)  # several documents have one vector
    place = dict(zip(ids, rng.integers(0, len(pool), documents), strict=True))
    asked = rng.standard_normal((queries, 48)).astype(np.float32)
    vectors = {d: pool[row] for d, row in place.items()} | {f"q{row}": vector for row, vector in enumerate(asked)}
    relevant = {}
    for query in range(queries):
        judged = rng.choice(ids, size=rng.integers(1, documents + 1), replace=False).tolist()
        relevant[f"q{query}"] = {d: int(rng.integers(0, grades + 1)) for d in judged} | {judged[0]: 1}
    found = evaluate_retrieval(
        lambda texts: np.stack([vectors[text] for text in texts]),
        Collection("tied", {d: d for d in ids}, {query: query for query in relevant}, relevant, "test"),
    )
    exact = [rows.astype(np.float64) / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (asked, pool)]
    cosines = (exact[0] @ exact[1].T).tolist()  # (queries, vectors)
    run = {query: {d: cosines[int(query[1:])][place[d]] for d in ids} for query in relevant}
    trec = ir_measures.pytrec_eval
    expected = trec.calc_aggregate(MEASURES.values(), relevant, run)
    # trec_eval's reciprocal rank knows no cut-off: give it the ten documents that count
    ten = {query: dict(sorted(row.items(), key=lambda at: at[::-1], reverse=True)[:10]) for query, row in run.items()}
    wanted = {name: expected[measure] for name, measure in MEASURES.items()}
    assert found == pytest.approx(wanted | {"mrr@10": trec.calc_aggregate([RR], relevant, ten)[RR]}, abs=1e-9)
