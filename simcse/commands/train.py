"""`simcse train`, and `train.py` in a checkout."""

from __future__ import annotations

from collections.abc import Sequence

from simcse.commands.recipes import with_recipe_files
from simcse.commands.shared import Format, as_text, print_json
from simcse.console import Parser
from simcse.display.progress import waiting
from simcse.errors import SimCSEError
from simcse.training.config import TrainConfig, at_least
from simcse.training.interrupt import Interrupted
from simcse.training.launch import command_as_typed, command_to_resume, follow_launcher, is_launched

__all__ = ["build_parser", "main"]


def build_parser() -> Parser:
    """The fields of TrainConfig as options, with their help."""
    parser = Parser(
        usage="simcse train [--config RECIPE] [options]",
        description="Train a sentence encoder by contrastive learning.",
    )
    parser.add_argument("--config", action="config", help=(
        "YAML file, or a name that simcse recipes lists; options given behind it override it"
    ))  # fmt: skip
    parser.add_argument("--processes", type=int, default=1, help=(
        "processes on this machine, with a device each where it has several; over several machines: docs/scale.md"
    ))  # fmt: skip
    parser.add_argument("--format", type=Format, default="text", help="of the closing table: text, or json, the report")
    parser.add_json()
    parser.add_class_arguments(TrainConfig, None, fail_untyped=False)
    return parser


def main(argv: Sequence[str]) -> None:
    """Train a sentence encoder.

    Raises:
        SimCSEError: in one line, what is wrong with an option, the data or the model, or that another process is lost.
        Interrupted: a signal came; says how to go on.
    """
    parser = build_parser()
    options = vars(parser.instantiate(parser.parse_args(with_recipe_files(argv))))
    options.pop("config", None)
    at_least("processes", processes := options.pop("processes"), 1)
    readable = as_text(options.pop("format"))
    config = TrainConfig(**options)
    if not is_launched(processes) and processes > 1:
        from simcse.training.distributed import start

        raise SystemExit(start(processes, command_as_typed(argv)))

    follow_launcher()  # imports last long: a launcher that died meanwhile would leave us waiting for its store
    with waiting("importing torch and transformers"):  # behind --help and wrong options, which need neither
        from simcse.display.summary import summary
        from simcse.training.distributed import group_left, is_process_lost
        from simcse.training.run import train

    try:
        with group_left():
            report = train(config)
    except Interrupted as stop:
        raise stop.followed_by(f"go on with: {command_to_resume()}") from None
    except RuntimeError as error:
        if not is_process_lost(error):
            raise
        said = "another process of this run has ended, was killed or cannot be reached"
        raise SimCSEError(f"{said}; go on with: {command_to_resume()}") from error
    if report and readable:
        print(summary(report))
    elif report:
        print_json(report)
