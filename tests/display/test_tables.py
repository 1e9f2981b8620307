"""Tables fit the terminal whatever stands in them, and markdown has the same rows."""

from __future__ import annotations

import math

import pytest

from simcse.display.summary import summary
from simcse.display.tables import WIDTH, Table, bullet, markdown, number, terminal

TABLE = Table(["task", "Spearman"], [["STS12 [test]", "72.37"], ["average of 7", "76.25"]], "Correlation")


def test_a_table_is_titled_and_the_average_stands_apart() -> None:
    """Brackets, which rich reads as markup, come out as they are."""
    lines = terminal(TABLE).splitlines()
    title, heading, rule, row, average = filter(None, lines)
    assert title == "Correlation"
    assert heading.split() == ["task", "Spearman"]
    assert set(rule.strip()) == {"─"}
    assert row.split() == ["STS12", "[test]", "72.37"]
    assert lines[lines.index(row) + 1] == ""
    assert average.split() == ["average", "of", "7", "76.25"]
    assert row.index("72.37") + 5 == heading.index("Spearman") + 8  # numbers end where their heading ends


def test_whatever_is_long_is_folded() -> None:
    wide = Table(["task", *"abcdef"], [["x" * 200, *["123456789012345"] * 6]], "y" * 100)
    text = terminal("z" * 300, wide, "a paragraph " * 20, bullet("a point " * 30))
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "".join(text.split()).count("z") == 300
    assert "…" not in text


def test_markdown_has_the_same_cells() -> None:
    assert markdown(TABLE).splitlines() == [
        "## Correlation", "", "| task | Spearman |", "| --- | ---: |", "| STS12 [test] | 72.37 |",
        "| average of 7 | 76.25 |",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (72.368, "72.37"), (-0.1234, "-0.123"), (0.000123, "0.00012"), (0.0, "0.000"),
     (9.9999, "10.000"), (math.nan, "nan"), (12020, "12,020"),
     ("dev", "dev")],
)  # fmt: skip
def test_numbers(value: object, text: str) -> None:
    assert number(value) == text


def test_a_run_is_summed_up_before_and_after() -> None:
    report = {
        "model": "runs/x/best", "dev": "dev.tsv", "average": None, "before": {"spearman": 60.5},
        "geometry": {"alignment": 0.25, "uniformity": -2.0}, "tasks": {"dev.tsv": {"spearman": 71.239, "n": 1500}},
    }  # fmt: skip
    lines = [line.split() for line in summary(report).splitlines()]
    assert ["dev.tsv", "Spearman", "x", "100", "60.50", "71.24"] in lines
    assert lines[-1] == ["the", "best", "encoder", "lies", "in", "runs/x/best"]
