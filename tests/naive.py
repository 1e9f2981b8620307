"""The losses as their formulas, a row and a candidate at a time in float64: what each way to compute them equals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TEMPERATURE = 0.1  # of the cosines that `margin` is given


@dataclass(frozen=True)
class Row:
    """An anchor's scores, float64 scalars: the valid candidates, the target's first."""

    positive: Tensor
    negatives: Sequence[Tensor]
    noise: Sequence[float] = ()  # log expected counts, the target's first
    correction: float = 1.0

    @property
    def all(self) -> list[Tensor]:
        return [self.positive, *self.negatives]


def total(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).sum()


def mean(values: Sequence[Tensor]) -> Tensor:
    return total(values) / len(values)


def log_sum_exp(values: Sequence[Tensor]) -> Tensor:
    top = max(float(value.detach()) for value in values)
    return top + total([(value - top).exp() for value in values]).log()


def log_sigmoid(x: Tensor) -> Tensor:
    return -torch.log1p(torch.exp(-x)) if float(x.detach()) > 0 else x - torch.log1p(torch.exp(x))


def logistic(scores: Sequence[Tensor], weights: Sequence[Tensor] | None = None) -> Tensor:
    positive, *negatives = scores
    shares = weights or [torch.ones_like(positive)] * len(negatives)
    return -log_sigmoid(positive) - total([w * log_sigmoid(-s) for w, s in zip(shares, negatives, strict=True)])


def without_noise(row: Row) -> list[Tensor]:
    return [score - noise for score, noise in zip(row.all, row.noise, strict=True)]


def softmax(row: Row) -> Tensor:
    return log_sum_exp(row.all) - row.positive


def label_smoothed(row: Row) -> Tensor:
    share, whole = 0.1 / len(row.all), log_sum_exp(row.all)
    return total([(0.9 * (i == 0) + share) * (whole - s) for i, s in enumerate(row.all)])


def margin(row: Row) -> Tensor:
    angle = torch.acos(row.positive * TEMPERATURE)
    turned = torch.cos(angle + math.pi / 18)
    if float(angle.detach()) + math.pi / 18 > math.pi:
        turned = torch.cos(angle) - math.pi / 18 * math.sin(math.pi / 18)
    return log_sum_exp([turned / TEMPERATURE, *row.negatives]) - turned / TEMPERATURE


def self_adversarial(row: Row) -> Tensor:
    whole = log_sum_exp(row.negatives)
    weights = [(s - whole).exp().detach() for s in row.negatives]
    return logistic(row.all, weights)


OBJECTIVES: dict[str, Callable[[Row], Tensor]] = {
    "backward_corrected": lambda row: row.correction * softmax(row),
    "decoupled": lambda row: log_sum_exp(row.negatives) - row.positive,
    "label_smoothed": label_smoothed,
    "margin": margin,
    "negative_sampling": lambda row: logistic(row.all),
    "noise_contrastive": lambda row: logistic(without_noise(row)),
    "sampled_softmax": lambda row: log_sum_exp(without_noise(row)) - without_noise(row)[0],
    "self_adversarial": self_adversarial,
    "softmax": softmax,
}

DIRECTIONS: dict[str, tuple[list[tuple[int, int]], bool]] = {  # (anchors, positives), whether anchors compete
    "in_batch": ([(0, 1)], False),
    "all_views": ([(0, 1), (1, 0)], True),
    "symmetric": ([(0, 1), (1, 0)], False),
}


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return torch.dot(a, b) / (torch.dot(a, a) * torch.dot(b, b)).sqrt()


@dataclass(frozen=True)
class Texts:
    """The texts of a global batch of B rows.

    Attributes:
        views: V lists of B vectors.
        past: vectors of earlier batches, which count as view V.
        keys: of the texts, V lists of B, then one of the past; None: no two texts are equal.
        log_frequency: log shares, alike; None: 0.
    """

    views: Sequence[Sequence[Tensor]]
    past: Sequence[Tensor] = ()
    keys: Sequence[Sequence[int]] | None = None
    log_frequency: Sequence[Sequence[float]] | None = None

    def choices(self, candidates: str) -> Iterator[tuple[tuple[int, int], tuple[int, int], list[tuple[int, int]]]]:
        """For each row (view, number) of its anchor, of its positive, and of its negatives."""
        directions, anchors_compete = DIRECTIONS[candidates]
        everything = [*self.views, *([self.past] if len(self.past) else [])]
        for anchor, positive in directions:
            for i in range(len(self.views[0])):
                negatives = []
                for view, texts in enumerate(everything):
                    for j in range(len(texts)):
                        own = j == i and view in (anchor, positive)
                        if own or (view == anchor and not anchors_compete) or self.same(view, j, i, anchor, positive):
                            continue
                        negatives.append((view, j))
                yield (anchor, i), (positive, i), negatives

    def same(self, view: int, j: int, i: int, *own: int) -> bool:
        return self.keys is not None and self.keys[view][j] in [self.keys[mine][i] for mine in own]

    def vector(self, place: tuple[int, int]) -> Tensor:
        view, number = place
        return self.views[view][number] if view < len(self.views) else self.past[number]

    def frequency(self, place: tuple[int, int]) -> float:
        return 0.0 if self.log_frequency is None else self.log_frequency[place[0]][place[1]]


def rows(
    texts: Texts,
    candidates: str,
    temperature: float,
    weight: float = 1.0,
    similarity: str = "cosine",
    teacher: Sequence[Sequence[Tensor]] | None = None,
    mask_margin: float | None = None,
) -> list[Row]:
    """The scores of each row.

    Args:
        texts: the batch.
        candidates: in_batch, all_views or symmetric.
        temperature: divides the similarities.
        weight: alpha, of a row's own hard negatives.
        similarity: cosine or dot.
        teacher: V lists of B vectors, for mask_margin.
        mask_margin: negatives that the teacher finds closer than the positive less this are left out, but the farthest.
    """
    compare = cosine if similarity == "cosine" else torch.dot
    found = []
    for anchor, positive, negatives in texts.choices(candidates):
        if mask_margin is not None:
            negatives = guided(texts, teacher, anchor, positive, negatives, mask_margin)
        scores = []
        for place in negatives:
            score = compare(texts.vector(anchor), texts.vector(place)) / temperature
            own_hard = 2 <= place[0] < len(texts.views) and place[1] == anchor[1]
            scores.append(score + math.log(weight) if own_hard else score)
        noise = [math.log(len(negatives)) + texts.frequency(place) for place in [positive, *negatives]]
        ratio = math.exp(texts.frequency(anchor) - texts.frequency(positive))
        found.append(Row(compare(texts.vector(anchor), texts.vector(positive)) / temperature, scores, noise, ratio))
    return found


def guided(
    texts: Texts,
    teacher: Sequence[Sequence[Tensor]],
    anchor: tuple[int, int],
    positive: tuple[int, int],
    negatives: list[tuple[int, int]],
    mask_margin: float,
) -> list[tuple[int, int]]:
    """The negatives without those that the teacher finds close."""

    def close(place: tuple[int, int]) -> float:
        return float(cosine(teacher[anchor[0]][anchor[1]], teacher[place[0]][place[1]]))

    known = [place for place in negatives if place[0] < len(texts.views)]
    least = min(map(close, known), default=0.0)
    return [
        place
        for place in negatives
        if place not in known or close(place) <= close(positive) - mask_margin or close(place) == least
    ]


def distilled(
    kind: str,
    texts: Texts,
    teacher: Sequence[Sequence[Tensor]],
    candidates: str,
    temperatures: tuple[float, float],
    similarity: str = "cosine",
) -> Tensor:
    """The loss against a teacher's vectors.

    Args:
        kind: kl, margin_mse, l2 or cosine.
        texts: vectors of the student; for l2 and cosine in the teacher's space.
        teacher: V lists of B vectors.
        candidates: in_batch, all_views or symmetric.
        temperatures: the student's and the teacher's, for kl.
        similarity: the student's, cosine or dot, for kl.
    """
    compare = torch.dot if (kind, similarity) == ("kl", "dot") else cosine
    pairs = [
        (a, b) for ours, theirs in zip(texts.views, teacher, strict=True) for a, b in zip(ours, theirs, strict=True)
    ]
    if kind == "l2":
        return mean([torch.dot(a - b, a - b) for a, b in pairs])
    if kind == "cosine":
        return mean([1 - cosine(a, b) for a, b in pairs])
    losses = []
    for anchor, positive, negatives in (texts if kind == "kl" else Texts(texts.views)).choices(candidates):
        asked = [positive, *negatives]
        ours = [compare(texts.vector(anchor), texts.vector(place)) for place in asked]
        theirs = [cosine(teacher[anchor[0]][anchor[1]], teacher[view][j]) for view, j in asked]
        if kind == "margin_mse":
            gaps = [(ours[0] - s) - (theirs[0] - t) for s, t in zip(ours[1:], theirs[1:], strict=True)]
            losses.append(mean([gap * gap for gap in gaps]))
            continue
        echo = texts.keys is not None and texts.keys[anchor[0]][anchor[1]] == texts.keys[positive[0]][positive[1]]
        student, taught = [s / temperatures[0] for s in ours[echo:]], [t / temperatures[1] for t in theirs[echo:]]
        log_q = [s - log_sum_exp(student) for s in student]
        log_p = [t - log_sum_exp(taught) for t in taught]
        losses.append(total([p.exp() * (p - q) for p, q in zip(log_p, log_q, strict=True)]))
    return mean(losses)


def angle_of(a: Tensor, b: Tensor) -> Tensor:
    """Of two vectors as complex numbers, the first half real: |the sum of a's quotient by b, both parts|."""
    half = len(a) // 2
    size = (torch.dot(a, a) * torch.dot(b, b)).sqrt()
    parts = []
    for x, y, u, v in zip(a[:half], a[half:], b[:half], b[half:], strict=True):  # (x + iy)(u - iv)
        parts += [x * u + y * v, y * u - x * v]
    return (total(parts) / size).abs()


def scored(kind: str, pairs: Sequence[tuple[Tensor, Tensor]], scores: Sequence[float], temperature: float) -> Tensor:
    """The loss of pairs with a gold score: cosent, angle or cosine_mse."""
    if kind == "cosine_mse":
        return mean([(cosine(a, b) - score) ** 2 for (a, b), score in zip(pairs, scores, strict=True)])
    found = [(cosine if kind == "cosent" else angle_of)(a, b) / temperature for a, b in pairs]
    wrong = [
        found[j] - found[i]
        for i, high in enumerate(scores)
        for j, low in enumerate(scores)
        if high > low
    ]  # fmt: skip
    return log_sum_exp([torch.zeros((), dtype=torch.float64), *wrong])
