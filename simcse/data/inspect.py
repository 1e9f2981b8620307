"""What is wrong with my data: counts, duplicates, lengths, blanks, odd characters, before hours of training."""

from __future__ import annotations

import random
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import chain, combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np

from simcse.data.columns import chosen_columns, roles_of
from simcse.data.groups import group_rows
from simcse.data.lengths import LONGEST, SAMPLE, Counts
from simcse.data.tabular import Row, check_file, format_of, lines, named_rows
from simcse.display.tables import Table, bullet, number, terminal
from simcse.errors import DataError, shown

__all__ = ["ColumnFindings", "Example", "Findings", "as_json", "inspect", "render"]

PERCENTILES = (0, 5, 50, 95, 99, 100)
LONG = 2000  # characters; far beyond what any sentence encoder reads
EXAMPLES = 3  # shown of each kind
MARKUP = re.compile(r"</?[a-zA-Z][\w-]*(\s[^<>]*)?/?>|&(amp|lt|gt|quot|nbsp|#\d+);")
# UTF-8 read as latin-1 or cp1252: Ã or Â or â followed by what the second byte becomes
MOJIBAKE = re.compile("[\u00c3\u00c2][\u0080-\u00bf]|\u00e2[\u0080\u20ac]")

DEFECTS = {
    "blank": "blank: an error in training, unless blank_lines=skip",
    "not text": "no text: null or a number",
    "control characters": "control characters: leftovers of a conversion",
    "broken encoding": "broken encoding: U+FFFD, or UTF-8 that was read as latin-1; convert the source again",
    "markup": "HTML or XML markup: strip it",
    "very long": f"over {LONG:,} characters: cut at max_length in training; split documents into sentences",
    "no letters": "no letter and no digit: carries no meaning",
}


@dataclass(frozen=True)
class Example:
    """A row that shows a finding."""

    line: int
    text: str


@dataclass(frozen=True)
class ColumnFindings:
    """What stands in one column."""

    name: str
    distinct: int
    """Different texts, blank ones apart."""
    duplicates: int
    """Rows whose text stood in the column before."""
    most_frequent: tuple[str, int]
    """The text that occurs most often, and how often."""
    words: dict[int, int]
    """Percentile -> length in words, split at white space."""
    characters: dict[int, int]
    """Percentile -> length in characters."""
    defects: dict[str, int]
    """Kind of defect (a key of `DEFECTS`) -> rows."""
    examples: dict[str, list[Example]]
    """Kind of defect -> the first rows that have it."""
    sample: list[str] = field(repr=False)
    """At most 2,000 of its texts, drawn evenly, to count their tokens; cut at 20,000 characters."""


@dataclass(frozen=True)
class Findings:
    """What `inspect` found; `render` puts it in words."""

    source: str
    rows: int
    columns: list[ColumnFindings]
    duplicate_rows: int
    """Rows that equal an earlier one in all columns."""
    equal: dict[tuple[str, str], int]
    """Two columns -> rows in which they have the same text."""
    equal_examples: dict[tuple[str, str], list[Example]]

    @property
    def warnings(self) -> list[str]:
        """What should be looked into, a sentence each; empty for clean data."""
        return _warnings(self)


def inspect(
    source: str | Path, *, columns: Sequence[str] | None = None, kind_of_rows: Literal["roles", "any_two"] = "roles"
) -> Findings:
    """Read a training file to its end and count what may harm.

    Memory grows by some 200 bytes for each distinct row, whatever its length.

    Args:
        source: as for `read_training`, files only.
        columns: as for `read_training`.
        kind_of_rows: roles, or any_two: columns of one meaning, as of `read_groups`.

    Raises:
        DataError: the file is missing, empty, of unknown format, not UTF-8, or has rows of another width than its
            header: what training would stop at too, except for blank lines and values, which are counted here.
    """
    path = Path(source)
    check_file(path)
    kind = format_of(path)
    if kind_of_rows == "any_two":
        grouped = group_rows(path, columns)
        first = next(grouped, None)
        rows: Iterable[Row] = () if first is None else chain([first], grouped)
        names = [] if first is None else [f"text{place + 1}" for place in range(len(first[1]))]
    elif kind == "txt":
        names = roles_of(1)
        rows = ((number, (line,)) for number, line in enumerate(lines(path), 1))
    else:
        header = named_rows(path)[0]
        picked = list(columns) if columns else chosen_columns(f"{path}:1", header)
        rows = named_rows(path, columns=picked)[1]
        names = roles_of(len(picked))
    findings = _count(str(path), names, rows)
    if not findings.rows:
        raise DataError(f"{path}: is empty; expected at least one row")
    return findings


class _Column:
    """Running counts of one column."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seen: Counter[bytes] = Counter()
        self.frequent: dict[bytes, str] = {}  # texts that were seen twice
        self.words: Counter[int] = Counter()
        self.characters: Counter[int] = Counter()
        self.defects: Counter[str] = Counter()
        self.examples: dict[str, list[Example]] = {}
        self.sample: list[str] = []
        self._filled = 0
        self._random = random.Random(0)  # the same sample each time

    def add(self, line: int, text: object) -> bytes:
        """Count one value; returns a digest of it."""
        for defect in _defects(text):
            self.defects[defect] += 1
            if len(examples := self.examples.setdefault(defect, [])) < EXAMPLES:
                examples.append(Example(line, text if isinstance(text, str) else shown(text)))
        if not isinstance(text, str) or not text.strip():
            return b""
        digest = blake2b(text.encode(), digest_size=16).digest()
        self.seen[digest] += 1
        if self.seen[digest] == 2:
            self.frequent[digest] = text
        self._draw(text)
        self.words[len(text.split())] += 1
        self.characters[len(text)] += 1
        return digest

    def _draw(self, text: str) -> None:
        """Keep a sample in which each text seen so far is as likely (reservoir sampling)."""
        self._filled += 1
        place = self._random.randrange(self._filled) if self._filled > SAMPLE else len(self.sample)
        if place < SAMPLE:  # half of a surrogate pair, which training refuses, has no tokens
            self.sample[place : place + 1] = [text[:LONGEST].encode(errors="replace").decode()]

    def findings(self) -> ColumnFindings:
        top = max(self.frequent, key=self.seen.__getitem__, default=b"")
        return ColumnFindings(
            name=self.name,
            distinct=len(self.seen),
            duplicates=self.seen.total() - len(self.seen),
            most_frequent=(self.frequent.get(top, ""), self.seen[top] if top else min(1, len(self.seen))),
            words=_percentiles(self.words),
            characters=_percentiles(self.characters),
            defects=dict(self.defects),
            examples=self.examples,
            sample=self.sample,
        )


def _count(source: str, names: Sequence[str], rows: Iterable[Row]) -> Findings:
    columns = [_Column(name) for name in names]
    pairs = list(combinations(range(len(names)), 2))
    equal: Counter[tuple[str, str]] = Counter()
    equal_examples: dict[tuple[str, str], list[Example]] = {}
    seen_rows: set[bytes] = set()
    n = duplicate_rows = 0
    for line, values in rows:
        n += 1
        cells = values or ("",) * len(names)
        digests = [column.add(line, value) for column, value in zip(columns, cells, strict=True)]
        if not any(digests):
            continue
        row = b"".join(digests)
        duplicate_rows += row in seen_rows
        seen_rows.add(row)
        for i, j in pairs:
            if digests[i] and digests[i] == digests[j]:
                key = names[i], names[j]
                equal[key] += 1
                if len(examples := equal_examples.setdefault(key, [])) < EXAMPLES:
                    examples.append(Example(line, cells[i]))
    return Findings(source, n, [c.findings() for c in columns], duplicate_rows, dict(equal), equal_examples)


def _defects(text: object) -> list[str]:
    if not isinstance(text, str):
        return ["not text"]
    if not text.strip():
        return ["blank"]
    found = []
    # white space is no control character here, though Unicode files tab and line feed under them
    if not text.isprintable() and any(unicodedata.category(c) == "Cc" and not c.isspace() for c in text):
        found.append("control characters")
    if "\ufffd" in text or MOJIBAKE.search(text):
        found.append("broken encoding")
    if MARKUP.search(text):
        found.append("markup")
    if len(text) > LONG:
        found.append("very long")
    if not any(map(str.isalnum, text)):
        found.append("no letters")
    return found


def _percentiles(lengths: Counter[int]) -> dict[int, int]:
    """Percentile -> length: the shortest length that at least so many per cent of the texts do not exceed."""
    if not lengths:
        return {}
    result, total, below = {}, lengths.total(), 0
    waiting = list(PERCENTILES)
    for length, count in sorted(lengths.items()):
        below += count
        while waiting and below * 100 >= waiting[0] * total:
            result[waiting.pop(0)] = length
    return result


def _warnings(findings: Findings) -> list[str]:
    found = []
    for (left, right), count in findings.equal.items():
        where = _lines(findings.equal_examples[left, right])
        if right != "hard_negative":
            what = "pair a text with itself" if right == "positive" else f"have {left} = {right}"
            found.append(f"{count:,} rows {what} ({where}): they teach what dropout alone teaches")
        else:
            found.append(f"{count:,} rows have {left} = {right} ({where}): pulled two ways at once; delete them")
    for column in findings.columns:
        for defect, count in sorted(column.defects.items(), key=lambda item: -item[1]):
            found.append(f"{count:,} rows of {column.name}: {DEFECTS[defect]} ({_lines(column.examples[defect])})")
        filled = column.distinct + column.duplicates
        text, count = column.most_frequent
        if filled > 1 and column.distinct == 1:
            found.append(f"{column.name} is always {shown(text)}: nothing can be learned from it")
        elif filled >= 100 and count > 0.1 * filled:
            found.append(f"{column.name} is {shown(text)} in {count:,} of {filled:,} rows: nearly constant")
    if findings.duplicate_rows:
        found.append(
            f"{findings.duplicate_rows:,} rows repeat an earlier row: they weigh more, and meet as false negatives"
        )
    return found


def _lines(examples: Sequence[Example]) -> str:
    return f"line{'s' if len(examples) > 1 else ''} {', '.join(str(example.line) for example in examples)}"


def render(findings: Findings, tokens: Mapping[str, Counts] | None = None) -> str:
    """The findings as text of at most 80 columns: two tables of the columns, then what to look into.

    Args:
        findings: of `inspect`.
        tokens: column -> numbers of tokens of its sample; see `lengths.token_counts`.
    """
    counts, lengths = [], []
    for column in findings.columns:
        counts.append([column.name, number(column.distinct), number(column.duplicates)])
        units = _lengths(column, tokens).items()
        lengths += [[column.name, unit, *map(number, spread.values())] for unit, spread in units if spread]
    tables = terminal(
        Table(["column", "distinct", "repeated"], counts, f"{findings.source}: {findings.rows:,} rows"),
        Table(["column", "in", *map(_heading, PERCENTILES)], lengths, "lengths"),
    )
    return tables + "\n" + ("\n".join(map(bullet, findings.warnings)) or "no issues found")


def as_json(findings: Findings, tokens: Mapping[str, Counts] | None = None) -> dict[str, Any]:
    """The same for programs; `lengths` are by unit and percentile, and `warnings` are the sentences of `render`."""
    columns = [
        {
            "name": column.name,
            "distinct": column.distinct,
            "repeated": column.duplicates,
            "lengths": _lengths(column, tokens),
            "defects": {
                defect: {"rows": rows, "lines": [example.line for example in column.examples[defect]]}
                for defect, rows in column.defects.items()
            },
        }
        for column in findings.columns
    ]
    equal = [{"columns": list(pair), "rows": rows} for pair, rows in findings.equal.items()]
    return {
        "source": findings.source, "rows": findings.rows, "duplicate_rows": findings.duplicate_rows,
        "columns": columns, "equal": equal, "warnings": findings.warnings,
    }  # fmt: skip


def _lengths(column: ColumnFindings, tokens: Mapping[str, Counts] | None) -> dict[str, dict[int, int]]:
    """Unit -> percentile -> length; tokens among the units where they were counted."""
    units = {"words": column.words, "characters": column.characters}
    if tokens is not None and len(found := tokens[column.name]):
        values = np.percentile(found, PERCENTILES, method="inverted_cdf")
        units["tokens"] = dict(zip(PERCENTILES, map(int, values), strict=True))
    return units


def _heading(percentile: int) -> str:
    return {0: "least", 50: "median", 100: "longest"}.get(percentile, f"{percentile} %")
