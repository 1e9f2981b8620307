"""`simcse evaluate`, and `evaluate.py` in a checkout."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Literal

from simcse.commands.shared import print_json
from simcse.console import Parser, separated

__all__ = ["build_parser", "main"]


def build_parser() -> Parser:
    """The options, with their help."""
    parser = Parser(
        usage="simcse evaluate --model MODEL [options]",
        description="Evaluate an encoder on STS, transfer, retrieval, own files, and by its vectors' geometry.",
    )
    parser.add_argument("--model", type=str, required=True, help=(
        "folder of a checkpoint, a run or a map of simcse postprocess; hub id, or package:NAME"
    ))  # fmt: skip
    parser.add_argument("--pooling", type=str | None, help="instead of what the model says (cls, mean, ...)")
    parser.add_argument("--dtype", default="auto", help="of the weights: auto, fp32, bf16, fp16, int8")
    parser.add_argument("--device", type=str, default="auto", help="auto is the accelerator, if there is one")
    parser.add_argument("--batch_size", type=int | None, help="most texts in a batch; default: by a token budget")
    parser.add_argument(
        "--tasks", type=str, nargs="+", default=["sts"],
        help="sts, transfer, retrieval, geometry, japanese, all; names such as STS12,STS-B; a file of (a, b, score) or "
        "of (query, document); a BEIR folder. Several, with spaces or commas between.",
    )  # fmt: skip
    parser.add_argument("--data_dir", type=str | None, default=os.environ.get("SIMCSE_DATA"), help=(
        "SentEval's folder (it holds STS and SICK), or the one above it; default: the environment's SIMCSE_DATA"
    ))  # fmt: skip
    parser.add_argument(
        "--aggregation", type=Literal["all", "mean", "wmean"], default="all",
        help="of STS sub-sets: put together (the paper's), mean, or mean weighted by pairs",
    )  # fmt: skip
    parser.add_argument("--output", type=str | None, help="report.json, report.md, or a folder for both")
    parser.add_argument(
        "--format", type=Literal["text", "json", "markdown"], default="text", help="of what is printed"
    )  # fmt: skip
    parser.add_json()
    return parser


def main(argv: Sequence[str]) -> None:
    """Evaluate an encoder on STS, transfer, retrieval, own files, and by its vectors' geometry.

    The table, or JSON, goes to stdout, the report to a file.

    Raises:
        SimCSEError: in one line, what is wrong with an option, the data or the model.
    """
    options = build_parser().parse_args(list(argv))
    # heavy, and not wanted for --help
    from simcse.commands.models import encoder_of, open_model
    from simcse.evaluation.report import check_output
    from simcse.evaluation.suite import evaluate, read_tasks

    check_output(options.output)
    plan = read_tasks(separated(options.tasks), options.data_dir, options.aggregation)
    model = open_model(encoder_of(options.model), options.device, options.dtype, pooling=options.pooling)
    report = evaluate(
        model.encoding(batch_size=options.batch_size, show_progress=sys.stderr.isatty()),
        plan,
        aggregation=options.aggregation,
        model=options.model,
        settings=model.settings,
        on_task=lambda name: print(f"measuring {name}", file=sys.stderr),
    )
    if options.format == "json":
        print_json(report.to_dict())
    else:
        print(report.to_markdown() if options.format == "markdown" else report.to_terminal())
    if options.output:
        for path in report.write(options.output):
            print(f"wrote {path}", file=sys.stderr)
