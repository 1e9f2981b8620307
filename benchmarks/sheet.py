"""A benchmark's rows: printed as they come, kept as JSON for this machine."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from machine import describe, machine, slug, versions

__all__ = ["FOLDER", "Sheet", "shown"]

FOLDER = Path(__file__).parent / "results"


class Sheet:
    """The rows of one benchmark on this machine.

    Args:
        benchmark: its name; rows are kept in `FOLDER/MACHINE/benchmark.json`.
        packages: whose versions matter.
        settings: sizes and options that another run needs to be the same.
        folder: of the results; None keeps nothing.
        accelerator: that computed in place of the processor.
    """

    def __init__(
        self,
        benchmark: str,
        packages: Iterable[str],
        settings: Mapping[str, Any],
        folder: Path | None = FOLDER,
        accelerator: str | None = None,
    ) -> None:
        here, packages = machine() | ({"accelerator": accelerator} if accelerator else {}), tuple(packages)
        self.file = None if folder is None else folder / slug(here) / f"{benchmark}.json"
        self.found: dict[str, Any] = {
            "benchmark": benchmark,
            "machine": here,
            "versions": versions(packages),
            "date": datetime.date.today().isoformat(),
            "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,  # of other work
            "settings": dict(settings),
            "rows": [],
            "out": {},
        }
        self.say(f"{f'{accelerator}; ' if accelerator else ''}{describe(packages)}")
        self.say(f"{benchmark}: {', '.join(f'{key} {value}' for key, value in settings.items())}")

    def say(self, line: str) -> None:
        """Print a line at once, wherever the output goes."""
        print(line, flush=True)

    def row(self, name: str, measures: Mapping[str, float], note: str | None = None) -> None:
        """Print a row and remember it.

        Args:
            name: of the contestant, the same on every machine.
            measures: what was measured, with its unit.
            note: what computed it, or what it was built as.
        """
        noted = {"note": note} if note else {}
        self.found["rows"].append({"name": name, **{key: rounded(value) for key, value in measures.items()}, **noted})
        values = ", ".join(f"{key} {shown(value)}" for key, value in measures.items())
        self.say(f"{name}{f' ({note})' if note else ''}: {values}")

    def out(self, name: str, why: str) -> None:
        """Say that a contestant is out, and why."""
        self.found["out"][name] = why
        self.say(f"{name}: {why}")

    def keep(self) -> None:
        """Write the file, if there is a row for it."""
        if self.file is None or not self.found["rows"]:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(self.found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        self.say(f"written: {self.file}; python benchmarks/results.py writes the tables")


def shown(value: float) -> str:
    """A number as people read it: four digits that count, thousands with commas."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def rounded(value: float) -> float:
    """Six digits that count: what is beyond is noise, and would fill the files."""
    return float(f"{value:.6g}")
