"""Which index to build: chosen by size and memory, then measured against exact search and tuned until recall holds."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import asdict, dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import numpy.typing as npt

from simcse.errors import ConfigError, did_you_mean
from simcse.search.nearest.ann import Ann, new_faiss_index, parameter_name
from simcse.search.nearest.tuning import QUERIES, Recall, RecallBenchmark
from simcse.vectors import Matrix

__all__ = ["KINDS", "Plan", "check_budget", "check_kind", "make_plan"]

log = logging.getLogger(__name__)

KINDS = ("auto", "flat", "hnsw", "ivf", "ivf-pq")
FLAT_BELOW = 20_000  # rows; comparing all of them is fast enough
HNSW_BELOW = 200_000  # rows; its graph answers fastest, but takes minutes to build beyond: then IVF does
ROWS_A_CELL = 39  # faiss asks for so many to train a cell
FEWEST_CELLS = 16
HELD_OUT = 10  # one row in so many, to measure recall on


@dataclass(frozen=True)
class Plan:
    """What was chosen, why, and how good it is; kept in the index.

    Attributes:
        kind: flat, hnsw, ivf, ivf-pq, or a factory string of faiss.
        factory: the factory string; None for flat.
        reason: why, in words.
        recall: measured share of the true 10 nearest found; 1 for flat.
        recall_error: its standard error.
        measured_on: which queries and how many, in words; None for flat.
        milliseconds: measured for one query.
        exact_milliseconds: of exact search on the same rows.
        search_parameters: `nprobe=16` or `efSearch=64`, as faiss writes them; empty for flat.
    """

    kind: str
    factory: str | None
    reason: str
    recall: float = 1.0
    recall_error: float = 0.0
    measured_on: str | None = None
    milliseconds: float | None = None
    exact_milliseconds: float | None = None
    search_parameters: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Choice:
    """What to try: a kind, its factory string (None for flat), candidates refined for each hit, and why."""

    kind: str
    factory: str | None
    k_factor: int
    reason: str


def check_kind(kind: object, dimension: int) -> None:
    """Refuse what cannot be built, before any text is encoded.

    Raises:
        ConfigError: neither a known kind nor a factory string of faiss; a number of 0 or above four million in it, with
            which faiss ends the process or the memory.
    """
    if isinstance(kind, str) and kind in KINDS:
        return
    if not isinstance(kind, str) or not kind.isascii() or not any(c.isdigit() or c.isupper() for c in kind):
        close = did_you_mean(kind, KINDS) if isinstance(kind, str) else ""
        raise ConfigError(
            f"kind: found {kind!r}{close}, expected one of {', '.join(KINDS)}, or a factory string of faiss"
        )
    if wrong := next((number for number in re.findall("[0-9]+", kind) if not 1 <= float(number) <= 2**22), None):
        raise ConfigError(f"kind: found {wrong} in {kind!r}, expected numbers from 1 to {2**22}")
    new_faiss_index(dimension, kind)


def check_budget(target_recall: Any = 1.0, memory: Any = None) -> None:
    """Refuse what no index can be measured by, before any text is encoded.

    Raises:
        ConfigError: a recall outside (0, 1], or bytes that are no whole number from 0 on.
    """
    if isinstance(target_recall, bool) or not isinstance(target_recall, Real) or not 0 < float(target_recall) <= 1:
        raise ConfigError(f"target_recall: found {target_recall!r}, expected a share in (0, 1]")
    if memory is not None and (isinstance(memory, bool) or not isinstance(memory, Integral) or memory < 0):
        raise ConfigError(f"memory: found {memory!r}, expected bytes, a whole number from 0 on")


def make_plan(
    matrix: Matrix,
    *,
    kind: str = "auto",
    target_recall: float = 0.95,
    memory: int | None = None,
    live: npt.NDArray[np.bool_] | None = None,
    sample_queries: Matrix | None = None,
    seed: int = 0,
) -> tuple[Plan, Ann | None]:
    """Choose, build, measure.

    Args:
        matrix: (n, d) unit vectors.
        kind: auto, flat, hnsw, ivf, ivf-pq, or a factory string of faiss.
        target_recall: recall@10 to reach.
        memory: bytes that the approximate index may need; default half of the machine's.
        live: (n,), which rows count; default all.
        sample_queries: (q, d) unit vectors like those to be searched for, to measure and tune on; default rows that are
            held out. Texts of another kind than the rows, such as questions, need more probes for the same recall.
        seed: of the choice of held-out rows and training rows.

    Returns:
        The plan and the index to use with it; no index where exact search is the plan.
    """
    slots = np.flatnonzero(live) if live is not None else np.arange(len(matrix))
    if not len(slots):
        return Plan("flat", None, "no rows"), None
    rng = np.random.default_rng(seed)
    held_out = np.empty(0, np.int64)
    if sample_queries is None:
        held_out = np.sort(rng.choice(slots, min(QUERIES, len(slots) // HELD_OUT), replace=False))
    kept = np.setdiff1d(slots, held_out, assume_unique=True)
    choices = _choices(len(slots), matrix.shape[1], kind, memory)
    if sample_queries is None and not len(held_out) and choices[0].factory is not None:
        few = f"{len(slots)} rows are too few to hold one out in {HELD_OUT} and measure recall on it: exact search"
        choices = [Choice("flat", None, 1, few)]
    benchmark = None
    for choice in choices:
        if choice.factory is None:
            if kind not in ("auto", "flat"):
                log.warning("index: %s", choice.reason)
            return Plan("flat", None, choice.reason), None
        try:
            ann = _built(matrix, kept, choice, rng)
            queries = matrix[held_out] if sample_queries is None else sample_queries
            benchmark = benchmark or RecallBenchmark(queries, matrix, kept)
            recall = benchmark.tune(ann, target_recall)
            measured_on = f"{len(queries)} {'held-out rows' if sample_queries is None else 'sample queries'}"
            if recall.mean >= target_recall:
                plan = _measured(choice, recall, measured_on, benchmark.milliseconds(ann), ann)
                ann.add(matrix, held_out)
                return plan, ann
            missed = (
                f"{choice.factory} finds only {recall.mean:.3f} of the true 10 nearest ({measured_on}), "
                f"{target_recall} is asked"
            )
        except (RuntimeError, MemoryError) as error:  # of faiss
            cause = " ".join(str(error).split())[-80:]
            missed = f"faiss cannot train {choice.factory} on {len(kept)} rows ({cause})"
        log.warning("index: %s", missed)
    return Plan("flat", None, f"{missed}: exact search instead"), None


def _measured(choice: Choice, recall: Recall, measured_on: str, milliseconds: tuple[float, float], ann: Ann) -> Plan:
    fast, exact = (round(value, 3) for value in milliseconds)
    mean, error = round(recall.mean, 4), round(recall.error, 4)
    name = parameter_name(ann.index)
    parameters = f"{name}={ann.parameter}" if name else ""
    plan = Plan(choice.kind, choice.factory, choice.reason, mean, error, measured_on, fast, exact, parameters)
    log.info("index: %s", plan)
    return plan


def _built(matrix: Matrix, kept: npt.NDArray[np.int64], choice: Choice, rng: np.random.Generator) -> Ann:
    """An index of these rows, trained on some of them; RuntimeError of faiss if they are too few."""
    assert choice.factory is not None
    ann = Ann(new_faiss_index(matrix.shape[1], choice.factory), len(matrix), parameter=1, k_factor=choice.k_factor)
    some = rng.choice(kept, min(len(kept), _training_rows(ann.index)), replace=False)
    ann.train(matrix[np.sort(some)])
    ann.add(matrix, kept)
    return ann


def _choices(count: int, dimension: int, kind: str, memory: int | None) -> list[Choice]:
    """What to try, in this order, until one reaches the recall."""
    if kind not in KINDS:
        return [Choice(kind, kind, 4, "asked for by its factory string")]
    if kind != "auto":
        return [_choice(kind, count, dimension, "asked for")]
    room = memory if memory is not None else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    graph, sq8, pq4 = (count * size for size in (dimension + 2 * 32 * 4 + 16, dimension + 8, dimension // 4 + 8))
    if count < FLAT_BELOW:
        return [Choice("flat", None, 1, f"{count} rows are compared in a few milliseconds")]
    tried = []
    if count < HNSW_BELOW and graph <= room:
        tried.append(_choice("hnsw", count, dimension, f"a graph over {count} rows, {_mib(graph)}"))
    else:
        tried.append(_choice("ivf-pq", count, dimension, f"cells of {count} rows, 4-bit PQ, {_mib(pq4)}"))
    if sq8 <= room:  # where 4-bit PQ misses the recall
        tried.append(_choice("ivf", count, dimension, f"cells of {count} rows, 8-bit codes, {_mib(sq8)}"))
    return tried


def _mib(size: int) -> str:
    return f"{size // 2**20} MiB"


def _choice(kind: str, count: int, dimension: int, reason: str) -> Choice:
    if kind == "flat":
        return Choice(kind, None, 1, reason)
    if kind == "hnsw":
        return Choice(kind, "HNSW32_SQ8", 2, reason)
    cells = min(2 ** round(np.log2(4 * count**0.5)) if count else 0, count // (2 * ROWS_A_CELL))
    if cells < FEWEST_CELLS:
        fewest = 2 * ROWS_A_CELL * FEWEST_CELLS
        return Choice(kind, None, 1, f"{count} rows are too few to train cells of an IVF ({fewest}): exact search")
    if kind == "ivf":
        return Choice(kind, f"IVF{cells},SQ8", 2, reason)
    parts = dimension // 2 if dimension % 2 == 0 else dimension
    return Choice(kind, f"IVF{cells},PQ{parts}x4fs", 10, reason)


def _training_rows(index: Any) -> int:
    cells = getattr(index, "nlist", 0)
    return 64 * cells if cells else 65_536
