"""What an encoder tells sentences apart by: how its cosines go with length, words and first words of the pairs.

    python -m benchmarks.ablations.surface runs/mlm/best:cls runs/small-bert-unsup/best --dev data/.../sts-dev.csv

Spearman over the pairs of STS-B's development set. Beside the scores that people gave, for which it is the same for all
encoders, it shows what training has put in the place of meaning.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
from scipy.stats import spearmanr

from simcse.console import Parser, run
from simcse.data.pairs import ScoredPairs, read_scored_pairs
from simcse.encoder.model import SentenceEncoder

NAMES = ("people's scores", "length", "words in common", "first word")


def surface(pairs: ScoredPairs) -> dict[str, np.ndarray]:
    """Name -> (n,) how alike the two texts of each pair are, by what anybody sees."""
    words = [(a.split(), b.split()) for a, b in zip(pairs.a, pairs.b, strict=True)]
    return {
        "length": np.array([-abs(len(a) - len(b)) for a, b in words]),
        "words in common": np.array([len({*a} & {*b}) / len({*a} | {*b}) for a, b in words]),
        "first word": np.array([a[:1] == b[:1] for a, b in words]).astype(float),
    }


def main(argv: Sequence[str]) -> None:
    """Print a table, a row an encoder."""
    parser = Parser(prog="python -m benchmarks.ablations.surface", description="What encoders go by.")
    parser.add_argument("models", nargs="+", help="folder or hub id, and after a colon the pooling, if another")
    parser.add_argument("--dev", required=True, help="scored pairs")
    options = parser.parse_args(list(argv))
    pairs = read_scored_pairs(options.dev)
    seen = {NAMES[0]: np.array(pairs.scores), **surface(pairs)}
    print(f"| | {' | '.join(NAMES)} |\n| --- |{' ---: |' * len(NAMES)}")
    rows = [("people", seen[NAMES[0]])]
    for name in options.models:
        folder, _, pooling = name.partition(":")
        encode = SentenceEncoder.from_pretrained(folder, pooling=pooling or None).encode
        rows.append((name, (encode(pairs.a) * encode(pairs.b)).sum(1)))
    for name, values in rows:
        cells = [
            "" if np.ptp(seen[one]) == 0 else f"{100 * spearmanr(values, seen[one]).statistic:.1f}" for one in NAMES
        ]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    sys.exit(run(main))
