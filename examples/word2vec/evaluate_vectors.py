"""What word vectors know: nearest words, analogies, and Spearman with people's ratings of word pairs.

    python examples/word2vec/evaluate_vectors.py --vectors vectors.npz --nearest you year car toyota \\
        --similarity EN-SIMLEX-999.txt EN-MEN-TR-3k.txt EN-RG-65.txt --analogies questions-words.txt
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from simcse.console import Parser, run
from simcse.data.pairs import ScoredPairs, read_scored_pairs
from simcse.errors import DataError
from simcse.evaluation.pairs import PairEvaluator


class Words:
    """Unit vectors, by word."""

    def __init__(self, words: list[str], vectors: np.ndarray) -> None:
        self.words = words
        self.ids = {word: i for i, word in enumerate(words)}
        self.vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)  # (V, D)

    def encode(self, words: list[str]) -> np.ndarray:
        """(n, D) of n known words."""
        return self.vectors[[self.ids[word] for word in words]]

    def nearest(self, query: np.ndarray, count: int, without: set[str]) -> list[tuple[str, float]]:
        """The words of highest cosine with a query (D,), best first."""
        cosines = self.vectors @ (query / np.linalg.norm(query))  # (V,)
        best = np.argsort(-cosines)[: count + len(without)]
        return [(self.words[i], float(cosines[i])) for i in best if self.words[i] not in without][:count]


def load(path: str) -> Words:
    """Raises DataError where there is no such file."""
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file; --vectors needs what cbow.py wrote")
    with np.load(path) as file:
        return Words(file["words"].tolist(), file["vectors"])


def read_lines(path: str) -> list[str]:
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file")
    return Path(path).read_text(encoding="utf-8").splitlines()


def similarity(words: Words, path: str) -> tuple[float, int, int]:
    """Spearman x 100 over the pairs that are known, their number, and the number of all pairs.

    Raises:
        DataError: a line that is not `word<TAB>word<TAB>number`.
    """
    rated = read_scored_pairs(path)
    rows = [(a.lower(), b.lower(), score) for a, b, score in zip(rated.a, rated.b, rated.scores, strict=True)]
    known = [row for row in rows if row[0] in words.ids and row[1] in words.ids]
    if len(known) < 3:
        return float("nan"), len(known), len(rows)
    a, b, scores = zip(*known, strict=True)
    evaluator = PairEvaluator(ScoredPairs(list(a), list(b), np.array(scores), path))
    return evaluator(words.encode)[evaluator.primary_metric], evaluator.n, len(rows)


def analogies(words: Words, path: str) -> dict[str, tuple[int, int, int]]:
    """By category: right answers (3CosAdd, the three words of the question left out), questions known, questions."""
    counts: dict[str, tuple[int, int, int]] = {}
    category = ""
    for line in read_lines(path):
        if line.startswith(":"):
            category = line[1:].strip()
            continue
        question = line.lower().split()
        right, known, total = counts.get(category, (0, 0, 0))
        if all(word in words.ids for word in question):
            a, b, c = (words.vectors[words.ids[word]] for word in question[:3])
            right += words.nearest(b - a + c, 1, set(question[:3]))[0][0] == question[3]
            known += 1
        counts[category] = (right, known, total + 1)
    return counts


def main(argv: list[str]) -> None:
    parser = Parser(description="Evaluate word vectors.")
    parser.add_argument("--vectors", default="vectors.npz", help="what cbow.py wrote")
    parser.add_argument("--similarity", nargs="+", default=[], help="files of word<TAB>word<TAB>rating")
    parser.add_argument(
        "--analogies", help="file of questions `a b c d`, a to b as c to d, under headings `: category`"
    )
    parser.add_argument("--nearest", nargs="+", default=[], help="words to list the neighbours of")
    config = parser.parse_args(argv)
    words = load(config.vectors)
    for word in config.nearest:
        if word not in words.ids:
            raise DataError(f"--nearest: {word!r} is not among the {len(words.words)} words of {config.vectors}")
        found = words.nearest(words.vectors[words.ids[word]], 5, {word})
        print(f"{word}: {', '.join(f'{other} {cosine:.2f}' for other, cosine in found)}")
    for path in config.similarity:
        value, known, total = similarity(words, path)
        print(f"{Path(path).name}: Spearman {value:.1f} over {known} of {total} pairs")
    if config.analogies:
        counts = analogies(words, config.analogies)
        for category, (right, known, total) in counts.items():
            print(f"{category}: {right} of {known} right ({total} questions)")
        right, known, total = (sum(column) for column in zip(*counts.values(), strict=True))
        print(f"all: {right} of {known} right ({total} questions)")


if __name__ == "__main__":
    import sys

    sys.exit(run(main))
