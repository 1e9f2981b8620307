"""Names of tasks and files in, one report out: what `evaluate.py` runs."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simcse.data.pairs import ScoredPairs
from simcse.data.readers import read_scored_pairs
from simcse.data.tables import check_file, delimited_rows, format_of, named_rows
from simcse.errors import ConfigError, DataError, did_you_mean
from simcse.evaluation import retrieval, sts, transfer
from simcse.evaluation.geometry import evaluate_geometry
from simcse.evaluation.pairs import check_gold, evaluate_pairs
from simcse.evaluation.report import Report, TaskResult
from simcse.vectors import CachedEncoder, Encode, TimedEncoder

__all__ = ["GROUPS", "evaluate", "task_names"]

GROUPS = {
    "sts": (*sts.SEVEN, "STS-B-dev"),
    "transfer": tuple(transfer.TASKS),
    "japanese": ("JSTS", "JSICK"),
}
ALL = ("sts", "transfer", "retrieval", "geometry")
GEOMETRY_ON = "STS-B-dev"  # the paper's choice for alignment and uniformity


def task_names() -> list[str]:
    """Every name that `--tasks` knows: groups, then tasks."""
    return list(dict.fromkeys(["all", *ALL, "japanese", *sts.TASKS, *transfer.TASKS]))


@dataclass
class Plan:
    """What is to be measured, all of it read before the first sentence is encoded: a missing file costs no wait."""

    sts: dict[str, list[ScoredPairs]] = field(default_factory=dict)
    pairs: list[ScoredPairs] = field(default_factory=list)
    transfer: list[transfer.TransferSet] = field(default_factory=list)
    collections: list[retrieval.Collection] = field(default_factory=list)
    geometry: ScoredPairs | None = None


def evaluate(
    encode: Encode,
    tasks: Sequence[str],
    data_dir: str | Path | None = None,
    *,
    aggregation: sts.Aggregation = "all",
    model: str = "",
    settings: dict[str, Any] | None = None,
    on_task: Callable[[str], None] = lambda name: None,
) -> Report:
    """Measure everything that is asked for.

    Args:
        encode: `encode(list of n texts) -> (n, d)`.
        tasks: `all`, groups (sts, transfer, retrieval, geometry, japanese), task names, a BEIR folder, a file of
            (a, b, score) or one of (query, document).
        data_dir: SentEval's root or the folder above it, for all but own files and folders.
        aggregation: of the STS sub-sets.
        model: its name in the report.
        settings: what else belongs to the protocol, such as pooling and dtype.
        on_task: called with the name of each task before it is measured.

    Raises:
        ConfigError: an unknown task, no data folder where one is needed.
        DataError: a file is missing or damaged, before anything is encoded.
        ModelError: a vector that is NaN, infinite or zero; names task and row.
    """
    plan = _read(tasks, None if data_dir is None else Path(data_dir))
    timed = TimedEncoder(encode)
    once = CachedEncoder(timed)  # tasks share sentences; the documents of a corpus are too many to be kept
    results: list[TaskResult] = []
    if plan.sts:
        on_task(", ".join(plan.sts))
        results += _sts_results(once, plan.sts, aggregation)
    for pairs in plan.pairs:
        on_task(pairs.name)
        score = evaluate_pairs(once, pairs)
        metrics = {"spearman": score.spearman, "pearson": score.pearson}
        results.append(TaskResult(Path(pairs.name).name, "pairs", metrics, score.n, "pairs", "file", "cosine"))
    geometry = None
    if plan.geometry is not None:
        on_task("geometry")
        geometry = dataclasses.asdict(evaluate_geometry(once, plan.geometry))
    for data in plan.transfer:
        on_task(data.task.name)
        results.append(_transfer_result(once, data))
    for collection in plan.collections:
        on_task(collection.name)
        results.append(_retrieval_result(timed, collection))
    protocol = {"aggregation": aggregation, "similarity": "cosine", **(settings or {})}
    if plan.sts:
        protocol["sts_text"] = "as in SentEval's files (lower-cased and tokenised, SICK and Japanese raw)"
    if plan.transfer:
        protocol["transfer"] = transfer.NOTE
    return Report(model, protocol, results, geometry, averaged=sts.SEVEN, speed=_speed(timed))


def _read(tasks: Sequence[str], data_dir: Path | None) -> Plan:
    plan = Plan()
    collections = {} if data_dir is None else _beir_folders(data_dir)
    for name in dict.fromkeys(_expanded(tasks)):
        own = Path(name)
        if found := sts.find_task(name):
            plan.sts[found.name] = sts.load_task(found, _needed(data_dir, name))
        elif name.upper() in transfer.TASKS:
            plan.transfer.append(transfer.load_transfer(name, _needed(data_dir, name)))
        elif name == "geometry":
            [plan.geometry] = plan.sts.get(GEOMETRY_ON) or sts.load_task(GEOMETRY_ON, _needed(data_dir, name))
        elif name == "retrieval" and not collections:
            raise DataError(
                f"{_needed(data_dir, name) / 'ir'}: no */corpus.jsonl there, nor in the folder above it; "
                "put a BEIR folder there, or leave retrieval out of --tasks"
            )
        elif name == "retrieval":
            plan.collections += [retrieval.load_beir(folder) for folder in collections.values()]
        elif name in collections and not own.exists():
            plan.collections.append(retrieval.load_beir(collections[name]))
        elif own.is_dir():
            plan.collections.append(retrieval.load_beir(own))
        elif own.exists() or own.suffix:
            _read_own(plan, own)
        else:
            raise ConfigError(
                f"--tasks {name}: no such task or file{did_you_mean(name, task_names())}; "
                f"known are {', '.join(task_names())}, a file, a BEIR folder"
            )
    for pairs in itertools.chain(*plan.sts.values(), plan.pairs):
        check_gold(pairs.scores, pairs.name)
    return plan


def _expanded(tasks: Sequence[str]) -> Iterable[str]:
    for task in tasks:
        for group in ALL if task == "all" else (task,):
            yield from GROUPS.get(group, (group,))


def _needed(data_dir: Path | None, task: str) -> Path:
    if data_dir is None:
        raise ConfigError(f"--tasks {task} needs --data_dir (or SIMCSE_DATA): SentEval's folder, or the one above it")
    return data_dir


def _beir_folders(data_dir: Path) -> dict[str, Path]:
    """Name -> folder of each collection in the data folder, in its `ir`, or in the `ir` beside SentEval's root."""
    places = (data_dir, data_dir / "ir", data_dir.parent / "ir")
    return {file.parent.name: file.parent for place in places for file in sorted(place.glob("*/corpus.jsonl"))}


def _read_own(plan: Plan, path: Path) -> None:
    """Two columns are queries and documents, more are scored pairs."""
    check_file(path)
    kind = format_of(path)
    if kind in ("jsonl", "parquet"):
        columns = named_rows(path)[0]
    else:
        columns = next((fields for _, fields in delimited_rows(path, "csv" if kind == "csv" else "tsv") if fields), [])
    if len(columns) == 1 and kind != "csv":
        raise DataError(f"{path}: found 1 column, expected a, b, score or query, document with tabs between")
    if len(columns) == 2:
        plan.collections.append(retrieval.load_query_pairs(path))
    else:
        plan.pairs.append(read_scored_pairs(path))


def _sts_results(
    encode: Encode, loaded: dict[str, list[ScoredPairs]], aggregation: sts.Aggregation
) -> list[TaskResult]:
    results = []
    for name, score in sts.score_sts(encode, loaded, aggregation).items():
        details = {"subsets": {key: dataclasses.asdict(part) for key, part in score.subsets.items()}}
        protocol = f"{aggregation}, {len(score.subsets)} sub-sets" if score.subsets else "cosine"
        metrics = {"spearman": score.spearman, "pearson": score.pearson}
        results.append(
            TaskResult(name, "sts", metrics, score.n, "pairs", score.split, protocol, details if score.subsets else {})
        )
    return results


def _transfer_result(encode: Encode, data: transfer.TransferSet) -> TaskResult:
    score = transfer.evaluate_transfer(encode, data)
    metrics = {"accuracy": score.accuracy} | ({"f1": score.f1} if score.f1 is not None else {})
    split = "test" if data.task.parts else "all"
    return TaskResult(data.task.name, "transfer", metrics, score.n, "rows", split, data.task.protocol)


def _retrieval_result(encode: Encode, collection: retrieval.Collection) -> TaskResult:
    metrics = retrieval.evaluate_retrieval(encode, collection)
    protocol = f"{len(collection.documents):,} docs"
    return TaskResult(
        collection.name, "retrieval", metrics, len(collection.queries), "queries", collection.split, protocol,
        {"documents": len(collection.documents)},
    )  # fmt: skip


def _speed(timed: TimedEncoder) -> dict[str, float]:
    rate = timed.encoded / max(timed.seconds, 1e-9)
    return {"sentences": timed.encoded, "seconds": timed.seconds, "sentences_per_second": rate}
