"""Files and lists as documents."""

from __future__ import annotations

import pytest

from simcse.errors import DataError
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
    (tmp_path / "d.txt").write_text("x\n")
    with pytest.raises(DataError, match=r"d.txt: columns are asked of lines of text"):
        list(file_documents(tmp_path / "d.txt", id_column="id"))
