"""The paper's comparison on one model: as it is, whitened, through a flow, trained by Contrastive Tension and SimCSE.

    python -m benchmarks.report --data_dir data          # writes docs/report.md and docs/figures/report-*.svg

Runs, whitening and flow are kept under --runs and not made again.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from benchmarks.ablations.__main__ import finished
from benchmarks.ablations.grid import STARTS, Grid, Variant, train_config
from simcse.console import Parser, run
from simcse.errors import ConfigError
from simcse.training.config import TrainConfig
from simcse.vectors import Encode

PLACES = {
    "train": "wiki/enwiki2015_sents_1m.txt.gz",
    "triplets": "nli/nli_triplets_derived_decontaminated.csv",
    "dev": "senteval/STS/STSBenchmark/sts-dev.csv",
}


def build_parser() -> Parser:
    """The options, with their help."""
    parser = Parser(prog="python -m benchmarks.report", description="Write docs/report.md and its figures.")
    parser.add_argument("--data_dir", type=str | None, default=os.environ.get("SIMCSE_DATA"), help=(
        "folder with senteval, nli and wiki; default: the environment's SIMCSE_DATA"))  # fmt: skip
    parser.add_argument("--start", type=Literal[tuple(STARTS)], default="small-bert", help="recipes of configs/")
    parser.add_argument("--model", type=str | None, help="instead of the start's: folder, hub id, or package:NAME")
    parser.add_argument("--steps", type=int, default=100, help="of each run")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each kind")
    parser.add_argument("--texts", type=int, default=20_000, help="sentences that whitening and flow are fitted on")
    parser.add_argument("--runs", type=str, default="runs/report", help="folder of runs and fitted maps")
    parser.add_argument("--output", type=str, default="docs", help="folder of report.md and figures/")
    return parser


def main(argv: Sequence[str]) -> None:
    """Train, fit, measure, draw, write.

    Raises:
        SimCSEError: in one line, what is wrong with an option or a file.
    """
    options = build_parser().parse_args(list(argv))
    if options.data_dir is None:
        raise ConfigError("--data_dir (or SIMCSE_DATA) is needed: the folder with senteval, nli and wiki")
    for name in ("steps", "texts", "seeds"):
        if getattr(options, name) < 1:
            raise ConfigError(f"--{name} is {getattr(options, name)}: at least 1")
    from benchmarks.report.page import Contents, write_page

    models = build_models(options)
    print("measuring", file=sys.stderr)
    contents = Contents.measure(
        {model.name: model.encoders for model in models},
        Path(options.data_dir),
        {model.name: model.run for model in models if model.run is not None},
        {model.name: model.what for model in models},
    )
    for path in write_page(contents, Path(options.output)):
        print(f"wrote {path}", file=sys.stderr)


@dataclass(frozen=True)
class Model:
    """A row of the report."""

    name: str
    what: str
    """In a few words."""
    encoders: Sequence[Encode]
    """One a seed."""
    run: Path | None = None
    """The run folder of the first seed, if it was trained."""


def build_models(options: Any) -> list[Model]:
    """All rows, trained and fitted where they are not there yet."""
    return [*untrained(options), *(trained(kind, options) for kind in ("ct", "unsup", "sup"))]


def untrained(options: Any) -> Iterator[Model]:
    """The start by each pooling; and by first and last layer, as their papers have it, whitened and through a flow."""
    from simcse.data.readers import read_texts
    from simcse.encoder.model import SentenceEncoder
    from simcse.evaluation.postprocess import SETTINGS, Fitted, fit

    start, texts_file = run_config("unsup", 0, options).model.name, Path(options.data_dir) / PLACES["train"]
    poolings = {"cls": "[CLS]", "mean": "mean", "first_last_mean": "first and last layer"}
    encoders = {pooling: SentenceEncoder.from_pretrained(start, pooling=pooling) for pooling in poolings}
    for pooling, name in poolings.items():
        yield Model(name, "as it is", [encoders[pooling].encode])
    first_last = encoders["first_last_mean"]
    plain = partial(first_last.encode, normalize=False)
    for kind in ("whitening", "flow"):
        folder = Path(options.runs) / options.start / kind
        if not (folder / SETTINGS).is_file():
            texts = list(itertools.islice(read_texts(texts_file), options.texts))
            print(f"fitting {kind} on {len(texts)} sentences", file=sys.stderr)
            metadata = {
                "encoder": start,
                "fingerprint": first_last.fingerprint,
                "pooling": first_last.pooling,
                "fitted_on": texts_file.name,
            }
            fit(plain, texts, kind=kind, metadata=metadata).save(folder)
        fitted = Fitted.load(folder)
        yield Model(kind, f"of the last, fitted on {fitted.metadata['texts']:,} sentences", [fitted(plain)])


def trained(kind: str, options: Any) -> Model:
    """A row of runs, one a seed."""
    from simcse.encoder.model import SentenceEncoder

    name, rows = {
        "ct": ("Contrastive Tension", "sentences"),
        "unsup": ("SimCSE unsup", "sentences"),
        "sup": ("SimCSE sup", "NLI triplets"),
    }[kind]
    configs = [run_config(kind, seed, options) for seed in range(options.seeds)]
    for config in configs:
        finished(config, name)
    folders = [Path(config.output_dir) for config in configs]
    encoders = [SentenceEncoder.from_pretrained(folder / "best").encode for folder in folders]
    what = f"{configs[0].max_steps} steps of {configs[0].batch_size} {rows}"
    return Model(name, what, encoders, folders[0])


def run_config(kind: str, seed: int, options: Any) -> TrainConfig:
    """The start's recipe at [CLS], evaluated every 10 steps for the trajectory, as in the paper.

    Contrastive Tension has its own pooling, loss and two encoders (configs/minilm-ct.yaml).
    """
    data = Path(options.data_dir)
    shared = {
        "data.train": str(data / PLACES["triplets" if kind == "sup" else "train"]),
        "data.dev": str(data / PLACES["dev"]),
        "data.test": None,
        "max_steps": options.steps,
        "eval_every": min(10, options.steps),
        "save_every": options.steps,
    }
    if options.model:
        shared["model.name"] = options.model
    if kind == "ct":
        start = run_config("unsup", seed, options)
        shared |= {"model.name": start.model.name, "optim.lr": start.optim.lr}
    else:
        shared["model.pooling"] = "cls"
    recipe = "minilm" if kind == "ct" else options.start
    config = train_config(Grid(kind, "", None, kind, []), Variant(kind, None, {}), shared, recipe)
    assert config is not None  # only a missing file of a grid gives None
    folder = Path(options.runs) / options.start / kind / f"seed-{config.seed + seed}"
    return replace(config, seed=config.seed + seed, output_dir=str(folder))


if __name__ == "__main__":
    sys.exit(run(main))
