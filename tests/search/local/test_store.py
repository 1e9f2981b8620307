"""The database of an index by itself: transactions inside transactions, and what each refusal of SQLite is told as."""

from __future__ import annotations

import sqlite3

import pytest

from simcse import SearchError
from simcse.search.local import store as module
from simcse.search.local.store import Store, file_id

ROWS = [(i, f"text {i}", {"n": i}) for i in range(5)]


@pytest.fixture
def path(tmp_path):
    made = Store(tmp_path / "store.sqlite", create=True)
    made.insert(0, ROWS)
    made["settings"] = {"kind": "flat"}
    made.close()
    return tmp_path / "store.sqlite"


@pytest.fixture
def store(path):
    opened = Store(path)
    yield opened
    opened.close()


def ids(store):
    return [key for _, (key, _, _) in store.rows()]


def test_the_outer_transaction_decides(store):
    def change(also):
        with store.transaction():
            store.insert(5, [(5, "text 5", {})])
            with store.transaction():
                store.remove([0])
            assert store.changing
            also()
        assert not store.changing

    with pytest.raises(ZeroDivisionError):
        change(lambda: 1 / 0)
    assert ids(store) == [0, 1, 2, 3, 4]
    change(lambda: None)
    assert ids(store) == [1, 2, 3, 4, 5]


def test_reads_inside_reads_see_one_state(path, store, monkeypatch):
    """The outer one ends the transaction: until then nobody else can commit, afterwards anybody."""
    monkeypatch.setattr(module, "WAIT", 0.05)
    other = Store(path)
    with store.reading():
        with store.reading():
            assert store.slots([4]) == {4: 4}
        with (
            pytest.raises(SearchError, match="another process has been changing it for 0 seconds"),
            other.transaction(),
        ):
            other.remove([0])
        assert ids(store) == ids(other) == [0, 1, 2, 3, 4]
    with other.transaction():
        other.remove([0])
    other.close()
    assert ids(store) == [1, 2, 3, 4]


def test_an_id_that_is_there_already_is_named(store):
    with pytest.raises(SearchError, match="id 3 is in the index already; give another id"), store.transaction():
        store.insert(5, [(5, "new", {}), (3, "again", {})])
    with pytest.raises(SearchError, match="id 7 is in the index already"), store.transaction():
        store.insert(5, [(7, "new", {}), (7, "again", {})])
    assert ids(store) == [0, 1, 2, 3, 4]


def test_a_file_replaced_while_it_is_opened(path, monkeypatch):
    """Its connections could be to two files."""
    found = iter([(1, 1), (1, 2)])
    monkeypatch.setattr(module, "file_id", lambda path: next(found))
    with pytest.raises(SearchError, match=r"store\.sqlite: replaced by another process while it was opened; try again"):
        Store(path)


def test_what_tells_files_of_one_name_apart(path):
    before = file_id(path)
    assert before == file_id(path)
    content = path.read_bytes()
    path.rename(path.with_name("kept"))
    assert file_id(path) is None
    path.write_bytes(content)
    assert file_id(path) not in (None, before)


REFUSALS = {
    "was closed; load the index again": lambda store: (store.close(), len(store)),
    "no permission to write; the index can be searched but not changed": lambda store: (
        store._connection.execute("PRAGMA query_only = ON"),
        store.remove([0]),
    ),
    "cannot be opened; check that the folder exists": lambda store: Store(
        store.path.with_name("none") / "store.sqlite", create=True
    ),
    "damaged or no database of an index \\(file is not a database\\); restore a copy": lambda store: (
        store.path.write_bytes(b"no database " * 1000),
        Store(store.path),
    ),
    "damaged: 'settings' is not JSON": lambda store: (
        store._connection.execute("UPDATE meta SET value = '{' WHERE key = 'settings'"),
        store["settings"],
    ),
    "damaged or no database of an index \\(Could not decode to UTF-8 column 'text'": lambda store: (
        store._connection.execute("UPDATE rows SET text = CAST(x'ff' AS TEXT) WHERE slot = 3"),
        store.fetch([3]),
    ),
    "damaged: found text that is not UTF-8": lambda store: (  # in the error of SQLite itself
        store._connection.execute("PRAGMA writable_schema = ON"),
        store._connection.execute("UPDATE sqlite_master SET sql = '', name = CAST(x'ff' AS TEXT) WHERE name = 'dead'"),
        Store(store.path),
    ),
    "damaged: invalid literal for int": lambda store: (
        store._connection.execute("INSERT INTO blocks VALUES (0, 'x')"),
        store.checksums(),
    ),
    "damaged: .*out of bounds": lambda store: (
        store._connection.execute("INSERT INTO blocks VALUES (0, -1)"),
        store.checksums(),
    ),
    "damaged or no database of an index \\(malformed JSON\\)": lambda store: (
        store._connection.execute("UPDATE rows SET metadata = '{' WHERE slot = 3"),
        store.matching({"n": 3}),
    ),
}


@pytest.mark.parametrize("told", REFUSALS)
def test_refusals_of_the_database_are_told_with_its_file(store, told):
    with pytest.raises(SearchError, match=rf"^/.*store\.sqlite: {told}") as caught:
        REFUSALS[told](store)
    assert isinstance(caught.value.__cause__, sqlite3.Error | ValueError | OverflowError)
    assert "\n" not in str(caught.value)
