"""`simcse compare`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simcse.commands.models import config_of, encoders_of, load_encode, short_names
from simcse.commands.shared import Format, as_text, print_json

if TYPE_CHECKING:
    from simcse.vectors import Encode, Roles

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

    Both are evaluated on the same pairs, queries or test rows. A bootstrap over these, and over seeds where a run has
    them, gives an interval of the difference for each task and for the average of a kind; a sentence says whether it is
    statistically significant, and about how many more pairs would decide it where it is not. Runs with the same seeds
    are paired by them. Beside a run of the paper's recipe stand the paper's value and a reference over 50 seeds. As
    JSON, a line for each kind of task.

    Args:
        a: run folder, one with seed-N folders below, checkpoint, hub id, or folder of simcse postprocess
        b: the other one; differences are b - a
        data: file of (a, b, score), such as STS-B's sts-test.csv, or of (query, document); BEIR folder
        data_dir: instead of data, SentEval's folder or the one above it; default the environment's SIMCSE_DATA
        tasks: sts, transfer, retrieval, all, or names of tasks in it; default the seven of the paper
        recipe: the paper's recipe to show beside, such as unsup-bert-base; default what the run's config.yaml follows
        resamples: of the bootstrap
        confidence: of the intervals
        seed: of the bootstrap
        format: text, or json; auto is text on a terminal, and json where output is piped
        device: auto, cpu, cuda, cuda:1, ...
        dtype: precision: auto (bf16 where the device computes in it, else fp32), fp32, bf16, fp16, int8 (AVX2, AMX)
    """
    from simcse.evaluation.comparison import as_json, as_tables, check_recipe, sides_of
    from simcse.evaluation.statistics import check_confidence, compare_encoders
    from simcse.evaluation.suite import read_items

    check_confidence(confidence)
    check_recipe(recipe)
    configs = [config_of(run) for run in (a, b)]  # damage is reported before hours of encoding
    by_kind = read_items(data, data_dir, tasks or [], os.environ.get("SIMCSE_DATA"))
    names_a, names_b = encoders_of(a), encoders_of(b)
    count = sum(map(len, by_kind.values()))
    print(f"{len(names_a)} + {len(names_b)} encoders on {count} tasks", file=sys.stderr)
    opened = lru_cache(maxsize=1)(  # of many seeds one is in memory at a time
        lambda name: load_encode(name, device, dtype, show_progress=sys.stderr.isatty())
    )
    for items in by_kind.values():
        found = compare_encoders(
            [_Loaded(name, opened) for name in names_a],
            [_Loaded(name, opened) for name in names_b],
            items,
            paired=seeds_of(names_a) == seeds_of(names_b) != [],
            resamples=resamples,
            confidence=confidence,
            seed=seed,
        )
        sides = sides_of(found, [a, b], short_names([a, b]), configs, recipe)
        if as_text(format):
            print(as_tables(found, sides))
        else:
            print_json(as_json(found, sides))


def seeds_of(encoders: list[str]) -> list[str]:
    """The names of the folders of a run's seeds; empty for one encoder."""
    return [Path(name).parent.name for name in encoders] if len(encoders) > 1 else []


class _Loaded:
    """An encoder that is loaded when it is used."""

    def __init__(self, name: str, opened: Callable[[str], Encode]) -> None:
        self._encode = partial(opened, name)

    def __call__(self, texts: list[str]) -> Any:
        return self._encode()(texts)

    def encode_query(self, texts: list[str]) -> Any:
        """n queries -> (n, d)."""
        return self._roles().encode_query(texts)

    def encode_document(self, texts: list[str]) -> Any:
        """n documents -> (n, d)."""
        return self._roles().encode_document(texts)

    def _roles(self) -> Roles:
        from simcse.vectors import roles_of

        return roles_of(self._encode())
