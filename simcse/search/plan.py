"""Which index to build: chosen by size and memory, then measured against exact search and tuned until recall holds."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from simcse.errors import ConfigError, nearest
from simcse.search.ann import Ann, most_effort, new_faiss_index
from simcse.search.exact import exact_search
from simcse.search.identity import Matrix
from simcse.search.nearest import approximate

__all__ = ["KINDS", "Plan", "check_kind", "make_plan"]

log = logging.getLogger(__name__)

KINDS = ("auto", "flat", "hnsw", "ivf", "ivf-pq")
FLAT_BELOW = 20_000  # rows; comparing all of them takes a few milliseconds
HNSW_BELOW = 200_000  # rows; its graph answers fastest, but takes minutes to build beyond
ROWS_A_CELL = 39  # faiss asks for so many to train a cell
FEWEST_CELLS = 16
HELD_OUT = 256  # queries
MEASURED_AT = 10  # recall@10
SINGLE_QUERIES = 50  # for milliseconds a query


@dataclass(frozen=True)
class Plan:
    """What was chosen, why, and how good it is; kept in the index.

    Attributes:
        kind: flat, hnsw, ivf, ivf-pq, or a factory string of faiss.
        factory: the factory string; None for flat.
        reason: why, in words.
        recall: measured share of the true 10 nearest found, on held-out rows as queries; 1 for flat.
        milliseconds: measured for one query.
        exact_milliseconds: of exact search on the same rows.
        effort: nprobe or efSearch that was needed.
    """

    kind: str
    factory: str | None
    reason: str
    recall: float = 1.0
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
    seed: int = 0,
) -> tuple[Plan, Ann | None]:
    """Choose, build, measure.

    Args:
        matrix: (n, d) unit vectors.
        kind: auto, flat, hnsw, ivf, ivf-pq, or a factory string of faiss.
        target_recall: recall@10 to reach.
        memory: bytes that the approximate index may take; default half of the machine's.
        live: (n,), which rows count; default all.
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
    held_out = np.sort(rng.choice(slots, min(HELD_OUT, len(slots) // 10), replace=False))
    kept = np.setdiff1d(slots, held_out, assume_unique=True)
    ann = Ann(new_faiss_index(matrix.shape[1], factory), len(matrix), effort=1, rescored=rescored)
    try:
        sample = rng.choice(kept, min(len(kept), _training_rows(ann.index)), replace=False)
        ann.train(np.ascontiguousarray(matrix[np.sort(sample)]))
    except RuntimeError as error:
        told = " ".join(str(error).split())[-80:]
        why = f"faiss cannot train {factory} on {len(kept)} rows ({told}): exact search instead"
        log.warning("index: %s", why)
        return Plan("flat", None, why), None
    ann.add(matrix, kept)
    recall = _tune(ann, matrix, held_out, kept, target_recall)
    fast, exact = _milliseconds(ann, matrix, held_out)
    ann.add(matrix, held_out)
    if recall < target_recall:
        why = (
            f"{factory} finds only {recall:.3f} of the true 10 nearest, {target_recall} is asked: exact search instead"
        )
        log.warning("index: %s", why)
        return Plan("flat", None, why, exact_milliseconds=exact), None
    plan = Plan(name, factory, reason, round(recall, 4), round(fast, 3), round(exact, 3), ann.effort)
    log.info(
        "index: %s, %s: recall@10 %.3f, %.2f ms a query, exact search %.2f ms", factory, reason, recall, fast, exact
    )
    return plan, ann


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


def _tune(ann: Ann, matrix: Matrix, held_out: Any, kept: Any, target: float) -> float:
    """Double the effort until the recall holds, then halve the last step; returns the recall reached."""
    queries = np.ascontiguousarray(matrix[held_out])  # (q, d)
    among = np.zeros(len(matrix), bool)
    among[kept] = True
    k = min(MEASURED_AT, len(kept))
    true = exact_search(queries, matrix, k, allowed=among)[1]  # (q, k)
    margin = (target * (1 - target) / true.size) ** 0.5  # one standard error of what is measured

    def reached(effort: int) -> float:
        ann.effort = effort
        found = approximate(ann, queries, matrix, k)[1]
        return float(np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(found, true, strict=True)]))

    return _least_effort(reached, most_effort(ann.index), min(1.0, target + margin), ann)


def _least_effort(reached: Callable[[int], float], most: int, target: float, ann: Ann) -> float:
    low, effort, recall = 0, 1, reached(1)
    while recall < target and effort < most:
        low, effort = effort, min(2 * effort, most)
        recall = reached(effort)
    while recall >= target and effort - low > max(1, effort // 8):
        middle = (low + effort) // 2
        if (found := reached(middle)) >= target:
            effort, recall = middle, found
        else:
            low = middle
    ann.effort = effort
    return recall


def _milliseconds(ann: Ann, matrix: Matrix, held_out: Any) -> tuple[float, float]:
    """Median time of one query, approximate and exact."""
    fast, exact = [], []
    for slot in held_out[:SINGLE_QUERIES]:
        query = np.ascontiguousarray(matrix[slot : slot + 1])
        start = time.perf_counter()
        approximate(ann, query, matrix, MEASURED_AT)
        fast.append(time.perf_counter() - start)
    for slot in held_out[:5]:
        start = time.perf_counter()
        exact_search(np.ascontiguousarray(matrix[slot : slot + 1]), matrix, MEASURED_AT)
        exact.append(time.perf_counter() - start)
    return 1000 * float(np.median(fast)), 1000 * float(np.median(exact))
