"""The paper's ablations from MiniLM at [CLS], and studies of our own, a table and a figure each:

    python -m benchmarks.ablations --data_dir data              # the paper's, all: some 45 runs of 100 steps
    python -m benchmarks.ablations dropout --data_dir data --seeds 3
    python -m benchmarks.ablations objectives-unsup objectives-sup --data_dir data --seeds 5 --steps 40

A finished run is not run again, so that a stopped command goes on where it was.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from benchmarks.ablations.grid import GRIDS, Grid, read_grid, train_config
from simcse.console import Parser, run
from simcse.errors import ConfigError
from simcse.files import replaced_file
from simcse.training.config import TrainConfig


def build_parser() -> Parser:
    """The options, with their help."""
    parser = Parser(prog="python -m benchmarks.ablations", description="Redo the SimCSE paper's ablations, and more.")
    parser.add_argument("grids", nargs="*", type=str, default=[], help=f"of {', '.join(GRIDS)}; default the paper's")
    parser.add_argument("--data_dir", type=str | None, default=os.environ.get("SIMCSE_DATA"), help=(
        "folder with senteval, nli, wiki and ir; default: the environment's SIMCSE_DATA"))  # fmt: skip
    parser.add_argument("--train", type=str | None, help="sentences; default DATA_DIR/wiki/enwiki2015_sents_1m.txt.gz")
    parser.add_argument("--triplets", type=str | None, help="default DATA_DIR/nli/nli_triplets_derived_...csv")
    parser.add_argument("--dev", type=str | None, help="default DATA_DIR/senteval/STS/STSBenchmark/sts-dev.csv")
    parser.add_argument("--documents", type=str | None, help="running text; default DATA_DIR/ir/scifact/corpus.jsonl")
    parser.add_argument("--synonyms", type=str | None, help="a word and its synonyms a line, with tabs between")
    parser.add_argument("--model", type=str | None, help="instead of MiniLM: folder, hub id, or package:NAME")
    parser.add_argument("--steps", type=int, default=100, help="of each run")
    parser.add_argument("--batch_size", type=int, default=64, help="of each run")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each variant")
    parser.add_argument("--runs", type=str, default="runs/ablations", help="folder of the run folders")
    parser.add_argument("--output", type=str, default="benchmarks/ablations/results", help="folder of the tables")
    return parser


def main(argv: Sequence[str]) -> None:
    """Run the grids asked for, and write their tables.

    Raises:
        SimCSEError: in one line, what is wrong with an option or a file.
    """
    options = build_parser().parse_args(list(argv))
    for name in ("steps", "seeds", "batch_size"):
        if getattr(options, name) < 1:
            raise ConfigError(f"--{name} is {getattr(options, name)}: at least 1")
    grids = [read_grid(name) for name in options.grids or GRIDS]
    for grid in grids if options.grids else [grid for grid in grids if grid.source]:
        run_grid(grid, shared_options(grid, options), options)


def shared_options(grid: Grid, options: Any) -> dict[str, Any]:
    """What all variants of a grid share; files that only some need stand under `$NAME`.

    Raises:
        ConfigError: a file that the grid needs is neither named nor to be found under --data_dir.
    """
    places = {
        "train": "wiki/enwiki2015_sents_1m.txt.gz",
        "triplets": "nli/nli_triplets_derived_decontaminated.csv",
        "dev": "senteval/STS/STSBenchmark/sts-dev.csv",
        "documents": "ir/scifact/corpus.jsonl",
    }

    def file(name: str) -> str:
        if (own := getattr(options, name)) is not None:
            return str(own)
        if options.data_dir is None:
            raise ConfigError(f"--{name} is missing, and so is --data_dir (or SIMCSE_DATA), where it would lie")
        return str(Path(options.data_dir) / places[name])

    shared: dict[str, Any] = {
        "data.train": file("triplets" if grid.base.endswith("-sup") else "train"),
        "data.dev": file("dev"),
        "data.test": None,
        "max_steps": options.steps,
        "batch_size": options.batch_size,
        "eval_every": max(1, options.steps // 2),
        "save_every": options.steps,
        "$synonyms": options.synonyms,
    }
    if options.model:
        shared["model.name"] = options.model
    if any(value == "$next_sentences" for variant in grid.variants for value in variant.options.values()):
        from benchmarks.ablations.documents import write_sentence_files

        texts, pairs = write_sentence_files(Path(file("documents")), Path(options.runs) / grid.name)
        shared |= {"$sentences": str(texts), "$next_sentences": str(pairs)}
    return shared


def run_grid(grid: Grid, shared: dict[str, Any], options: Any) -> None:
    """Train each variant, then write its table, figure and numbers."""
    from benchmarks.ablations.table import Outcome, draw, to_markdown
    from simcse.evaluation.report import versions

    outcomes = []
    for variant in grid.variants:
        config = train_config(grid, variant, shared)
        if config is None:
            print(f"{grid.name}, {variant.name}: left out, as no option names its file (--help)", file=sys.stderr)
            continue
        folder = Path(options.runs) / grid.name / slug(variant.name)
        reports = [
            finished(
                replace(config, seed=seed, output_dir=str(folder / f"seed-{seed}")), f"{grid.name}, {variant.name}"
            )
            for seed in range(config.seed, config.seed + options.seeds)
        ]
        scores = [report["tasks"][report["dev"]]["spearman"] for report in reports]
        outcomes.append(Outcome(variant, scores, reports[0]["before"]["spearman"]))
    setup = (
        f"Here: {grid.base} with {options.steps} steps of {options.batch_size} rows, "
        f"{options.seeds} seed{'s' if options.seeds > 1 else ''}, best of every {max(1, options.steps // 2)} steps."
    )
    target = Path(options.output)
    draw(grid, outcomes, target / grid.name)
    numbers = [{"name": one.variant.name, "paper": one.variant.paper, "scores": one.scores} for one in outcomes]
    texts = {
        ".md": to_markdown(grid, outcomes, setup) + f"\n![{grid.title}]({grid.name}.svg)\n",
        ".json": json.dumps({"setup": setup, "variants": numbers, "versions": versions()}, indent=2) + "\n",
    }
    for suffix, text in texts.items():
        with replaced_file(target / f"{grid.name}{suffix}") as new:
            new.write_text(text, encoding="utf-8")
    print(texts[".md"])


def finished(config: TrainConfig, name: str) -> dict[str, Any]:
    """The report of a run: that of an earlier one with the same options, or of one made now."""
    from simcse.training.run import train

    done = Path(config.output_dir) / "report.json"
    if done.is_file():
        before = yaml.safe_load((done.parent / "config.yaml").read_text(encoding="utf-8"))
        before = {**TrainConfig().as_dict(), **before, "resume": "auto"}  # an option that is newer had its default
        if before != {**config.as_dict(), "resume": "auto"}:
            raise ConfigError(f"--runs: {done.parent} holds a run with other options; remove it or name another folder")
        return dict(json.loads(done.read_text(encoding="utf-8")))
    print(f"{name}, seed {config.seed}", file=sys.stderr)
    return train(replace(config, resume="auto"))


def slug(name: str) -> str:
    """A folder's name."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")


if __name__ == "__main__":
    sys.exit(run(main))
