"""Runs in tables of 80 columns: what came out, and in which options they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from simcse.display.tables import WIDTH, Table, terminal

__all__ = ["runs_table"]

NAME, CELL = 24, 16  # characters of a run's name and of a value; longer ones are cut


def runs_table(rows: Sequence[Mapping[str, Any]], differ: Sequence[str], folder: Path) -> str:
    """What came out, then as many options as fit; what is cut or left out is said below.

    Args:
        rows: of `simcse.commands.runs`.
        differ: names of the options to show, the most telling first.
        folder: below which the runs lie.
    """
    places = [Path(row["run"]) for row in rows]
    names = [_end(str(place.relative_to(folder)) if place != folder else place.name) for place in places]
    columns = {
        "run": names,
        "dev": [_plus_minus(row["dev"]) for row in rows],
        "average": [_plus_minus(row["average"]) for row in rows],
        "time": [_duration(row["seconds"]) for row in rows],
        "state": [row["state"] for row in rows],
    }
    scores = {head: cells for head, cells in columns.items() if any(cells)}
    parts: list[Table | str] = [Table(list(scores), list(zip(*scores.values(), strict=True)))]
    options, left_out, is_cut = _options(rows, differ, names)
    if options:
        parts.append(Table(["run", *options], list(zip(names, *options.values(), strict=True)), "in what they differ"))
    if left_out:
        parts.append(f"They differ in {', '.join(left_out)}, too, which did not fit.")
    if left_out or is_cut:
        parts.append("--json has everything, uncut.")
    return terminal(*parts)


def _options(
    rows: Sequence[Mapping[str, Any]], differ: Sequence[str], names: Sequence[str]
) -> tuple[dict[str, list[str]], list[str], bool]:
    """Heading -> cells of the options that fit beside the names; those that do not; whether a cell was cut."""
    last = [name.rsplit(".", 1)[-1] for name in differ]
    found: dict[str, list[str]] = {}
    left_out, is_cut = [], any(name.startswith("…") for name in names)
    room = WIDTH - 2 - max(map(len, names))  # the table begins with a blank
    for name, short in zip(differ, last, strict=True):
        head = short if last.count(short) == 1 else name
        whole = [_worded(row["options"][name]) for row in rows]
        cells = [cell if len(cell) <= CELL else f"{cell[: CELL - 1]}…" for cell in whole]
        width = max(map(len, (head, *cells))) + 2
        if width > room:
            left_out.append(name)
            continue
        found[head] = cells
        room -= width
        is_cut |= cells != whole
    return found, left_out, is_cut


def _end(name: str) -> str:
    return name if len(name) <= NAME else f"…{name[1 - NAME :]}"


def _plus_minus(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    return f"{found['mean']:.2f}" + ("" if found["std"] is None else f" ± {found['std']:.2f}")


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes = seconds / 60
    return f"{seconds:.0f} s" if seconds < 100 else f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def _worded(value: Any) -> str:
    """Of paths the last part, of sources their files."""
    if isinstance(value, list):
        return " ".join(_worded(one.get("train", one) if isinstance(one, dict) else one) for one in value) or "none"
    if isinstance(value, str) and "/" in value:
        return value.rstrip("/").rsplit("/", 1)[-1]
    return "none" if value is None or value == "" else f"{value:g}" if isinstance(value, float) else str(value)
