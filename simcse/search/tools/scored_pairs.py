"""Pairs of texts, near and far, with the similarity that larger encoders give them: data to train a small one."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from simcse.display.progress import paced
from simcse.errors import ConfigError, DataError
from simcse.files import replaced_file
from simcse.search.nearest.exact import exact_search
from simcse.vectors import Matrix

__all__ = ["check_draw", "digest_of", "scored_pairs", "write_scored_pairs"]

ANCHORS_AT_ONCE = 1024


def check_draw(weights: Sequence[float] | None, encoders: int, count: int, neighbors: int) -> list[float]:
    """Check arguments of `scored_pairs`, before any work; the share of each encoder in a score, which sum to 1.

    Args:
        weights: of the encoders' cosines, in any unit; None: equal ones.
        encoders: how many there are.
        count: of anchors.
        neighbors: the largest rank.

    Raises:
        ConfigError: a number out of range, or another number of weights.
    """
    given = [1.0] * encoders if weights is None else list(weights)
    if len(given) != encoders or not all(0 < weight < np.inf for weight in given):
        raise ConfigError(f"weights: found {given} for {encoders} encoders, expected a number above 0 for each")
    for name, value in (("count", count), ("neighbors", neighbors)):
        if value < 1:
            raise ConfigError(f"{name}: found {value}, expected at least 1")
    return [weight / sum(given) for weight in given]


def digest_of(texts: Sequence[str]) -> str:
    """What tells these texts from others."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()


def scored_pairs(
    vectors: Sequence[Matrix],
    weights: Sequence[float],
    count: int,
    *,
    neighbors: int = 300,
    seed: int = 42,
    advance: Callable[[int], None] = lambda n: None,
) -> Iterator[tuple[int, int, float]]:
    """Yield (i, j, similarity) for anchors i in random order, each paired with one of its nearest texts.

    The rank of j is drawn so that each power of two is as likely: half of the pairs are close, half are of one topic
    alone. Random pairs would nearly all be unrelated, and teach little (Thakur et al. 2021, Augmented SBERT). A pair
    comes once.

    Args:
        vectors: for each encoder (n, d_i) of unit length.
        weights: of their cosines, as from `check_draw`.
        count: anchors, at most n; as many pairs but for those that repeat.
        neighbors: the largest rank.
        seed: of the draw.
        advance: called with the number of anchors done.
    """
    joined = np.concatenate([np.sqrt(weight) * part for weight, part in zip(weights, vectors, strict=True)], axis=1)
    joined = joined.astype(np.float32, copy=False)  # (n, sum of d_i): a dot product is the weighted mean of the cosines
    rng, seen = np.random.default_rng(seed), set()
    most = min(neighbors, len(joined) - 1)
    for anchors in paced(rng.permutation(len(joined))[:count].tolist(), ANCHORS_AT_ONCE):
        scores, found = exact_search(joined[anchors], joined, most + 1)  # (m, most + 1), the anchor itself among them
        ranks = np.exp(rng.uniform(0, np.log(most + 1), len(anchors))).astype(np.int64)  # (m,) from 1 to most
        for anchor, rank, near, score in zip(anchors, ranks.tolist(), found, scores, strict=True):
            others = near != anchor
            other = int(near[others][rank - 1])
            pair = (min(anchor, other), max(anchor, other))
            if pair not in seen:
                seen.add(pair)
                yield anchor, other, float(np.clip(score[others][rank - 1], -1, 1))
        advance(len(anchors))


def write_scored_pairs(output: str, texts: Sequence[str], pairs: Iterator[tuple[int, int, float]]) -> int:
    """Write pairs as a csv file with header sentence1,sentence2,score; it is there whole or not at all.

    Args:
        output: the file.
        texts: what the numbers of the pairs mean.
        pairs: as from `scored_pairs`.

    Returns:
        How many there are.

    Raises:
        DataError: none.
    """
    with replaced_file(output) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        table, written = csv.writer(file), 0
        table.writerow(("sentence1", "sentence2", "score"))
        for written, (i, j, score) in enumerate(pairs, 1):  # noqa: B007 -- how many there were
            table.writerow((texts[i], texts[j], f"{score:.5f}"))
        if not written:
            raise DataError(f"{output}: no pair was found")
    return written
