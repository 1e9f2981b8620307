"""Tables for the terminal and as markdown, and the numbers in them."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["WIDTH", "Table", "bullet", "markdown", "number", "terminal"]

WIDTH = 80  # columns of the terminal
WORDS = (
    "column",
    "file",
    "in",
    "measure",
    "protocol",
    "role",
    "run",
    "sha256",
    "split",
    "state",
    "task",
)  # columns that are aligned left


@dataclass(frozen=True)
class Table:
    """Columns with headings; a row whose first cell begins with `average` stands apart from those above it."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str | None = None


def terminal(*parts: Table | str) -> str:
    """Tables and paragraphs in lines of at most 80 columns, without colour codes."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(width=WIDTH, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        for part in parts:
            if isinstance(part, str):
                console.print(Text(part, overflow="fold"))
                continue
            if part.title:
                console.print(Text(part.title, overflow="fold"))
            table = RichTable(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
            for column in part.columns:
                table.add_column(column, justify="left" if column in WORDS else "right", overflow="fold")
            for row in part.rows:
                if row[0].startswith("average"):
                    table.add_section()
                table.add_row(*map(Text, row))
            console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def markdown(table: Table) -> str:
    """The same as GitHub markdown."""

    def lines() -> Iterator[str]:
        if table.title:
            yield f"## {table.title}\n"
        rule = ["---" if column in WORDS else "---:" for column in table.columns]
        yield from (f"| {' | '.join(cells)} |" for cells in (table.columns, rule, *table.rows))

    return "\n".join(lines())


def bullet(text: str) -> str:
    """A point of a list: a line, or several of at most 80 columns."""
    return textwrap.fill(text, WIDTH, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)


def number(value: Any) -> str:
    """Two decimals, three for what is small, two digits for what is less; thousands with commas; nothing for None."""
    if value is None:
        return ""
    if isinstance(value, float):
        if 0 < abs(value) < 0.01:
            return f"{value:.2g}"
        return f"{value:.{2 if abs(value) >= 10 else 3}f}" if math.isfinite(value) else str(value)
    return f"{value:,}" if isinstance(value, int) else str(value)
