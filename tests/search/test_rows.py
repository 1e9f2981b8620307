"""What an id, a text and metadata may be, whichever way they come in."""

from __future__ import annotations

import json
from decimal import Decimal

import numpy as np
import pytest

from simcse import DataError, SearchError, SearchIndex
from simcse.cli import main
from simcse.search.documents import file_documents
from simcse.search.rows import typed_ids

NO_IDS = [True, False, np.True_, 1.0, np.float64(1), None, b"a", (1,), Decimal(1), [1]]  # equal to ids, some of them
NOT_STORED = ["", "a\0b", "a\0", "\0a", "a\ud800", -1, 2**63, 10**30]


def test_only_ids_are_taken_for_ids(storage, encoder):
    """Each of these once found, replaced or deleted the rows "a" or 1, or ended in a traceback."""
    index = storage.build(["text a", "text one", "text zero"], encoder.encode, ids=["a", 1, 0])
    before = {row[0]: row[1:] for row in index.rows()}
    for key in [*NO_IDS, *NOT_STORED]:
        calls = [
            lambda key=key: index.delete([key]),
            lambda key=key: index.vectors([key]),
            lambda key=key: index.add_documents([(key, "new", {})], upsert=True),
            lambda key=key: index.upsert(["new"], ids=[key]),
            lambda key=key: index.add(["new"], ids=[key]),
        ]
        for number, call in enumerate(calls):
            if key is None and number == 2:
                continue  # the next number
            with pytest.raises(SearchError, match=r"^id") as caught:
                call()
            assert "\n" not in str(caught.value)
        if not isinstance(key, list):
            assert index.storage.vectors([key]) == {}
    with pytest.raises(SearchError, match="id: found None"):
        index.delete(None)
    assert set(index.storage.vectors(["a", True, 1, "b", 0])) == {"a", 1, 0}
    assert {row[0]: row[1:] for row in index.rows()} == before


def test_any_text_may_be_an_id(storage, encoder):
    """pymilvus writes ids into an expression as they are: x','a would be two."""
    ids = ["a", "x','t a", "'", '"', "a\\", "%61", "\n\x01", "\u65e5\u672c", "\u2028", "t a", "1", 1]
    index = storage.build([f"text {i}" for i in range(len(ids))], encoder.encode, ids=ids)
    for left in range(len(ids), 0, -1):
        key = ids[left - 1]
        assert index.search_vectors(index.vectors([key]), top_k=1)[0][0].id == key
        assert index.upsert([f"new {left}"], ids=[key]) == [key]
        assert len(index) == left
        assert index.delete([key]) == 1


def test_whole_numbers_and_texts_of_numpy_are_ids(encoder, tmp_path):
    index = SearchIndex.build(["a", "b", "c"], encoder.encode, ids=np.arange(3))
    index.add(["d", "e"], ids=np.array(["x", "y"]))
    index.save(tmp_path / "idx")
    loaded = SearchIndex.load(tmp_path / "idx", encoder.encode, mmap=False)  # verifies each row's checksum
    assert [row[0] for row in loaded.rows()] == [0, 1, 2, "x", "y"]
    assert loaded.delete(np.array([1])) + loaded.delete(np.str_("y")) + loaded.delete(np.int64(2)) == 3


def test_numbers_end_at_63_bits(encoder):
    index = SearchIndex.build(["a"], encoder.encode, ids=[2**63 - 1])
    assert index.search("a")[0][0].id == 2**63 - 1
    assert index.vectors([2**63 - 1]).shape == (1, 32)
    mixed = SearchIndex.build(["a", "b", "c"], encoder, ids=["x", 2, 1])
    assert list(mixed.storage.vectors(["x", 1, 2])) == ["x", 1, 2]
    with pytest.raises(SearchError, match="id: found 9223372036854775808, expected a text or a number from 0 to"):
        index.add(["no number is left"])
    assert index.add(["b"], ids=[5]) == [5]


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"a\0b": 1}, "found the name 'a\\x00b', expected a text without NUL"),
        ({"a\ud800": 1}, "cannot be stored as UTF-8 JSON"),
        ({"x": "\ud800"}, "cannot be stored as UTF-8 JSON"),
        ({"x": float("nan")}, "cannot be stored as UTF-8 JSON (Out of range float values are not JSON compliant"),
        ({"x": b"1"}, "cannot be stored as UTF-8 JSON"),
        ({1: "x"}, "found the name 1, expected a text"),
        ("x", "found 'x', expected a mapping"),
        (None, "found None, expected a mapping"),
    ],
    ids=repr,
)
def test_metadata_that_cannot_be_kept_are_refused_before_any_work(encoder, metadata, message):
    index = SearchIndex.build(["a"], encoder.encode)
    calls = encoder.calls
    with pytest.raises(SearchError) as caught:
        index.add_documents([("x", "b", {}), ("y", "c", metadata)])
    assert str(caught.value).startswith("row with id 'y': metadata")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (len(index), encoder.calls) == (1, calls)


def test_metadata_of_a_thousand_levels_are_refused(encoder):
    deep, some = {}, {}
    for level in range(100_000):
        deep = {"in": [deep]}
        some = {"in": [some]} if level < 40 else some
    index = SearchIndex.build(["a"], encoder.encode)
    with pytest.raises(SearchError, match="more than 100 lists and objects inside each other"):
        index.add(["b"], metadata=[deep])
    index.add(["c"], metadata=[some | {"year": 5}])
    assert [hit.metadata["in"] for hit in index.search("c", where={"year": 5})[0]] == [some["in"]]
    while deep:  # Python would free it by recursion
        deep = deep["in"].pop()


def test_ids_that_are_not_there_are_counted(encoder):
    index = SearchIndex.build(["a", "b"], encoder.encode)
    for ids, told in [
        ([1, 7], "id 7 is not in the index"),
        ([7, 1, 8], "id 7 and 1 more of 3 is not in the index"),
        ([7, 8, 9], "id 7 and 2 more of 3 is not in the index"),
    ]:
        for call, done in ((index.vectors, ""), (index.delete, "; nothing was deleted")):
            with pytest.raises(SearchError) as caught:
                call(ids)
            assert str(caught.value) == told + done
    assert len(index) == 2


def test_what_cannot_be_stored_is_shown(encoder):
    for row, told in [
        (("a\0b", "text", {}), r"^id: found 'a\\x00b', expected a text without NUL and halves of surrogate pairs$"),
        ((True, "text", {}), "^id: found True, expected a text or a number"),
        (("a", "half \ud800", {}), "^row with id 'a': text cannot be stored as UTF-8: half of a surrogate pair$"),
    ]:
        with pytest.raises(SearchError, match=told):
            SearchIndex.empty(encoder).add_documents([row])


def test_files_name_the_line(tmp_path):
    good = {"id": "a", "text": "x", "m": 1}
    for wrong in ({"id": "a\0b"}, {"id": True}, {"id": 1.0}, {"id": 2**63}, {"m": float("inf")}, {"text": "\ud800"}):
        path = tmp_path / "docs.jsonl"
        path.write_text(f"{json.dumps(good)}\n{json.dumps(good | wrong)}\n")
        with pytest.raises(DataError, match=rf"docs.jsonl:2: {'metadata cannot' if 'm' in wrong else ''}") as caught:
            list(file_documents(path))
        assert "\n" not in str(caught.value)


def test_a_typed_number_is_written_as_numbers_are(encoder, tmp_path, capsys):
    assert typed_ids(["7", "8", "007", "٣", "-1", "0"], ["8"]) == [7, "8", "007", "٣", "-1", 0]
    SearchIndex.build(["a", "b", "c", "d"], encoder.encode).save(tmp_path / "idx")
    for typed in ("03", "٣", "-3", "3.0", "a\udc80"):
        assert main(["index", "delete", str(tmp_path / "idx"), "--", typed]) == 1
        assert "is not in the index; nothing was deleted" in capsys.readouterr().err
    assert main(["index", "delete", str(tmp_path / "idx"), "3"]) == 0
    assert len(SearchIndex.load(tmp_path / "idx")) == 3
