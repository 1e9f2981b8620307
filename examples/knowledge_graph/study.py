"""All models by all objectives on one graph, as a table.

    python examples/knowledge_graph/study.py --data FB15k-237 --output fb15k-237.jsonl

A run that is in the output file already, with the same settings, is not run again: stop and go on as you like. Samples
cost a fraction of what all entities cost, so the sampled objectives get more epochs, for about the same time.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from dataclasses import asdict
from pathlib import Path

from graph import read_graph
from link_prediction import OBJECTIVES, KGConfig, add_line, evaluate, train
from models import MODELS

from simcse.console import Parser, run
from simcse.errors import DataError

log = logging.getLogger("knowledge_graph")

# Adagrad's first step moves every number by lr; distances want larger steps than products (see README). Translations
# and rotations are too stiff to overfit, so that dropout only harms them.
SETTINGS: dict[str, dict[str, float]] = {
    "TransE": {"dropout": 0.0, "lr": 1.0},
    "RotatE": {"dropout": 0.0, "lr": 1.0},
    "RESCAL": {"lr": 0.1},
    "TuckER": {"lr": 0.1},
    "ComplEx": {"lr": 0.3},
    "DistMult": {"lr": 0.3},
}


def read_results(path: Path) -> list[dict[str, object]]:
    """Raises DataError for a line that is no JSON."""
    results = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.is_file() else [], 1):
        try:
            results.append(json.loads(line))
        except json.JSONDecodeError:
            raise DataError(
                f"{path}:{number}: no JSON, expected a result of link_prediction.py; remove the line"
            ) from None
    return results


def table(results: list[dict[str, object]]) -> str:
    """Markdown: a row for each model and objective, best MRR of each model in bold."""
    lines = [
        "| model | objective | MRR | Hits@1 | Hits@3 | Hits@10 | size | epochs | minutes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for model in MODELS:
        rows = [result for result in results if result["model"] == model]
        rows.sort(key=lambda row: list(OBJECTIVES).index(str(row["objective"])))
        best = max((row["mrr"] for row in rows), default=None)
        for row in rows:
            mrr = f"**{row['mrr']:.3f}**" if row["mrr"] == best else f"{row['mrr']:.3f}"
            hits = " | ".join(f"{row[f'hits@{k}']:.3f}" for k in (1, 3, 10))
            cost = f"{row['size']} | {row['epochs']} | {float(str(row['seconds'])) / 60:.1f}"
            lines.append(f"| {model} | {row['objective']} | {mrr} | {hits} | {cost} |")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    parser = Parser(description="All models by all objectives on one graph.")
    parser.add_argument("--data", required=True, help="folder with train.txt, valid.txt and test.txt")
    parser.add_argument("--output", required=True, help="file of JSON lines to add results to")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS), help="which")
    parser.add_argument("--objectives", nargs="+", choices=list(OBJECTIVES), default=list(OBJECTIVES), help="which")
    parser.add_argument("--size", type=int, default=64, help="numbers an entity vector")
    parser.add_argument("--epochs", type=int, default=5, help="passes over the training triples against all entities")
    parser.add_argument("--sampled_epochs", type=int, default=20, help="passes against samples")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args(argv)
    path = Path(options.output)
    results = read_results(path)
    graph = read_graph(options.data)
    for model in options.models:
        for objective in options.objectives:
            epochs = options.epochs if objective.startswith("sce") else options.sampled_epochs
            shared = {"data": options.data, "size": options.size, "epochs": epochs, "device": options.device}
            config = KGConfig(model=model, objective=objective, **shared, **SETTINGS[model])
            settings = {name: value for name, value in asdict(config).items() if name not in ("device", "output")}
            if any(settings.items() <= result.items() for result in results):
                continue
            log.info("%s %s", model, objective)
            start = time.process_time()
            found = evaluate(train(config, graph), graph)
            results.append(add_line(path, config, found, time.process_time() - start))
    print(table(results))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(run(main))
