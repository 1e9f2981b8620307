"""Texts, ids and metadata of an index, and its committed state, in one SQLite database.

A row's number (its slot) is the row of its vector. Whatever belongs to the index's state (the count of vectors, the
file they lie in, the plan) stands in the table `meta` and changes in the same transaction as the rows: a commit is
the moment at which a mutation exists.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from simcse.errors import SearchError
from simcse.search.local.blocks import Checksums
from simcse.search.local.filters import condition, text_of
from simcse.search.rows import Id, Row, packed_metadata, storable

__all__ = ["Id", "Row", "Store", "file_id"]

IDS_A_QUERY = 1000  # looked for at once; SQLite binds 32,766 values
SLOTS_A_SCAN = 8192  # that a filter is compared with before another process may commit
STEPS = 1000  # of SQLite's machine between two looks at whether to stop; a tenth of a millisecond
WAIT = 30.0  # seconds for another process to finish its mutation
SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE rows (slot INTEGER PRIMARY KEY, id NOT NULL UNIQUE, text TEXT NOT NULL, metadata TEXT, crc INTEGER NOT
NULL); CREATE TABLE dead (slot INTEGER PRIMARY KEY);
CREATE TABLE fields (name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE blocks (block INTEGER PRIMARY KEY, crc INTEGER NOT NULL);
"""


class Store:
    """Rows under slots 0, 1, 2, ...; some of them dead. Safe to use from several threads."""

    def __init__(self, path: Path | None = None, *, create: bool = False) -> None:
        """Open a database, or make an empty one (in memory, without a path).

        Raises:
            SearchError: the file is missing or is no such database.
        """
        self.path = path
        self._lock, self._reader_lock, self._scanner_lock = threading.RLock(), threading.RLock(), threading.RLock()
        self._writing: int | None = None  # the thread whose transaction is open
        if path is not None and not create and not path.is_file():
            raise SearchError(f"{path}: missing; restore a copy or build the index anew")
        with self._guarded(), self._decoding():
            before = file_id(path) if path is not None and not create else None
            self._connection = self._connect(create)
            self._connection.execute("PRAGMA cache_spill = OFF")  # readers are not locked out before the commit
            self._connection.execute("PRAGMA secure_delete = ON")  # a deleted text is gone from the file
            self._connection.execute("PRAGMA synchronous = FULL")
            if create or path is None:
                self._connection.executescript(SCHEMA)
            else:
                self._connection.execute("SELECT count(*) FROM meta").fetchone()
            # a second connection, so that other threads neither wait for an open transaction nor see into it
            self._reader = self._connect() if path is not None else self._connection
            # and a third: the second does not wait for a filter that reads all rows
            self._scanner = self._connect() if path is not None else self._connection
            self.file = file_id(path) if path is not None else None
            if not create and self.file != before:
                raise SearchError(f"{path}: replaced by another process while it was opened; try again")
            if path is None:
                self._reader_lock = self._scanner_lock = self._lock

    def _connect(self, create: bool = False) -> sqlite3.Connection:
        # what another process has removed just now must not come back as an empty database
        name = ":memory:" if self.path is None else f"{self.path.absolute().as_uri()}?mode={'rwc' if create else 'rw'}"
        connection = sqlite3.connect(name, uri=True, isolation_level=None, check_same_thread=False, timeout=WAIT)
        connection.create_function("text_of", 2, text_of)
        return connection

    def close(self) -> None:
        """Close the connections."""
        self._scanner.close()
        self._reader.close()
        self._connection.close()

    def content(self) -> bytes:
        """All that a database in memory holds, committed or not."""
        with self._lock, self._guarded():
            return self._connection.serialize()

    def restore(self, content: bytes) -> None:
        """Put in place of an empty database in memory what `content` gave."""
        with self._lock, self._guarded():
            self._connection.deserialize(content)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes inside are durable together when the block ends, or undone together when it fails.

        Raises:
            SearchError: another process is changing the index, the disk is full, or the file cannot be written.
        """
        with self._lock:
            if self._writing is not None:  # inside another transaction of this thread: that one decides
                yield
                return
            with self._guarded():
                self._connection.execute("BEGIN IMMEDIATE")
                self._writing = threading.get_ident()
                try:
                    yield
                    self._connection.execute("COMMIT")
                except BaseException:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                    raise
                finally:
                    self._writing = None

    @contextmanager
    def reading(self) -> Iterator[None]:
        """All reads inside see one committed state; inside this thread's own transaction, what it has written so far.
        Another process's commit waits for the end.
        """
        if self.changing:
            yield
            return
        with self._reader_lock, self._guarded():
            outermost = not self._reader.in_transaction
            if outermost:
                self._reader.execute("BEGIN")
            try:
                yield
            finally:
                if outermost and self._reader.in_transaction:
                    self._reader.execute("ROLLBACK")

    @property
    def changing(self) -> bool:
        """Whether this thread has a transaction open."""
        return self._writing == threading.get_ident()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise SearchError(f"{self.path or 'index in memory'}: {_explained(error)}") from error

    @contextmanager
    def _decoding(self) -> Iterator[None]:
        """Say that a file is damaged whose words, which SQLite quotes in its errors, too, are no UTF-8."""
        try:
            yield
        except UnicodeDecodeError as error:
            raise SearchError(
                f"{self.path}: damaged: found text that is not UTF-8; restore a copy or build the index anew"
            ) from error

    def _all(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        ours = self.changing
        with self._lock if ours else self._reader_lock, self._guarded(), self._decoding():
            return (self._connection if ours else self._reader).execute(query, values).fetchall()

    def _integers(self, query: str, kind: type[np.integer[Any]], *values: Any) -> npt.NDArray[Any]:
        """(n,) the only column of what a query finds; raises as `_unpacked`."""
        try:
            return np.array([value for (value,) in self._all(query, *values)], kind)
        except (TypeError, ValueError, OverflowError) as error:
            raise SearchError(f"{self.path}: damaged: {error}; restore a copy or build the index anew") from error

    def __getitem__(self, key: str) -> Any:
        """A value of the committed state, or None."""
        found = self._all("SELECT value FROM meta WHERE key = ?", key)
        try:
            return json.loads(found[0][0]) if found else None
        except (ValueError, TypeError, RecursionError) as error:
            raise SearchError(
                f"{self.path}: damaged: {key!r} is not JSON ({error}); restore a copy or build the index anew"
            ) from error

    def __setitem__(self, key: str, value: Any) -> None:
        with self._lock, self._guarded():
            self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))

    def __len__(self) -> int:
        return int(self._all("SELECT count(*) FROM rows")[0][0])

    def insert(self, first: int, rows: Sequence[Row]) -> None:
        """Put rows under slots `first`, `first + 1`, ...

        Raises:
            SearchError: an id that is there already, metadata that is not JSON, text with half of a surrogate pair.
        """
        packed = [(first + i, *_packed(row)) for i, row in enumerate(rows)]
        fields = sorted({name for _, _, metadata in rows for name in metadata})
        with self._lock, self._guarded():
            self._connection.executemany("INSERT OR IGNORE INTO fields VALUES (?)", [(name,) for name in fields])
            try:
                self._connection.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?)", packed)
            except sqlite3.IntegrityError as error:
                there = self.slots([row[0] for row in rows])
                twice = [row[0] for i, row in enumerate(rows, first) if there.get(row[0], i) != i]
                if not twice:  # but a slot: the file is damaged
                    raise
                raise SearchError(
                    f"id {twice[0]!r} is in the index already; give another id, or replace it by the option upsert"
                ) from error

    def remove(self, slots: Iterable[int]) -> None:
        """Take rows out; their slots are dead until the index is compacted."""
        listed = [(int(slot),) for slot in slots]
        with self._lock, self._guarded():
            self._connection.executemany("DELETE FROM rows WHERE slot = ?", listed)
            self._connection.executemany("INSERT INTO dead VALUES (?)", listed)

    def slots(self, ids: Sequence[Id]) -> dict[Id, int]:
        """Where the rows of these ids are, in the order of the ids; ids that are not there are left out."""
        # bound one by one: in JSON, SQLite would end an id at NUL, and confuse True with 1
        wanted = [key for key in ids if storable(key)]
        found: dict[Id, int] = {}
        with self.reading():
            for start in range(0, len(wanted), IDS_A_QUERY):
                some = wanted[start : start + IDS_A_QUERY]
                query = f"SELECT id, slot FROM rows WHERE id IN ({', '.join('?' * len(some))})"  # noqa: S608  question marks
                found |= self._all(query, *some)
        return {key: found[key] for key in wanted if key in found}

    def fetch(self, slots: Iterable[int]) -> dict[int, Row]:
        """The rows under these slots; dead ones are left out.

        Raises:
            SearchError: a row that is damaged.
        """
        query = "SELECT rows.* FROM json_each(?) AS wanted JOIN rows ON rows.slot = wanted.value"
        return dict(map(self._unpacked, self._all(query, json.dumps([int(slot) for slot in slots]))))

    def rows(self, batch: int = 10_000, *, end: int = 2**62) -> Iterator[tuple[int, Row]]:
        """All rows by slot, up to slot `end`, a batch at a time; those that are removed meanwhile may be left out."""
        last = -1
        query = "SELECT * FROM rows WHERE slot > ? AND slot < ? ORDER BY slot LIMIT ?"
        while found := self._all(query, last, end, batch):
            yield from map(self._unpacked, found)
            last = found[-1][0]

    def dead(self) -> npt.NDArray[np.int64]:
        """Slots without a row."""
        return self._integers("SELECT slot FROM dead ORDER BY slot", np.int64)

    def checksums(self, first: int = 0) -> Checksums:
        """Of the blocks of vectors from number `first` on."""
        return self._integers("SELECT crc FROM blocks WHERE block >= ? ORDER BY block", np.uint32, first)

    def put_checksums(self, first: int, checksums: Checksums) -> None:
        """Set those of blocks `first`, `first + 1`, ..."""
        with self._lock, self._guarded():
            self._connection.executemany(
                "INSERT OR REPLACE INTO blocks VALUES (?, ?)", list(enumerate(checksums.tolist(), first))
            )

    def matching(self, where: Mapping[str, Any], stop: Callable[[], bool] = lambda: False) -> npt.NDArray[np.int64]:
        """Slots of the rows whose metadata fits; see `search.filters.conditions`.

        Args:
            where: the filter.
            stop: asked now and then; true ends the search.

        Raises:
            FilterError: a field that no row has, an unknown operator, a value of the wrong type.
            TimeoutError: it was stopped.
        """
        clause, values = condition(where, self.fields())
        size = self._all("SELECT coalesce(max(slot) + 1, 0) FROM rows")[0][0]
        # what `condition` gives binds names and values
        query = f"SELECT slot FROM rows WHERE slot >= ? AND slot < ? AND ({clause})"  # noqa: S608
        found: list[int] = []
        for first in range(0, size, SLOTS_A_SCAN):
            with self._scanning(stop) as connection:
                found += [slot for (slot,) in connection.execute(query, (first, first + SLOTS_A_SCAN, *values))]
        return np.array(found, dtype=np.int64)

    @contextmanager
    def _scanning(self, stop: Callable[[], bool]) -> Iterator[sqlite3.Connection]:
        ours = self.changing
        connection = self._connection if ours else self._scanner
        with self._lock if ours else self._scanner_lock, self._guarded():
            connection.set_progress_handler(stop, STEPS)
            try:
                yield connection
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
                    raise TimeoutError("the filter was stopped") from error
                raise
            finally:
                connection.set_progress_handler(None, 0)

    def fields(self) -> list[str]:
        """Names of all metadata fields, sorted."""
        return [name for (name,) in self._all("SELECT name FROM fields ORDER BY name")]

    def verify(self) -> None:
        """Check the whole file and the checksum of every row.

        Raises:
            SearchError: damage; names the file.
        """
        report = " ".join(str(self._all("PRAGMA quick_check(1)")[0][0]).split())
        if report != "ok":
            raise SearchError(f"{self.path}: damaged ({report}); restore a copy or build the index anew")
        # ids are counted in their index, slots in the table itself
        [(ids, slots)] = self._all("SELECT (SELECT count(*) FROM rows), count(slot) FROM rows NOT INDEXED")
        if ids != slots:
            raise SearchError(
                f"{self.path}: damaged: found {slots} rows with {ids} ids; restore a copy or build the index anew"
            )
        names = {name for _, (_, _, metadata) in self.rows() for name in metadata}
        if unlisted := names.difference(self.fields()):
            raise SearchError(
                f"{self.path}: damaged: rows have the field {min(unlisted)!r}, which is not listed; restore a copy or "
                "build the index anew"
            )

    def _unpacked(self, row: tuple[Any, ...]) -> tuple[int, Row]:
        slot, key, text, metadata, crc = row
        if _crc(key, text, metadata) != crc:
            raise SearchError(
                f"{self.path}: damaged: row {slot} fails its checksum; restore a copy or build the index anew"
            )
        return slot, (key, text, json.loads(metadata) if metadata else {})


def file_id(path: Path) -> tuple[int, int] | None:
    """What tells a file from another of the same name; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _packed(row: Row) -> tuple[Id, str, str | None, int]:
    key, text, metadata = row
    packed = packed_metadata(metadata) if metadata else None
    return key, text, packed, _crc(key, text, packed)


def _crc(key: Id, text: str, metadata: str | None) -> int:
    return zlib.crc32(f"{key!r}\0{text}\0{metadata or ''}".encode())


def _explained(error: sqlite3.Error) -> str:
    message = str(error)
    if "closed database" in message:
        return "was closed; load the index again"
    if "locked" in message:
        return f"another process has been changing it for {WAIT:.0f} seconds; try again when it is done"
    if "full" in message:
        return "the disk is full; the index is as it was before; make room and try again"
    if "unable to open" in message:
        return "cannot be opened; check that the folder exists and may be read and written"
    if "readonly" in message:
        return "no permission to write; the index can be searched but not changed"
    return f"damaged or no database of an index ({message}); restore a copy or build the index anew"
