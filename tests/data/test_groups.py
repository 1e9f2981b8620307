"""Rows without roles: captions of an image, scored pairs."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from simcse.data.groups import read_groups, read_scored_training
from simcse.errors import DataError

CAPTIONS = [["Two young men look at their hands.", "Men in a yard.", "Friends outside."], ["A child climbs.", "B", "C"]]


def test_a_tsv_needs_no_header(tmp_path: Path) -> None:
    file = tmp_path / "captions.tsv.gz"
    with gzip.open(file, "wt") as out:
        out.writelines("\t".join(row) + "\n" for row in CAPTIONS)
    rows = read_groups(file)
    assert rows.column_names == ["text1", "text2", "text3"]
    assert [list(row.values()) for row in rows] == CAPTIONS


def test_a_header_is_no_row_and_columns_choose(tmp_path: Path) -> None:
    file = tmp_path / "captions.tsv"
    file.write_text("a\tb\tc\n" + "".join("\t".join(row) + "\n" for row in CAPTIONS))
    assert [list(row.values()) for row in read_groups(file)] == CAPTIONS
    assert [list(row.values()) for row in read_groups(file, columns=["c", "a"])] == [[r[2], r[0]] for r in CAPTIONS]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\tb\none\t\n", r":2: found '', expected a text"),
        ("a\tb\none\ttwo\none\n", r":3: found 1 columns, expected 2 texts as in the first row"),
        ("a\none\n", r":2: found 1 columns, expected at least 2"),
        ("a\tb\n", "is empty"),
    ],
)
def test_wrong_groups_are_told(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "groups.tsv"
    file.write_text(text)
    with pytest.raises(DataError, match=message):
        read_groups(file)


def test_scores_lie_between_0_and_1(tmp_path: Path) -> None:
    file = tmp_path / "pairs.tsv"
    file.write_text("one\ttwo\t1\nthree\tfour\t5\nfive\tsix\t2\n")
    rows = read_scored_training(file)
    assert rows.column_names == ["anchor", "positive", "score"]
    assert rows["score"][:] == [0.0, 1.0, 0.25]
    file.write_text("one\ttwo\t1\nthree\tfour\t1\n")
    with pytest.raises(DataError, match="all 2 scores are 1"):
        read_scored_training(file)
