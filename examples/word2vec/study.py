"""Does noise by frequency make better word vectors than uniform noise? Seeds of each, and the difference seed by seed.

    python examples/word2vec/study.py --data ptb.train.txt --similarity EN-MEN-TR-3k.txt EN-SIMLEX-999.txt \\
        --analogies questions-words.txt --output study.jsonl

A run that is in the output file is not run again: stop and go on as you like.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from cbow import CBOWConfig, read_stream, train
from evaluate_vectors import Words, analogies, similarity

from simcse.console import Parser, run
from simcse.errors import DataError
from simcse.evaluation.statistics import mean_interval


def measure(words: Words, options: Any) -> dict[str, float]:
    """Name of the test -> Spearman x 100, or percent of the analogies."""
    found = {Path(path).stem: similarity(words, path)[0] for path in options.similarity}
    if options.analogies:
        right, known, _ = (sum(column) for column in zip(*analogies(words, options.analogies).values(), strict=True))
        found["analogies"] = 100 * right / known
    return found


def read_results(path: Path) -> list[dict[str, Any]]:
    """Raises DataError for a line that is no JSON."""
    results = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.is_file() else [], 1):
        try:
            results.append(json.loads(line))
        except json.JSONDecodeError:
            raise DataError(f"{path}:{number}: no JSON, expected a result of study.py; remove the line") from None
    return results


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: a row a power, mean and standard deviation, and how far it is from the first, with 95 % intervals."""
    powers = sorted({result["power"] for result in results})
    tests = list(results[0]["scores"])
    scores = {
        (power, test): [one["scores"][test] for one in results if one["power"] == power]
        for power in powers for test in tests
    }  # fmt: skip
    rows = [["power", *(cell for test in tests for cell in (test, f"against {powers[0]:g}"))]]
    for power in powers:
        row = [f"{power:g}"]
        for test in tests:
            found = mean_interval(scores[power, test])
            row.append(f"{found.mean:.2f} ± {found.std:.2f}")
            both = zip(scores[power, test], scores[powers[0], test], strict=True)
            gap = mean_interval([mine - theirs for mine, theirs in both])
            row.append("" if power == powers[0] else f"{gap.mean:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}]")
        rows.append(row)
    rows.insert(1, ["---:"] * len(rows[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main(argv: list[str]) -> None:
    parser = Parser(description="Noise by frequency against uniform noise.")
    parser.add_argument("--data", required=True, help="text file, a sentence a line")
    parser.add_argument("--similarity", nargs="+", default=[], help="files of word<TAB>word<TAB>rating")
    parser.add_argument("--analogies", help="file of questions `a b c d`")
    parser.add_argument("--powers", nargs="+", type=float, default=[0.0, 0.75, 1.0], help="of the frequency")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each")
    parser.add_argument("--epochs", type=int, default=10, help="passes over the text")
    parser.add_argument("--output", default="study.jsonl", help="file of JSON lines to add results to")
    options = parser.parse_args(argv)
    path = Path(options.output)
    done = {(result["power"], result["seed"], result["epochs"]): result for result in read_results(path)}
    words, stream = read_stream(options.data, 1)
    for seed in range(options.seeds):
        for power in options.powers:
            key = (power, seed, options.epochs)
            if key in done:
                continue
            config = CBOWConfig(options.data, power=power, seed=seed, epochs=options.epochs)
            vectors = train(config, len(words), stream).inside.weight.detach().numpy()
            result = {"power": power, "seed": seed, "epochs": options.epochs}
            done[key] = result | {"scores": measure(Words(words, vectors), options)}
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(done[key]) + "\n")
    print(table([done[power, seed, options.epochs] for seed in range(options.seeds) for power in options.powers]))


if __name__ == "__main__":
    sys.exit(run(main))
