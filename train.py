"""Train a sentence encoder: python train.py --config configs/unsup-bert-base.yaml"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from simcse.console import Parser, run
from simcse.training.config import TrainConfig
from simcse.training.interrupt import Interrupted
from simcse.training.launch import command_to_resume, follow_launcher


def main(argv: Sequence[str]) -> None:
    """Parse, then train."""
    parser = Parser(prog="train.py", description="Train a sentence encoder by contrastive learning.")
    parser.add_argument("--config", action="config", help="YAML file; options given behind it override it")
    parser.add_class_arguments(TrainConfig, None, fail_untyped=False)
    options = vars(parser.instantiate(parser.parse_args(list(argv))))
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


if __name__ == "__main__":
    sys.exit(run(main))
