"""What was measured, with the protocol beside each score: a table for the terminal, `report.json`, markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from simcse import __version__
from simcse.display.tables import Table, markdown, number, terminal
from simcse.errors import ConfigError
from simcse.evaluation.resampling import Floats, percentiles
from simcse.files import check_writable, replaced_file

__all__ = ["TITLES", "Report", "TaskResult", "check_output", "versions"]

HEADINGS = {
    "f1": "F1",
    "map": "MAP",
    "mrr@10": "MRR@10",
    "n_positive": "positive pairs",
    "n_sentences": "distinct sentences",
    "name": "measured on",
    "ndcg@10": "nDCG@10",
    "pearson": "Pearson",
    "recall@1": "R@1",
    "recall@10": "R@10",
    "recall@100": "R@100",
    "spearman": "Spearman",
}
TITLES = {
    "sts": "Semantic textual similarity (correlation x 100)",
    "pairs": "Own scored pairs (correlation x 100)",
    "transfer": "Transfer (logistic regression on frozen vectors, %)",
    "retrieval": "Retrieval (exact cosine search)",
}


@dataclass(frozen=True)
class TaskResult:
    """One task's scores and how they came about."""

    name: str
    kind: str
    """sts | pairs | transfer | retrieval: tasks of a kind share a table."""
    metrics: dict[str, float]
    """The headline first."""
    n: int
    unit: str
    """What n counts: pairs, sentences, queries."""
    split: str
    protocol: str
    """In a few words: `all sub-sets together`, `10-fold`."""
    details: dict[str, Any] = field(default_factory=dict)
    """What else goes to report.json, such as the sub-sets."""
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Metric -> the ends of its 95 % bootstrap interval over the items that n counts."""
    drawn: Floats | None = field(default=None, repr=False, compare=False)
    """(R,) resampled headlines, of which the interval of an average is made."""


@dataclass(frozen=True)
class Report:
    """All that one evaluation measured."""

    model: str
    protocol: dict[str, Any]
    results: list[TaskResult] = field(default_factory=list)
    geometry: dict[str, Any] | None = None
    averaged: tuple[str, ...] = ()
    """Tasks that the average may include: those of them that were measured are averaged, by their headline."""
    speed: dict[str, float] = field(default_factory=dict)
    """sentences, seconds, sentences_per_second of the encoder alone."""

    @property
    def average_of(self) -> list[str]:
        """The measured tasks among `averaged`."""
        return [result.name for result in self.results if result.name in self.averaged]

    @property
    def average(self) -> float | None:
        """Mean of their headlines; None without any."""
        picked = [next(iter(r.metrics.values())) for r in self.results if r.name in self.averaged]
        return sum(picked) / len(picked) if picked else None

    @property
    def average_interval(self) -> tuple[float, float] | None:
        """The ends of its 95 % interval; None without any, or where a task has none."""
        drawn = [result.drawn for result in self.results if result.name in self.averaged]
        known = [values for values in drawn if values is not None]
        return percentiles(np.mean(known, axis=0), 0.95) if known and len(known) == len(drawn) else None

    def to_dict(self) -> dict[str, Any]:
        """The content of `report.json`: all scores unrounded."""
        tasks = {
            r.name: {
                **r.metrics, "intervals": {name: list(ends) for name, ends in r.intervals.items()},
                "n": r.n, "unit": r.unit, "split": r.split, "protocol": r.protocol, **r.details,
            }
            for r in self.results
        }  # fmt: skip
        interval = self.average_interval
        return {
            "model": self.model,
            "protocol": self.protocol,
            "tasks": tasks,
            "average": self.average,
            "average_interval": None if interval is None else list(interval),
            "average_of": self.average_of,
            "geometry": self.geometry,
            "speed": self.speed,
            "versions": versions(),
        }

    def to_markdown(self) -> str:
        """The same tables as in the terminal, as GitHub markdown."""
        return "\n\n".join([f"# {self.model}", *map(markdown, self._tables()), *self._notes()]) + "\n"

    def to_terminal(self) -> str:
        """Tables of at most 80 columns, without colour codes."""
        return terminal(self.model, *self._tables(), *self._notes())

    def write(self, path: str | Path) -> list[Path]:
        """Write `.json` or `.md`, or both (`report.json`, `report.md`) into a folder; each replaces an older one whole.

        Raises:
            ConfigError: another extension.
        """
        check_output(path)
        path = Path(path)
        targets = [path] if path.suffix else [path / "report.json", path / "report.md"]
        for target in targets:
            text = self.to_markdown() if target.suffix == ".md" else json.dumps(self.to_dict(), indent=2) + "\n"
            with replaced_file(target) as new:
                new.write_text(text, encoding="utf-8")
        return targets

    def _tables(self) -> list[Table]:
        """One of each kind."""
        tables = []
        for kind, title in TITLES.items():
            group = [result for result in self.results if result.kind == kind]
            if group:
                tables.append(Table(*self._table(group), title))
                if kind == "retrieval":
                    tables.append(interval_table(group))
        if self.geometry:
            single = {k: v for k, v in self.geometry.items() if isinstance(v, float | int | str)}  # no spectrum
            rows = [[HEADINGS.get(name, name.replace("_", " ")), number(value)] for name, value in single.items()]
            tables.append(Table(["measure", "value"], rows, "Geometry"))
        return tables

    def _table(self, group: Sequence[TaskResult]) -> tuple[list[str], list[list[str]]]:
        metrics = list(dict.fromkeys(name for result in group for name in result.metrics))
        columns = ["task", "split", "protocol", group[0].unit, *(HEADINGS.get(name, name) for name in metrics)]
        rows = [
            [r.name, r.split, r.protocol, f"{r.n:,}", *(number(r.metrics.get(name)) for name in metrics)] for r in group
        ]
        within = [result.name for result in group if result.name in self.averaged]
        if len(within) > 1:
            label = f"average of {len(within)}"
            rows.append([label, "", "", "", number(self.average), *[""] * (len(metrics) - 1)])
        if group[0].kind != "retrieval":  # which has too many metrics for a table of 80 columns
            columns.append("95 % interval")
            of_task = [span(result.intervals.get(metrics[0])) for result in group]
            rows = [[*row, end] for row, end in zip(rows, [*of_task, span(self.average_interval)], strict=False)]
        return columns, rows

    def _notes(self) -> list[str]:
        notes = [self.protocol["transfer"]] if "transfer" in self.protocol else []
        if not self.speed:
            return notes
        speed = self.speed
        return [
            *notes,
            f"{speed['sentences']:,.0f} sentences encoded, distinct ones once, in {speed['seconds']:.1f} s: "
            f"{speed['sentences_per_second']:,.0f} sentences/s",
        ]


def interval_table(group: Sequence[TaskResult]) -> Table:
    """The 95 % intervals of retrieval, but for two metrics that report.json alone has."""
    metrics = ("ndcg@10", "mrr@10", "recall@10", "recall@100")
    rows = [[result.name, *(span(result.intervals.get(name)) for name in metrics)] for result in group]
    return Table(["task", *(HEADINGS[name] for name in metrics)], rows, "95 % intervals over the queries")


def span(ends: tuple[float, float] | None) -> str:
    """`72.10 to 74.35`; empty for None."""
    return "" if ends is None else " to ".join(map(number, ends))


def check_output(path: str | Path | None) -> None:
    """Raise a ConfigError or OSError where `Report.write` could not write; to be called before hours of measuring."""
    if path is None:
        return
    path = Path(path)
    if path.suffix not in ("", ".json", ".md"):
        raise ConfigError(f"output: {path} has the extension {path.suffix}, expected .json, .md or a folder")
    if path.suffix and path.is_dir():
        raise ConfigError(f"output: {path} is a folder, expected a file; remove it or choose another name")
    if not path.suffix and path.is_file():
        raise ConfigError(f"output: {path} is a file, expected a folder, or a name that ends in .json or .md")
    check_writable(path)


def versions() -> dict[str, str]:
    """Of Python and the packages that a score can depend on."""
    import platform

    found = {"python": platform.python_version(), "simcse": __version__}
    for package in ("torch", "transformers", "tokenizers", "numpy", "scipy", "scikit-learn"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
