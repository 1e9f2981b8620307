"""A finished run in a short table of 80 columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simcse.display.tables import Table, number, terminal

__all__ = ["NAMES", "run_rows", "summary"]

NAMES = {
    "spearman": "Spearman x 100",
    "pearson": "Pearson x 100",
    "mrr@10": "MRR@10, %",
    "recall@1": "recall@1, %",
    "recall@10": "recall@10, %",
    "alignment": "alignment (lower: closer)",
    "uniformity": "uniformity (lower: more even)",
    "loss": "loss (lower is better)",
}


def summary(report: dict[str, Any]) -> str:
    """The content of report.json, of one run or of several seeds, for the terminal."""
    several = "seeds" in report
    columns = ("mean", "95 % interval", "spread", "range") if several else ("before", "after")
    rows = seed_rows(report) if several else run_rows(report)
    if not several and any("clean" in scores for scores in report["tasks"].values()):
        columns = (*columns, "unseen pairs")
        rows = [[*row, clean_part(report["tasks"].get(row[0], {}), row[1])] for row in rows]
    where = "the runs and their mean lie in" if several else "the best encoder lies in"
    text = terminal(Table(["task", "measure", *columns], rows), f"{where} {report['model']}")
    # the commands are not folded: they are there to be pasted
    return "\n".join([text, *(f"\n{what}:\n  {line}" for what, line in report.get("next", {}).items())])


def clean_part(scores: Mapping[str, Any], measure: str) -> str:
    """Spearman on the pairs of which no sentence is near a training text, and how many of all these are."""
    if "clean" not in scores or measure != NAMES["spearman"]:
        return ""
    share = f"({100 * scores['clean']['n'] / scores['n']:.0f} %)"
    return f"{number(scores['clean'].get('spearman'))} {share}".strip()


def run_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """Each measure before and after."""
    before = report.get("before", {})
    rows = []
    for task, scores in report["tasks"].items():
        shown = {key: value for key, value in scores.items() if key in NAMES}
        if task == report.get("dev"):
            shown |= report["geometry"]
            rows += [[task, NAMES[key], number(before.get(key)), number(value)] for key, value in shown.items()]
        else:
            rows.append([task, NAMES["spearman"], "", number(scores["spearman"])])
    if report.get("average") is not None:
        rows.append(["average of 7", NAMES["spearman"], "", number(report["average"])])
    for kept, score in report.get("dimensions", {}).items():
        rows.append([f"first {kept} dimensions", NAMES[score_name(report)], "", number(score)])
    if loss := report.get("training", {}).get("loss"):
        rows.append(["training", NAMES["loss"], number(loss["first"]), number(loss["last"])])
    return rows


def score_name(report: Mapping[str, Any]) -> str:
    """What vectors of fewer dimensions are measured by: Spearman, or MRR@10 of a run that retrieves."""
    return "mrr@10" if any("mrr@10" in scores for scores in report["tasks"].values()) else "spearman"


def seed_rows(report: dict[str, Any]) -> list[list[str]]:
    """Each measure's mean, deviation and range over the seeds."""
    rows = [
        (task, key, scores[key])
        for task, scores in report["tasks"].items()
        for key in NAMES
        if isinstance(scores.get(key), dict)
    ]
    if "average" in report:
        rows.append(("average of 7", "spearman", report["average"]))
    for kept, score in report.get("dimensions", {}).items():
        rows.append((f"first {kept} dimensions", score_name(report), score))
    if loss := report.get("training", {}).get("loss"):
        rows.append(("training", "loss", loss))
    return [
        [
            task,
            NAMES[key].removesuffix(" x 100"),
            number(s["mean"]),
            f"{number(s['low'])} to {number(s['high'])}",
            f"+- {number(s['std'])}",
            f"{number(s['min'])} to {number(s['max'])}",
        ]
        for task, key, s in rows
    ]
