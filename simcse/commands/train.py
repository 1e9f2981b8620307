"""`simcse train`, and `train.py` in a checkout."""

from __future__ import annotations

from collections.abc import Sequence

from simcse.commands.recipes import with_recipe_files
from simcse.console import Parser
from simcse.training.config import TrainConfig
from simcse.training.interrupt import Interrupted
from simcse.training.launch import command_to_resume, follow_launcher

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
    parser.add_class_arguments(TrainConfig, None, fail_untyped=False)
    return parser


def main(argv: Sequence[str]) -> None:
    """Train a sentence encoder.

    Raises:
        SimCSEError: in one line, what is wrong with an option, the data or the model.
        Interrupted: a signal came; says how to go on.
    """
    parser = build_parser()
    options = vars(parser.instantiate(parser.parse_args(with_recipe_files(argv))))
    options.pop("config", None)
    config = TrainConfig(**options)

    from simcse.display.summary import summary
    from simcse.training.run import train  # behind --help and wrong options, which need no torch

    follow_launcher()
    try:
        report = train(config)
    except Interrupted as stop:
        raise stop.followed_by(f"go on with: {command_to_resume()}") from None
    if report:
        print(summary(report))
