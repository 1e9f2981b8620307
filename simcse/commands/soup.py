"""`simcse soup`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from simcse.commands.models import encoders_of
from simcse.commands.shared import load_encoder
from simcse.errors import ConfigError

if TYPE_CHECKING:
    from simcse.encoder.model import SentenceEncoder

__all__ = ["soup"]


def soup(models: list[str], *, output: str, dev: str | None = None) -> None:
    """Average the weights of several encoders.

    They must come from one start. The result is as fast as one of them. A run with several seeds stands for all.

    Args:
        models: two or more runs, checkpoints or hub ids
        output: folder of the encoder to write; an older one is replaced
        dev: scored pairs; prints Spearman x 100 of each model and of their mean
    """
    folders = [folder for model in models for folder in encoders_of(model)]
    if len(folders) < 2:
        raise ConfigError(f"MODELS: found {len(folders)} encoder, expected at least 2, or a run with several seeds")
    from simcse.data.pairs import read_scored_pairs
    from simcse.display.tables import Table, number, terminal
    from simcse.encoder.soup import soup as averaged
    from simcse.evaluation.evaluators import ScoredPairsEvaluator
    from simcse.files import check_writable

    check_writable(output)
    evaluator = ScoredPairsEvaluator(read_scored_pairs(dev)) if dev else None

    def score(encoder: SentenceEncoder) -> str:
        assert evaluator is not None
        return number(evaluator(encoder.encode)["spearman"])

    found = averaged(folders)
    rows = [] if evaluator is None else [[name, score(load_encoder(name, "auto", "fp32"))] for name in folders]
    if evaluator is not None:
        rows.append([output, score(found)])
    found.save_pretrained(output)
    if rows:
        print(terminal(Table(["model", "Spearman x 100"], rows), f"on {dev}"))
    print(f"{output}: the mean of {len(folders)} encoders", file=sys.stderr)
