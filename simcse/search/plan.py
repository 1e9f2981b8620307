"""Which index to build: chosen by size and memory, then measured against exact search and tuned until recall holds."""

from __future__ import annotations

import logging
import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from simcse.errors import ConfigError, nearest
from simcse.search.ann import Ann, new_faiss_index
from simcse.search.identity import Matrix
from simcse.search.tuning import QUERIES, Trial

__all__ = ["KINDS", "Plan", "check_kind", "make_plan"]

log = logging.getLogger(__name__)

KINDS = ("auto", "flat", "hnsw", "ivf", "ivf-pq")
FLAT_BELOW = 20_000  # rows; comparing all of them takes a few milliseconds
HNSW_BELOW = 200_000  # rows; its graph answers fastest, but takes minutes to build beyond
ROWS_A_CELL = 39  # faiss asks for so many to train a cell
FEWEST_CELLS = 16


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
        effort: nprobe or efSearch that was needed.
    """

    kind: str
    factory: str | None
    reason: str
    recall: float = 1.0
    recall_error: float = 0.0
    measured_on: str | None = None
    milliseconds: float | None = None
    exact_milliseconds: float | None = None
    effort: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def check_kind(kind: str, dimension: int) -> None:
    """Refuse what cannot be built, before any text is encoded.

    Raises:
        ConfigError: neither a known kind nor a factory string of faiss.
    """
    if kind in KINDS:
        return
    if not any(c.isdigit() or c.isupper() for c in kind):
        raise ConfigError(
            f"kind: found {kind!r}{nearest(kind, KINDS)}, expected one of {', '.join(KINDS)}, "
            "or a factory string of faiss"
        )
    new_faiss_index(dimension, kind)


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
        memory: bytes that the approximate index may take; default half of the machine's.
        live: (n,), which rows count; default all.
        sample_queries: (q, d) unit vectors like those to be searched for, to measure and tune on; default rows that are
            held out. Texts of another kind than the rows, such as questions, need more effort for the same recall.
        seed: of the choice of held-out rows and training rows.

    Returns:
        The plan and the index to use with it; no index where exact search is the plan.
    """
    slots = np.flatnonzero(live) if live is not None else np.arange(len(matrix))
    name, factory, rescored, reason = _choose(len(slots), matrix.shape[1], kind, memory)
    if factory is None:
        if kind not in ("auto", "flat"):
            log.warning("index: %s", reason)
        return Plan("flat", None, reason), None
    rng = np.random.default_rng(seed)
    held_out = np.empty(0, np.int64)
    if sample_queries is None:
        held_out = np.sort(rng.choice(slots, min(QUERIES, len(slots) // 10), replace=False))
    kept = np.setdiff1d(slots, held_out, assume_unique=True)
    try:
        ann = _built(matrix, kept, factory, rescored, rng)
    except RuntimeError as error:
        told = " ".join(str(error).split())[-80:]
        return _exactly(f"faiss cannot train {factory} on {len(kept)} rows ({told})")
    trial = Trial(matrix[held_out] if sample_queries is None else sample_queries, matrix, kept)
    measured_on = f"{len(trial.queries)} {'held-out rows' if sample_queries is None else 'sample queries'}"
    recall = trial.tune(ann, target_recall)
    if recall.mean < target_recall:
        return _exactly(
            f"{factory} finds only {recall.mean:.3f} of the true 10 nearest ({measured_on}), {target_recall} is asked"
        )
    fast, exact = trial.milliseconds(ann)
    ann.add(matrix, held_out)
    plan = Plan(
        name, factory, reason, round(recall.mean, 4), round(recall.error, 4), measured_on, round(fast, 3),
        round(exact, 3), ann.effort,
    )  # fmt: skip
    log.info("index: %s", plan)
    return plan, ann


def _exactly(why: str) -> tuple[Plan, None]:
    reason = f"{why}: exact search instead"
    log.warning("index: %s", reason)
    return Plan("flat", None, reason), None


def _built(matrix: Matrix, kept: npt.NDArray[np.int64], factory: str, rescored: int, rng: np.random.Generator) -> Ann:
    """An index of these rows, trained on some of them; RuntimeError of faiss if they are too few."""
    ann = Ann(new_faiss_index(matrix.shape[1], factory), len(matrix), effort=1, rescored=rescored)
    some = rng.choice(kept, min(len(kept), _training_rows(ann.index)), replace=False)
    ann.train(matrix[np.sort(some)])
    ann.add(matrix, kept)
    return ann


def _choose(count: int, dimension: int, kind: str, memory: int | None) -> tuple[str, str | None, int, str]:
    """Kind, factory string, candidates for each hit, reason."""
    if kind not in KINDS:
        return kind, kind, 4, "asked for by its factory string"
    room = memory if memory is not None else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    reason = "asked for"
    if kind == "auto":
        kind, reason = _automatic(count, dimension, room)
    if kind == "flat":
        return kind, None, 1, reason
    if kind == "hnsw":
        return kind, "HNSW32_SQ8", 2, reason
    cells = min(2 ** round(np.log2(4 * count**0.5)) if count else 0, count // (2 * ROWS_A_CELL))
    if cells < FEWEST_CELLS:
        return (
            kind,
            None,
            1,
            f"{count} rows are too few to train cells of an IVF ({2 * ROWS_A_CELL * FEWEST_CELLS}): exact search",
        )
    if kind == "ivf":
        return kind, f"IVF{cells},SQ8", 2, reason
    halves = dimension // 2 if dimension % 2 == 0 else dimension
    return kind, f"IVF{cells},PQ{halves}x4fs", 10, reason


def _automatic(count: int, dimension: int, room: int) -> tuple[str, str]:
    if count < FLAT_BELOW:
        return "flat", f"{count} rows are compared in a few milliseconds"
    graph, codes = count * (dimension + 2 * 32 * 4 + 16), count * (dimension + 8)
    if count < HNSW_BELOW and graph <= room:
        return "hnsw", f"a graph over {count} rows, {graph // 2**20} MiB"
    if codes <= room:
        return "ivf", f"cells of {count} rows, a byte a number, {codes // 2**20} MiB"
    return "ivf-pq", f"a byte a number would take {codes // 2**20} MiB, {room // 2**20} MiB are to be had"


def _training_rows(index: Any) -> int:
    cells = getattr(index, "nlist", 0)
    return 64 * cells if cells else 65_536
