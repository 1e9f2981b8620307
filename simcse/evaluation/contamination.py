"""What of a test set stands in the training data: sentences, pairs, and the score without them.

A test sentence is `exact` if a training text is equal to it; `normalized` if it is without case, spaces and
punctuation, so that tokenised and raw text are one; `near` if the two share most of their words. The test sentences
alone are kept in memory, and the training texts are streamed past them.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simcse.data.pairs import ScoredPairs
from simcse.evaluation.pairs import PairEvaluator, correlate
from simcse.vectors import Encode

__all__ = ["NEAR", "Overlap", "clean_score", "normalized", "overlaps"]

NEAR = 0.8  # Jaccard similarity of the sets of words
WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Overlap:
    """How much of one test set stands in the training data."""

    n: int
    """Pairs of the test set."""
    pairs: int
    """Pairs both of whose sentences stand in one training row, in either order, normalised."""
    exact: int
    """Pairs with a sentence that is a training text to the letter."""
    normalized: int
    """Pairs with a sentence that is one but for case, spaces and punctuation."""
    near: int
    """Pairs with a sentence that is one, or shares at least `NEAR` of its words with one."""
    clean: NDArray[np.bool_]
    """(n,) pairs that are not near."""

    def to_dict(self) -> dict[str, int]:
        """The counts."""
        return {name: getattr(self, name) for name in ("n", "pairs", "exact", "normalized", "near")}


def normalized(text: str) -> str:
    """Letters and digits alone, without case: "Don't stop ." and "don 't stop." are one."""
    return "".join(WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def overlaps(rows: Iterable[Sequence[str]], tests: Mapping[str, Sequence[ScoredPairs]]) -> dict[str, Overlap]:
    """The overlap of each test set with training rows.

    Args:
        rows: of one or more training texts each; read once.
        tests: task -> its sets of scored pairs.
    """
    sentences = {text for sets in tests.values() for part in sets for text in (*part.a, *part.b)}
    known = {text: normalized(text) for text in sentences}
    wanted, near = set(known.values()) - {""}, _NearTexts(sentences)
    exact, normal, close = set[str](), set[str](), set[str]()
    pairs = set[frozenset[str]]()
    for row in rows:
        found = [normalized(text) for text in row]
        exact.update(text for text in row if text in sentences)
        here = {one for one in found if one in wanted}
        normal |= here
        pairs.update(frozenset(both) for both in combinations(here, 2))
        for text in row:
            close.update(near.of(text))
    return {
        task: _overlap(
            [pair for part in sets for pair in zip(part.a, part.b, strict=True)], known, pairs, exact, normal, close
        )
        for task, sets in tests.items()
    }


def _overlap(
    test: list[tuple[str, str]],
    known: Mapping[str, str],
    pairs: set[frozenset[str]],
    exact: set[str],
    normal: set[str],
    close: set[str],
) -> Overlap:
    same = [not exact.isdisjoint(pair) for pair in test]
    alike = [known[a] in normal or known[b] in normal for a, b in test]
    near = [one or not close.isdisjoint(pair) for one, pair in zip(alike, test, strict=True)]
    both = sum(frozenset((known[a], known[b])) in pairs for a, b in test)
    return Overlap(len(test), both, sum(same), sum(alike), sum(near), ~np.asarray(near))


class _NearTexts:
    """Test sentences by their rarest words, so that few have to be compared with a text.

    Two sets of words with a Jaccard similarity of at least t share a word among the first n - ceil(t n) + 1 of each, in
    any order that is the same for both (prefix filter, Chaudhuri et al. 2006); rarest first, most texts share none.
    """

    def __init__(self, sentences: Iterable[str]) -> None:
        words = {text: _words(text) for text in sentences}
        counts = Counter(word for own in words.values() for word in own)
        self._rank = {word: rank for rank, word in enumerate(sorted(counts, key=lambda word: (counts[word], word)))}
        self._by_word: dict[str, list[tuple[str, frozenset[str]]]] = {}
        for text, own in words.items():
            for word in self._prefix(own):
                self._by_word.setdefault(word, []).append((text, own))

    def _prefix(self, words: frozenset[str]) -> list[str]:
        """The rarest words; those of no test sentence are rarer than all."""
        count = len(words) - math.ceil(NEAR * len(words)) + 1
        ranked = sorted((self._rank[word], word) for word in words if word in self._rank)
        return [word for _, word in ranked[: max(0, count - (len(words) - len(ranked)))]]

    def of(self, text: str) -> Iterator[str]:
        """The test sentences that are near to a text."""
        words = _words(text)
        for word in self._prefix(words):
            for sentence, own in self._by_word.get(word, ()):
                shared = len(words & own)
                if shared >= NEAR * (len(words) + len(own) - shared):
                    yield sentence


def _words(text: str) -> frozenset[str]:
    return frozenset(WORD.findall(text.casefold()))


def clean_score(encode: Encode, sets: Sequence[ScoredPairs], clean: NDArray[np.bool_], name: str) -> dict[str, Any]:
    """Spearman x 100 on the pairs that are clean, and their number; no score for fewer than two or equal gold.

    Args:
        encode: the encoder.
        sets: of the task, all put together.
        clean: (n,) which of its pairs count.
        name: of the task, for errors.
    """
    evaluator = PairEvaluator(*sets)
    gold, count = evaluator.gold[clean], int(clean.sum())
    if count < 2 or np.ptp(gold) == 0:
        return {"n": count}
    cosines = np.concatenate(evaluator.cosines(encode))[clean]
    return {"n": count, "spearman": correlate(cosines, gold, name)[0]}
