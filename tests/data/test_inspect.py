"""Every kind of defect is counted and shown with its line; clean data are left in peace."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcse.cli import main
from simcse.data.inspect import PERCENTILES, _percentiles, inspect, render
from simcse.errors import DataError


def test_defects_are_counted_with_their_lines(tmp_path: Path) -> None:
    texts = [
        "a plain sentence", "a plain sentence", "", "bell \x07 rings", "caf\u00c3\u00a9 au lait", "lost \ufffd byte",
        "<b>bold</b> and &amp; more", "x" * 2001, "?! ...", "1 < 2 and 3 > 2",
        "a plain sentence", "naïve Ångström — fine",
    ]  # fmt: skip
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    findings = inspect(path)
    [column] = findings.columns
    assert findings.rows == 12
    assert column.defects == {
        "blank": 1, "control characters": 1, "broken encoding": 2, "markup": 1, "very long": 1, "no letters": 1,
    }  # fmt: skip
    assert [e.line for e in column.examples["broken encoding"]] == [5, 6]
    assert [e.line for e in column.examples["markup"]] == [7]
    assert (column.distinct, column.duplicates, findings.duplicate_rows) == (9, 2, 2)
    assert column.most_frequent == ("a plain sentence", 3)
    text = render(findings)
    assert "1 rows of text: HTML or XML markup: strip it (line 7)" in text
    assert "2 rows of text: broken encoding" in text
    assert "2 rows repeat an earlier row" in text


def test_columns_are_compared(tmp_path: Path) -> None:
    path = tmp_path / "triplets.csv"
    rows = [("a", "b", "c"), ("d", "d", "e"), ("f", "g", "g"), ("a", "b", "c"), ("h", "i", "h")]
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("sent0", "sent1", "hard_neg"), *rows])
    findings = inspect(path)
    assert findings.equal == {
        ("anchor", "positive"): 1, ("positive", "hard_negative"): 1, ("anchor", "hard_negative"): 1,
    }  # fmt: skip
    assert findings.duplicate_rows == 1
    assert [column.duplicates for column in findings.columns] == [1, 1, 1]
    text = render(findings)
    assert "1 rows pair a text with itself (line 3)" in text
    assert "1 rows have positive = hard_negative (line 4)" in text


def test_rows_of_captions_need_no_header(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "captions.tsv"
    rows = [[f"a man walks dog number {i} in place {j}" for j in range(5)] for i in range(3)]
    rows[1][4] = rows[1][0]
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    findings = inspect(path, kind_of_rows="any_two")
    assert (findings.rows, [column.name for column in findings.columns]) == (3, [f"text{i}" for i in range(1, 6)])
    assert findings.equal == {("text1", "text5"): 1}
    assert "1 rows have text1 = text5 (line 2): they teach" in render(findings)
    with pytest.raises(DataError, match=r"captions\.tsv:1: .* reads like data.*or say rows=any_two"):
        inspect(path)
    test = tmp_path / "test.tsv"
    test.write_text(f"{rows[0][0]}\t{rows[0][3]}\t5\n{rows[2][1]}\tthe rain\t1\nmusic\tbread\t0\n")
    assert main(["inspect-data", str(path), "--rows", "any_two", "--against", str(test), "--json"]) == 0
    overlap = json.loads(capsys.readouterr().out)["overlap"]["test.tsv"]
    assert (overlap["n"], overlap["pairs"], overlap["exact"]) == (3, 1, 2)
    path.write_text("\t".join(rows[0]) + "\na\tb\n")
    with pytest.raises(DataError, match=r"captions\.tsv:2: found 2 columns, expected 5 texts as in the first row"):
        inspect(path, kind_of_rows="any_two")
    path.write_text("")
    with pytest.raises(DataError, match=r"captions\.tsv: is empty"):
        inspect(path, kind_of_rows="any_two")


def test_constant_columns_are_reported(tmp_path: Path) -> None:
    constant = tmp_path / "constant.csv"
    constant.write_text("sent0,sent1\n" + "".join(f"text {i},same\n" for i in range(5)))
    assert "positive is always 'same'" in render(inspect(constant))
    nearly = tmp_path / "nearly.txt"
    nearly.write_text("".join(f"text {i}\n" for i in range(90)) + "boilerplate\n" * 20)
    assert "text is 'boilerplate' in 20 of 110 rows: nearly constant" in render(inspect(nearly))


def test_values_that_are_no_text_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "values.jsonl"
    path.write_text('{"anchor": "a", "positive": "b"}\n{"anchor": null, "positive": 3}\n')
    findings = inspect(path)
    assert [column.defects for column in findings.columns] == [{"not text": 1}, {"not text": 1}]


def test_clean_data_are_left_in_peace(tmp_path: Path, data_dir: Path) -> None:
    path = tmp_path / "clean.txt"
    path.write_text("one sentence\nanother sentence\n  indented\tand tabbed\n", encoding="utf-8")
    assert inspect(path).warnings == []
    assert "no issues found" in render(inspect(path))


def test_what_training_stops_at_stops_here_too(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(DataError, match=r"empty\.txt: is empty"):
        inspect(tmp_path / "empty.txt")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(DataError, match=r"latin\.txt:1: byte 0xe9"):
        inspect(tmp_path / "latin.txt")
    with pytest.raises(DataError, match="no such file"):
        inspect(tmp_path / "gone.csv")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=60))
def test_percentiles_are_numpys(lengths: list[int]) -> None:
    from collections import Counter

    expected = np.percentile(lengths, PERCENTILES, method="inverted_cdf").tolist()
    assert list(_percentiles(Counter(lengths)).values()) == expected


def test_real_triplets(data_dir: Path) -> None:
    findings = inspect(data_dir / "nli/nli_triplets_derived_decontaminated.csv")
    assert findings.rows == 12020
    assert [column.name for column in findings.columns] == ["anchor", "positive", "hard_negative"]
    assert all(column.words[50] in range(4, 25) for column in findings.columns)
