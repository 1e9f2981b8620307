"""Names of tasks and files in, one report out: what `simcse evaluate` runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simcse.data.pairs import ScoredPairs
from simcse.data.readers import read_scored_pairs
from simcse.data.tabular import check_file, delimited_rows, format_of, named_rows
from simcse.errors import ConfigError, DataError, did_you_mean
from simcse.evaluation import retrieval, sts, transfer
from simcse.evaluation.geometry import evaluate_geometry
from simcse.evaluation.items import (
    KINDS,
    RESAMPLES,
    Items,
    pair_items,
    query_intervals,
    query_items,
    row_items,
    transfer_intervals,
)
from simcse.evaluation.pairs import check_gold, correlate
from simcse.evaluation.report import TITLES, Report, TaskResult
from simcse.evaluation.resampling import Floats, percentiles
from simcse.vectors import CachedEncoder, Encode, TimedEncoder

__all__ = ["GROUPS", "Plan", "Task", "evaluate", "read_items", "read_tasks", "task_names"]

GROUPS = {
    "sts": (*sts.SEVEN, "STS-B-dev"),
    "transfer": tuple(transfer.TASKS),
    "japanese": ("JSTS", "JSICK"),
}
ALL = ("sts", "transfer", "retrieval", "geometry")
GEOMETRY_ON = "STS-B-dev"  # the paper's choice for alignment and uniformity


def task_names() -> list[str]:
    """Every name that the option tasks knows: groups, then tasks."""
    return list(dict.fromkeys(["all", *ALL, "japanese", *sts.TASKS, *transfer.TASKS]))


@dataclass(frozen=True)
class Measured:
    """What a task found; fields as of `TaskResult`."""

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    details: dict[str, Any] = field(default_factory=dict)
    drawn: Floats | None = None


@dataclass(frozen=True)
class Task:
    """An `evaluators.Evaluator` with what a report says beside its metrics."""

    items: Items
    """What it consists of, for a comparison of encoders."""
    measure: Callable[[Encode], Measured]
    split: str
    protocol: str
    primary_metric: str
    greater_is_better: bool = True

    @property
    def name(self) -> str:
        """Of the task."""
        return self.items.name

    @property
    def kind(self) -> str:
        """sts | pairs | transfer | retrieval, as in `TaskResult`."""
        return self.items.kind

    @property
    def n(self) -> int:
        """Pairs, rows, queries."""
        return self.items.n

    def __call__(self, encode: Encode) -> dict[str, Any]:
        """Metrics by name."""
        return self.measure(encode).metrics

    def result(self, encode: Encode) -> TaskResult:
        """Measure, for a report."""
        found, unit = self.measure(encode), KINDS[self.kind][0]
        return TaskResult(
            self.name, self.kind, found.metrics, self.n, unit, self.split, self.protocol, found.details,
            found.intervals, found.drawn,
        )  # fmt: skip


@dataclass
class Plan:
    """What is to be measured, all of it read before the first sentence is encoded: a missing file costs no wait."""

    tasks: list[Task] = field(default_factory=list)
    geometry: ScoredPairs | None = None
    sentences: list[str] = field(default_factory=list)
    """Of all STS tasks: they share many, and one call makes the best batches."""


def evaluate(
    encode: Encode,
    tasks: Sequence[str] | Plan,
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
            (a, b, score) or one of (query, document); or what `read_tasks` made of these.
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
    plan = tasks if isinstance(tasks, Plan) else read_tasks(tasks, data_dir, aggregation)
    timed = TimedEncoder(encode)
    once = CachedEncoder(timed)  # tasks share sentences; the documents of a corpus are too many to be kept
    results = []
    if plan.sentences:
        on_task(", ".join(task.name for task in plan.tasks if task.kind == "sts"))
        once(plan.sentences)
    for task in plan.tasks:
        if task.kind != "sts":
            on_task(task.name)
        results.append(task.result(timed if task.kind == "retrieval" else once))
    geometry = None
    if plan.geometry is not None:
        on_task("geometry")
        geometry = dataclasses.asdict(evaluate_geometry(once, plan.geometry))
    protocol = {"aggregation": aggregation, "similarity": "cosine", **(settings or {})}
    if any(task.kind == "sts" for task in plan.tasks):
        protocol["sts_text"] = "as in SentEval's files (lower-cased and tokenised, SICK and Japanese raw)"
    if any(task.kind == "transfer" for task in plan.tasks):
        protocol["transfer"] = transfer.NOTE
    if plan.tasks:
        protocol["intervals"] = f"95 %, bootstrap over pairs, test rows or queries, {RESAMPLES:,} resamples"
    return Report(model, protocol, results, geometry, averaged=sts.SEVEN, speed=_speed(timed))


def read_tasks(tasks: Sequence[str], data_dir: str | Path | None = None, aggregation: sts.Aggregation = "all") -> Plan:
    """Read the data of tasks; arguments and errors as of `evaluate`."""
    data_dir = None if data_dir is None else Path(data_dir)
    sts.check_aggregation(aggregation)
    plan = Plan()
    loaded: dict[str, list[ScoredPairs]] = {}  # STS sub-sets
    collections = {} if data_dir is None else _beir_folders(data_dir)
    for name in dict.fromkeys(_expanded(tasks)):
        own = Path(name)
        if found := sts.find_task(name):
            loaded[found.name] = sts.load_task(found, _needed(data_dir, name))
            plan.tasks.append(_sts_task(found, loaded[found.name], aggregation))
            plan.sentences += [text for pairs in loaded[found.name] for text in (*pairs.a, *pairs.b)]
        elif name in transfer.TASKS:
            plan.tasks.append(_transfer_task(transfer.load_transfer(name, _needed(data_dir, name))))
        elif name == "geometry":
            [plan.geometry] = loaded.get(GEOMETRY_ON) or sts.load_task(GEOMETRY_ON, _needed(data_dir, name))
        elif name == "retrieval" and not collections:
            raise DataError(
                f"{_needed(data_dir, name) / 'ir'}: no */corpus.jsonl there, nor in the folder above it; "
                "put a BEIR folder there, or leave retrieval out of the tasks"
            )
        elif name == "retrieval":
            plan.tasks += [_retrieval_task(retrieval.load_beir(folder)) for folder in collections.values()]
        elif name in collections and not own.exists():
            plan.tasks.append(_retrieval_task(retrieval.load_beir(collections[name])))
        elif own.is_dir():
            plan.tasks.append(_retrieval_task(retrieval.load_beir(own)))
        elif own.exists() or own.suffix:
            plan.tasks.append(_own_task(own))
        else:
            raise ConfigError(
                f"tasks: found {name}, no such task or file{did_you_mean(name, task_names())}; "
                f"known are {', '.join(task_names())}, a file, a BEIR folder"
            )
    plan.tasks.sort(key=lambda task: list(TITLES).index(task.kind))
    return plan


def read_items(
    file: str | None, data_dir: str | None, tasks: Sequence[str], default_dir: str | None = None
) -> dict[str, list[Items]]:
    """What encoders are compared on, by kind: a file or BEIR folder, or tasks as of `evaluate`; default the paper's.

    Raises:
        ConfigError: neither is given, or both; the task geometry, which has no items.
        DataError: a file is missing or damaged.
    """
    if file is not None:
        if data_dir is not None or tasks:
            raise ConfigError("the option data names one file; leave out data_dir and the option tasks, or that file")
        tasks = [file]
    folder = data_dir or default_dir
    if folder is None and not tasks:
        raise ConfigError(
            "no evaluation data given: pass data=FILE of (a, b, score), or "
            "SentEval's folder as data_dir (or SIMCSE_DATA)"
        )
    groups = {"sts": sts.SEVEN, "all": (*sts.SEVEN, "transfer", "retrieval")}  # no development set, and no geometry
    plan = read_tasks([name for task in tasks or ("sts",) for name in groups.get(task, (task,))], folder)
    if plan.geometry is not None:
        raise ConfigError("tasks: geometry is no score of pairs, rows or queries; simcse evaluate measures it")
    by_kind: dict[str, list[Items]] = {}
    for task in plan.tasks:
        by_kind.setdefault(task.kind, []).append(task.items)
    return by_kind


def _expanded(tasks: Sequence[str]) -> Iterable[str]:
    """Tasks in place of groups, by the names that they have here."""
    for task in tasks:
        for group in ALL if task == "all" else (task,):
            for name in GROUPS.get(group, (group,)):
                found = sts.find_task(name)
                yield found.name if found else name.upper() if name.upper() in transfer.TASKS else name


def _needed(data_dir: Path | None, task: str) -> Path:
    if data_dir is None:
        raise ConfigError(
            f"tasks={task} needs data_dir (or SIMCSE_DATA): SentEval's folder, or the one above it; simcse data sts "
            "fetches it"
        )
    return data_dir


def _beir_folders(data_dir: Path) -> dict[str, Path]:
    """Name -> folder of each collection in the data folder, in its `ir`, or in the `ir` beside SentEval's root."""
    places = (data_dir, data_dir / "ir", data_dir.parent / "ir")
    return {file.parent.name: file.parent for place in places for file in sorted(place.glob("*/corpus.jsonl"))}


def _own_task(path: Path) -> Task:
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
        return _retrieval_task(retrieval.load_query_pairs(path))
    pairs = read_scored_pairs(path)
    items = pair_items(path.name, [pairs], kind="pairs")

    def measure(encode: Encode) -> Measured:
        cosines = items.measure(encode)
        metrics = dict(zip(("spearman", "pearson"), correlate(cosines, pairs.scores, pairs.name), strict=True))
        return Measured(metrics, {"spearman": percentiles(items.drawn(cosines), 0.95)})

    return Task(items, measure, "file", "cosine", "spearman")


def _sts_task(task: sts.StsTask, subsets: list[ScoredPairs], aggregation: sts.Aggregation) -> Task:
    for subset in subsets:
        check_gold(subset.scores, subset.name)
    items = pair_items(task.name, subsets, aggregation)

    def measure(encode: Encode) -> Measured:
        score = sts.score_sts(encode, {task.name: subsets}, aggregation)[task.name]
        drawn = items.drawn(items.measure(encode))
        metrics = {"spearman": score.spearman, "pearson": score.pearson}
        parts = {"subsets": {key: dataclasses.asdict(part) for key, part in score.subsets.items()}}
        return Measured(metrics, {"spearman": percentiles(drawn, 0.95)}, parts if score.subsets else {}, drawn)

    protocol = f"{aggregation}, {len(subsets)} sub-sets" if len(subsets) > 1 else "cosine"
    return Task(items, measure, task.split, protocol, "spearman")


def _transfer_task(data: transfer.TransferSet) -> Task:
    items = row_items(data)

    def measure(encode: Encode) -> Measured:
        score = transfer.evaluate_transfer(encode, data)
        metrics = {"accuracy": score.accuracy} | ({"f1": score.f1} if score.f1 is not None else {})
        return Measured(metrics, transfer_intervals(score, items.name))

    return Task(items, measure, "test" if data.task.parts else "all", data.task.protocol, "accuracy")


def _retrieval_task(collection: retrieval.Collection) -> Task:
    documents = len(collection.documents)

    def measure(encode: Encode) -> Measured:
        scores = retrieval.query_scores(encode, collection)  # (queries, 6)
        metrics = dict(zip(retrieval.METRICS, scores.mean(axis=0).tolist(), strict=True))
        intervals = query_intervals(scores, collection.name)
        return Measured(metrics, intervals, {"documents": documents})

    return Task(query_items(collection), measure, collection.split, f"{documents:,} docs", "ndcg@10")


def _speed(timed: TimedEncoder) -> dict[str, float]:
    rate = timed.encoded / max(timed.seconds, 1e-9)
    return {"sentences": timed.encoded, "seconds": timed.seconds, "sentences_per_second": rate}
