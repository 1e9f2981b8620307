"""Rows of (sentence, sentence, score) to evaluate on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simcse.data.opening import name_of
from simcse.data.tabular import Row, check_file, delimited_rows, format_of, lines, named_rows
from simcse.errors import ConfigError, DataError, shown

if TYPE_CHECKING:
    import numpy as np

__all__ = ["ScoredPairs", "read_scored_pairs", "read_text_pairs"]


@dataclass(frozen=True)
class ScoredPairs:
    """Pairs of sentences with a gold similarity score."""

    a: list[str]
    b: list[str]
    scores: np.ndarray[Any, np.dtype[np.float64]]  # (n,)
    name: str
    """What errors and reports call these pairs: the file."""

    def __len__(self) -> int:
        return len(self.a)


SCORE_NAMES = ("score", "label", "gold", "similarity", "relatedness_score", "similarity_score")
PAIR_NAMES = (
    ("a", "b"), ("sentence1", "sentence2"), ("sentence_a", "sentence_b"), ("sent0", "sent1"), ("sent1", "sent2"),
    ("s1", "s2"), ("text1", "text2"), ("text_a", "text_b"),
)  # fmt: skip
STSB_COLUMNS = (5, 6, 4)  # genre, file, year, id, score, s1, s2


def read_scored_pairs(source: str | Path, *, columns: Sequence[str] | None = None) -> ScoredPairs:
    """Read (a, b, score) rows to evaluate on, from tsv, csv, jsonl or parquet.

    - tsv, csv, txt (tab-separated): without a header three columns are a, b, score. Line 1 is a header if its third
      field (in the layout below, its fifth) is no number; then `score` or `label` (also gold, similarity,
      relatedness_score) and `sentence1, sentence2` (also a, b; sentence_A, sentence_B; sent0, sent1; s1, s2; text1,
      text2) are found by name, and three columns with other names by position.
    - Seven or more tab-separated columns without a header are the STS benchmark's own layout (genre, file, year, id,
      score, s1, s2), whatever the file's extension.
    - jsonl, parquet: the same names.

    Args:
        source: the file.
        columns: names of the columns a, b, score, where the rules above do not find them.

    Raises:
        DataError: as `read_training`; and where a score is no finite number.
    """
    import numpy as np

    path = Path(source)
    if columns is not None and len(columns) != 3:
        raise ConfigError(f"columns: found {len(columns)} names, expected 3 (first sentence, second sentence, score)")
    check_file(path)
    kind = format_of(path)
    rows = _named_pairs(path, columns) if columns or kind in ("jsonl", "parquet") else _tabular_pairs(path, kind)
    a, b, scores = [], [], []
    for number, values in rows:
        if not values:
            raise DataError(f"{path}:{number}: blank; delete the line")
        first, second, score = values
        if not (isinstance(first, str) and isinstance(second, str)):
            raise DataError(f"{path}:{number}: found {shown(values)}, expected two sentences and a score")
        if not (first.strip() and second.strip()):
            raise DataError(f"{path}:{number}: a sentence is blank; fill it or delete the row")
        gold = _number(score)
        if gold is None:
            raise DataError(f"{path}:{number}: score {shown(score)} is no finite number; correct it or delete the row")
        a.append(first)
        b.append(second)
        scores.append(gold)
    if not a:
        raise DataError(f"{path}: is empty; expected rows of sentence, sentence, score")
    return ScoredPairs(a, b, np.asarray(scores, dtype=np.float64), str(path))


def _number(field: Any) -> float | None:
    """The field as a finite number, or None."""
    try:
        value = math.nan if isinstance(field, bool) else float(field)
    except (TypeError, ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def _named_pairs(path: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    if columns is None:
        names, _ = named_rows(path)
        at = _pair_columns(str(path), names)
        columns = [names[i] for i in at]
    return named_rows(path, columns=columns)[1]


def _pair_columns(where: str, names: Sequence[str]) -> tuple[int, int, int]:
    """Where a, b and score stand among named columns."""
    low = [name.strip().lower() for name in names]
    score = next((low.index(name) for name in SCORE_NAMES if name in low), None)
    pair = next(((low.index(x), low.index(y)) for x, y in PAIR_NAMES if x in low and y in low), None)
    if score is not None and pair is not None:
        return (*pair, score)
    if len(names) == 3:
        return 0, 1, 2
    raise DataError(
        f"{where}: found columns {', '.join(names)}, expected two sentences and a score such as sentence1, sentence2, "
        "score; name yours with the option columns"
    )


def _tabular_pairs(path: Path, kind: str) -> Iterator[Row]:
    first_line = next(lines(path), "")
    if kind == "txt" or first_line.count("\t") >= 6:
        kind = "tsv"
    rows = delimited_rows(path, kind)
    number, first = next(((number, fields) for number, fields in rows if fields), (0, []))
    if not first:
        raise DataError(f"{path}: is empty; expected rows of sentence, sentence, score")
    headless = STSB_COLUMNS if len(first) >= 7 else (0, 1, 2)
    if len(first) < 3:
        raise DataError(f"{path}:{number}: found {len(first)} columns, expected 3: sentence, sentence, score")
    if _is_score(first[headless[2]]):
        if 3 < len(first) < 7:
            raise DataError(
                f"{path}:{number}: found {len(first)} columns without a header, expected 3: sentence, sentence, score"
            )
        at = headless
        rows = itertools.chain([(number, first)], rows)
    else:
        at = _pair_columns(f"{path}:{number}", first)
    for number, fields in rows:
        if fields and (len(fields) < len(first) if len(first) >= 7 else len(fields) != len(first)):
            raise DataError(f"{path}:{number}: found {len(fields)} columns, expected {len(first)} as in the first line")
        yield number, [fields[i] for i in at] if fields else []


def _is_score(field: str) -> bool:
    """Whether a field of line 1 is a score rather than a column's name; `nan` is a (wrong) score."""
    try:
        float(field)
    except ValueError:
        return False
    return True


def read_text_pairs(source: str) -> Iterator[tuple[str, str]]:
    """The first two columns of a csv, tsv, jsonl or parquet file; of txt and standard input (`-`) with a tab between.

    Raises:
        DataError: a row that has not two texts; names the line.
    """
    path = Path(source)
    piped = source == "-"
    rows = delimited_rows(path, "tsv") if piped or format_of(path) == "txt" else named_rows(path)[1]
    for number, values in rows:
        if len(values) < 2 or not all(isinstance(value, str) for value in values[:2]):
            expected = "two texts with a tab between them" if piped else "two columns of text"
            raise DataError(f"{name_of(path)}:{number}: found {shown(values)}, expected {expected}")
        yield values[0], values[1]
