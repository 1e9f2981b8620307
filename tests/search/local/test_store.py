"""The database of an index by itself: transactions inside transactions, and what each refusal of SQLite is told as."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from threading import Event

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
    assert other._connection.execute("PRAGMA busy_timeout").fetchone() == (50,), "not SQLite's own five seconds"
    with other.transaction():
        other.remove([0])
    other.close()
    assert ids(store) == [1, 2, 3, 4]


@pytest.fixture
def elsewhere():
    """Runs what it is given in another thread, and gives the result; at most five seconds."""
    with ThreadPoolExecutor(1) as pool:
        yield lambda work: pool.submit(work).result(timeout=5)


def test_other_threads_neither_wait_for_an_open_transaction_nor_see_into_it(store, elsewhere):
    def look():
        with store.reading():
            return len(store), store.slots([0, 5]), store.matching({"n": [0, 5]}).tolist(), store.changing

    with store.transaction():
        store.remove([0])
        store.insert(5, [(5, "text 5", {"n": 5})])
        assert look() == (5, {5: 5}, [5], True)
        assert elsewhere(look) == (5, {0: 0}, [0], False)
    assert elsewhere(look) == (5, {5: 5}, [5], False)


def test_a_transaction_reads_while_another_thread_does(store):
    """Its end waits for the end of the other's reading."""
    seen = Event()

    def change():
        with store.transaction():
            store.remove([0])
            assert ids(store) == [1, 2, 3, 4]
            seen.set()

    with ThreadPoolExecutor(1) as pool:
        with store.reading():
            assert ids(store) == [0, 1, 2, 3, 4]
            changed = pool.submit(change)
            assert seen.wait(5)
            assert ids(store) == [0, 1, 2, 3, 4]
        changed.result()
    assert ids(store) == [1, 2, 3, 4]


def test_many_rows_are_read_and_looked_for_in_parts(store):
    everything = list(enumerate(ROWS))
    for batch in (1, 2, 5, 9):
        assert list(store.rows(batch)) == everything
        assert list(store.rows(batch, end=3)) == everything[:3]
    queries = []
    store._reader.set_trace_callback(queries.append)
    wanted = [*range(10, 10 + 2 * module.IDS_A_QUERY), 4, 0]
    assert list(store.slots(wanted).items()) == [(4, 4), (0, 0)]
    assert sum("FROM rows" in query for query in queries) == 3


def test_an_id_that_is_there_already_is_named(store):
    with pytest.raises(SearchError, match="id 3 is in the index already; give another id"), store.transaction():
        store.insert(5, [(5, "new", {}), (3, "again", {}), (2, "again", {})])
    with pytest.raises(SearchError, match="id 7 is in the index already"), store.transaction():
        store.insert(5, [(7, "new", {}), (7, "again", {})])
    assert ids(store) == [0, 1, 2, 3, 4]


def test_a_file_replaced_while_it_is_opened(path, monkeypatch):
    """Its connections could be to two files."""
    found = iter([(1, 1), (1, 2)])
    monkeypatch.setattr(module, "file_id", lambda path: next(found))
    with pytest.raises(SearchError, match=r"store\.sqlite: replaced by another process while it was opened; try again"):
        Store(path)


@pytest.mark.parametrize("opened", [0, 1, 2])
def test_a_file_removed_while_it_is_opened_does_not_come_back_empty(path, monkeypatch, opened):
    """Between a look at it and the first of three connections, or between two of them."""
    real, connections = sqlite3.connect, []

    def connect(*args, **options):
        if len(connections) == opened:
            path.unlink()
        connections.append(real(*args, **options))
        return connections[-1]

    monkeypatch.setattr(sqlite3, "connect", connect)
    with pytest.raises(SearchError, match=r"store\.sqlite: cannot be opened"):
        Store(path)
    assert not path.exists()
    for connection in connections:
        connection.close()


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
    "the disk is full; the index is as it was before; make room and try again$": lambda store: (
        store._connection.execute("PRAGMA max_page_count = 1"),  # no more than there are
        store.insert(5, [(5, "room " * 10_000, {})]),
    ),
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
    "damaged or no database of an index \\(UNIQUE constraint failed: rows.slot\\); restore a copy": lambda store: (
        store.insert(4, [(9, "new", {})])  # the state says that there are fewer rows than there are
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


def test_what_is_wrong_with_the_file_is_told_in_one_line(store):
    """SQLite takes several."""
    [(page,)] = store._connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'blocks'")
    [(size,)] = store._connection.execute("PRAGMA page_size")
    with store.path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * 8)
    told = r"store\.sqlite: damaged \(\*\*\* in database main \*\*\* \w.*\); restore a copy or build the index anew$"
    with pytest.raises(SearchError, match=told):
        store.verify()


DAMAGE = {
    "found 0 rows with 5 ids": (
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET sql = replace(sql, 'PRIMARY KEY, id', 'PZIMARY KEY, id')",
    ),
    "rows have the field 'n', which is not listed": ("DELETE FROM fields WHERE name = 'n'",),
}


@pytest.mark.parametrize("told", DAMAGE)
def test_damage_that_leaves_each_row_whole_is_found(store, path, told):
    store.verify()
    for statement in DAMAGE[told]:
        store._connection.execute(statement)
    again = Store(path)
    with pytest.raises(SearchError, match=rf"store\.sqlite: damaged: {told}; restore a copy or build the index anew$"):
        again.verify()
    again.close()
