"""`simcse compare`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from simcse.commands.models import config_of, encoders_of, load_encode, short_names
from simcse.commands.shared import Format, as_text, print_json

if TYPE_CHECKING:
    from simcse.vectors import Encode

__all__ = ["compare"]


def compare(
    a: str,
    b: str,
    *,
    data: str | None = None,
    data_dir: str | None = None,
    tasks: list[str] | None = None,
    recipe: str | None = None,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    format: Format = "auto",
    device: str = "auto",
    dtype: str = "auto",
) -> None:
    """Say whether one model is better than another, and how sure that is.

    Both are evaluated on the same pairs; a bootstrap over pairs, and over seeds where a run has them, gives an interval
    of the difference for each task and for the average, and a sentence says whether it is statistically significant.
    Beside a run of the paper's recipe stand the paper's value and the spread of a reference over 50 seeds.

    Args:
        a: run folder, one with seed-N folders below, checkpoint, hub id, or folder of simcse postprocess
        b: the other one; differences are b - a
        data: file of (a, b, score), such as STS-B's sts-test.csv
        data_dir: instead of data, SentEval's folder or the one above it; default the environment's SIMCSE_DATA
        tasks: names of STS tasks in it; default the seven of the paper
        recipe: the paper's recipe to show beside, such as unsup-bert-base; default what the run's config.yaml follows
        resamples: of the bootstrap
        confidence: of the intervals
        seed: of the bootstrap
        format: text, or json; auto is text on a terminal, and json where output is piped
        device: auto, cpu, cuda, cuda:1, ...
        dtype: precision: auto (bf16 where the device computes in it, else fp32), fp32, bf16, fp16, int8 (AMX, VNNI)
    """
    from simcse.evaluation.comparison import as_json, as_tables, check_recipe, sides_of
    from simcse.evaluation.statistics import check_confidence, compare_encoders
    from simcse.evaluation.suite import read_scored_tasks

    check_confidence(confidence)
    check_recipe(recipe)
    configs = [config_of(run) for run in (a, b)]  # damage is reported before hours of encoding
    loaded = read_scored_tasks(data, data_dir, tasks or [], os.environ.get("SIMCSE_DATA"))
    names_a, names_b = encoders_of(a), encoders_of(b)
    print(f"{len(names_a)} + {len(names_b)} encoders on {len(loaded)} tasks", file=sys.stderr)
    found = compare_encoders(
        [_loaded_when_called(name, device, dtype) for name in names_a],
        [_loaded_when_called(name, device, dtype) for name in names_b],
        loaded,
        resamples=resamples,
        confidence=confidence,
        seed=seed,
    )
    sides = sides_of(found, [a, b], short_names([a, b]), configs, recipe)
    if as_text(format):
        print(as_tables(found, sides))
    else:
        print_json(as_json(found, sides))


def _loaded_when_called(name: str, device: str, dtype: str) -> Encode:
    """An encoder that needs memory only while it encodes: of many seeds one at a time."""
    return lambda texts: load_encode(name, device, dtype, show_progress=sys.stderr.isatty())(texts)
