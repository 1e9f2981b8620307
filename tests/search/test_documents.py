"""Files and lists as documents."""

from __future__ import annotations

import pytest

from simcse.errors import DataError, SearchError
from simcse.search.documents import documents, file_documents


def test_lists_may_be_streams():
    assert list(documents(str(i) for i in range(3))) == [(None, "0", {}), (None, "1", {}), (None, "2", {})]


def test_lines_of_text_and_blank_ones_left_out(tmp_path, caplog):
    (tmp_path / "a.txt").write_text("one\n\n  \ntwo\r\n")
    assert [text for _, text, _ in file_documents(tmp_path / "a.txt")] == ["one", "two"]
    assert "left out 2 rows without text" in caplog.text


def test_columns_become_id_and_metadata(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,text,lang\nx,hello,en\ny,hallo,de\n")
    assert list(file_documents(path)) == [("x", "hello", {"lang": "en"}), ("y", "hallo", {"lang": "de"})]
    assert list(file_documents(path, text_column="lang", id_column="text", metadata_columns=[])) == [
        ("hello", "en", {}),
        ("hallo", "de", {}),
    ]


def test_columns_of_numbers_become_numbers(tmp_path):
    """A column counts as a whole: one value that is a name, and all are texts."""
    columns = {
        "year": (["1999", "", " 2005"], [1999, None, 2005]),
        "price": (["1.50", "-2", "0"], [1.5, -2, 0]),
        "loss": (["1e-05", "2.5E+3", "1"], [1e-05, 2500.0, 1]),
        "zip": (["10115", "01067", "1"], None),
        "code": (["1e5", "2e5", "3e5"], None),
        "mixed": (["1", "n/a", "2"], None),
        "huge": (["9223372036854775808", "1", "2"], None),
        "infinite": (["1e+999", "1", "2"], None),
        "other": (["\u0663", "1", "2"], None),
        "spelt": (["1_000", "+5", ".5"], None),
        "empty": (["", "", ""], None),
        "nan": (["nan", "inf", "true"], None),
    }
    for suffix, separator in ((".csv", ","), (".tsv", "\t")):
        path = tmp_path / f"a{suffix}"
        rows = [["text", *columns], *([f"t{i}", *(given[i] for given, _ in columns.values())] for i in range(3))]
        path.write_text("\n".join(separator.join(row) for row in rows) + "\n\n")
        found = [metadata for _, _, metadata in file_documents(path)]
        for name, (given, expected) in columns.items():
            values = [metadata[name] for metadata in found]
            assert values == (expected or given)
            assert list(map(type, values)) == list(map(type, expected or given))
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x", "year": "1999"}\n')
    assert list(file_documents(path)) == [(None, "x", {"year": "1999"})]


def test_wrong_columns_and_values_name_file_and_line(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"a.csv: found columns a, b, expected one called text; name yours"):
        list(file_documents(tmp_path / "a.csv"))
    (tmp_path / "b.jsonl").write_text('{"id": 1, "text": "x"}\n{"id": -4, "text": "y"}\n')
    with pytest.raises(DataError, match=r"b.jsonl:2: id: found -4, expected a text or a number from 0 to"):
        list(file_documents(tmp_path / "b.jsonl"))
    (tmp_path / "c.jsonl").write_text('{"text": "x"}\n{"text": 5}\n')
    with pytest.raises(DataError, match=r"c.jsonl:2: column 'text': found 5, expected text"):
        list(file_documents(tmp_path / "c.jsonl"))
    (tmp_path / "e.jsonl").write_text('{"text": "x"}\n{"text": "a \\ud800"}\n')
    with pytest.raises(DataError, match=r"e.jsonl:2: half of a surrogate pair"):
        list(file_documents(tmp_path / "e.jsonl"))
    with pytest.raises(SearchError, match=r"e.jsonl: ids and metadata of a file come from its columns"):
        list(documents(str(tmp_path / "e.jsonl"), ids=[1, 2]))
    (tmp_path / "d.txt").write_text("x\n")
    with pytest.raises(DataError, match=r"d.txt: columns are asked of lines of text"):
        list(file_documents(tmp_path / "d.txt", id_column="id"))
