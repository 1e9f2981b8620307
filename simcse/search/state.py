"""The state of an index: a store, its vectors, the folder they lie in, and how one state follows another.

Searches read a `View`, which never changes; a mutation prepares the next one and puts it in place once it is committed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from simcse.errors import SearchError
from simcse.files import replaced_folder
from simcse.search.ann import Ann, checksum
from simcse.search.identity import Identity, Matrix, packed_units, unpacked_units
from simcse.search.layout import MANIFEST, file_name, read_manifest, remove_strays, write_manifest
from simcse.search.plan import make_plan
from simcse.search.store import Store
from simcse.search.vectors import Vectors

__all__ = ["State", "View"]

log = logging.getLogger(__name__)

VERIFIED_AT_ONCE = 64 * 2**20  # bytes; larger indexes open memory-mapped, unread, and are checked by `verify`
LONGEST_TAIL = 20_000  # rows behind the approximate index that are compared exactly
COPIED_AT_ONCE = 16_384  # rows


@dataclass(frozen=True)
class View:
    """What a search sees: rows `matrix[slot]` (n, d), the store of their texts, and which are alive (n,), None for
    all.
    """

    generation: int
    store: Store
    matrix: Matrix
    live: npt.NDArray[np.bool_] | None
    count: int
    ann: Ann | None


class State:
    """The current view of an index, and the road to the next."""

    def __init__(self, identity: Identity, store: Store, vectors: Vectors, folder: Path | None) -> None:
        """Use `empty` or `open`."""
        self.identity, self.store, self.vectors, self.folder = identity, store, vectors, folder
        self._ann: Ann | None = None
        self._lock = threading.RLock()
        self._seen = _changed_at(folder) if folder else 0
        self.view = self._committed()

    @classmethod
    def empty(cls, identity: Identity, settings: dict[str, Any]) -> State:
        """No rows, in memory."""
        state = cls(identity, Store(), Vectors(identity.dimension), None)
        state.store["settings"] = settings
        state._note(0)
        return state

    @classmethod
    def open(cls, folder: Path, *, mmap: bool = True) -> State:
        """What lies in a folder.

        Raises:
            SearchError: no index, or a damaged one.
        """
        while True:
            manifest = read_manifest(folder)
            try:
                return cls._open(folder, manifest, mmap)
            except SearchError:
                if read_manifest(folder)["store"] == manifest["store"]:
                    raise  # else another process has just compacted the index: look again

    @classmethod
    def _open(cls, folder: Path, manifest: dict[str, Any], mmap: bool) -> State:
        try:
            identity = Identity.from_json(manifest["encoder"])
        except (ValueError, KeyError, TypeError) as error:
            raise SearchError(
                f"{folder / MANIFEST}: damaged ({error}); restore a copy or build the index anew"
            ) from error
        store = Store(folder / manifest["store"])
        held = store["vectors"]
        if held is None or held["dimension"] != identity.dimension:
            raise SearchError(
                f"{store.path}: holds {held and held['dimension']} dimensions, {MANIFEST} says {identity.dimension}; "
                "these files are not of one index: restore a copy or build it anew"
            )
        vectors = Vectors(identity.dimension, folder / held["file"], held["count"], held["crc"], mmap)
        state = cls(identity, store, vectors, folder)
        if not mmap or sum(path.stat().st_size for path in folder.iterdir()) <= VERIFIED_AT_ONCE:
            state.verify()
        return state

    def verify(self) -> None:
        """Read everything and compare checksums.

        Raises:
            SearchError: damage; names the file.
        """
        self.vectors.verify()
        self.store.verify()
        if self.folder is not None and self._ann is not None:
            path = self.folder / file_name("ann", self._ann.key)
            if checksum(path) != self._ann.crc:
                raise SearchError(
                    f"{path}: damaged: its checksum is not {self._ann.crc:08x}; run: simcse index compact"
                )
        if len(self.store) + len(self.store.dead()) != self.vectors.count:
            raise SearchError(
                f"{self.store.path or 'index in memory'}: {len(self.store)} texts and {len(self.store.dead())} "
                f"deleted ones for "
                f"{self.vectors.count} vectors; restore a copy or build the index anew"
            )

    def _committed(self) -> View:
        dead = self.store.dead()
        live = None
        if len(dead):
            live = np.ones(self.vectors.count, bool)
            live[dead] = False
        count = self.vectors.count - len(dead)
        return View(self.store["generation"] or 0, self.store, self.vectors.matrix, live, count, self._held_ann())

    def _held_ann(self) -> Ann | None:
        """The committed approximate index: the one in memory, or the file that another process has written."""
        held = self.store["ann"]
        if held is None:
            self._ann = None
        elif self._ann is None or self._ann.key != held["key"]:
            assert self.folder is not None
            self._ann = Ann.read(self.folder / file_name("ann", held["key"]), held, mmap=self.vectors.mmap)
        return self._ann

    def optimize(self, memory: int | None = None, sample_queries: Matrix | None = None) -> None:
        """Choose, build and measure an approximate index for the rows that are there; see `plan.make_plan`. Sample
        queries are kept, and used again when the index is compacted.
        """
        with self.mutation():
            if sample_queries is not None:
                self.store["sample_queries"] = [len(sample_queries), packed_units(sample_queries)]
            self._plan(self.view.generation + 1, memory)

    def _plan(self, key: int, memory: int | None = None) -> None:
        live = np.ones(self.vectors.count, bool)
        live[self.store.dead()] = False
        settings, sample = self.store["settings"], self.store["sample_queries"]
        plan, ann = make_plan(
            self.vectors.matrix,
            kind=settings["kind"],
            target_recall=settings["target_recall"],
            memory=memory,
            live=live,
            sample_queries=sample and unpacked_units(sample[1], sample[0]),
        )
        self.store["plan"] = plan.to_json()
        self._put(ann, key)

    def _put(self, ann: Ann | None, key: int) -> None:
        """Make this the approximate index of generation `key`."""
        if ann is not None:
            ann.key = key
            if self.folder is not None:
                ann.write(self.folder / file_name("ann", key))
        self.store["ann"] = ann.to_json() if ann is not None else None
        self._ann = ann

    def _absorb(self) -> None:
        """Put rows that are compared exactly so far into the approximate index, once they are many."""
        ann, count = self._ann, self.vectors.count
        if ann is None or count - ann.covered <= max(LONGEST_TAIL, ann.covered // 10):
            return
        dead = self.store.dead()
        grown = ann.grown(self.vectors.matrix, np.setdiff1d(np.arange(ann.covered, count), dead, assume_unique=True))
        self._put(grown, self.view.generation + 1)

    def current(self) -> View:
        """The view to search, after taking in what another process has committed to the same files."""
        if self.folder is None or _changed_at(self.folder) == self._seen:
            return self.view
        if self._lock.acquire(blocking=False):  # else a thread of ours is the one that changes it: the old view is fine
            try:
                self._follow()
            finally:
                self._lock.release()
        return self.view

    def _follow(self) -> None:
        """Take in what other processes have committed."""
        assert self.folder is not None
        seen = _changed_at(self.folder)
        if not seen:
            return
        self._seen = seen
        if read_manifest(self.folder)["store"] != file_of(self.store):
            self._adopt(State.open(self.folder, mmap=self.vectors.mmap))  # one of them has compacted it
        elif self.store["generation"] != self.view.generation:
            self._catch_up()

    def _catch_up(self) -> None:
        held = self.store["vectors"]
        self.vectors.move_to(held["count"], held["crc"])
        self.view = self._committed()

    @contextmanager
    def mutation(self) -> Iterator[None]:
        """All changes inside become durable and visible together, or not at all.

        Raises:
            SearchError: another process is changing the index, or it cannot be written; it is then as it was before.
        """
        with self._lock:
            before = self.vectors.count, self.vectors.crc
            try:
                with self._locked():
                    before = self.vectors.count, self.vectors.crc
                    try:
                        yield
                        self.vectors.sync()
                        self._absorb()
                        self._note(self.view.generation + 1)
                    except BaseException:
                        self.vectors.rewind(*before)
                        raise
            except BaseException:  # the commit itself may have failed
                self.vectors.move_to(*before)
                self._ann = self.view.ann
                raise
            self.view = self._committed()
            if self.folder is not None:
                self._describe()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes from changing the index, starting from what they have done so far."""
        while True:
            if self.folder is not None:
                self._follow()
            with self.store.transaction():
                if self.folder is not None and read_manifest(self.folder)["store"] != file_of(self.store):
                    continue  # just now
                if self.store["generation"] != self.view.generation:
                    self._catch_up()
                yield
                return

    def _adopt(self, other: State) -> None:
        self.identity, self.store, self.vectors, self.folder = other.identity, other.store, other.vectors, other.folder
        self.view, self._seen, self._ann = other.view, other._seen, other._ann

    def _note(self, generation: int) -> None:
        vectors = self.vectors
        name = vectors.path.name if vectors.path else None
        self.store["generation"] = generation
        self.store["vectors"] = {
            "file": name, "count": vectors.count, "crc": vectors.crc, "dimension": vectors.dimension,
        }  # fmt: skip

    def _describe(self) -> None:
        """Bring the manifest's figures up to date; they are for readers, the store has the truth."""
        assert self.folder is not None
        try:
            with self.store.transaction():  # another process may have gone on since
                named = read_manifest(self.folder)["store"] == file_of(self.store)
                if named and self.store["generation"] == self.view.generation:
                    write_manifest(self.folder, self._manifest())
                    ann = {file_name("ann", self._ann.key)} if self._ann else set()
                    remove_strays(self.folder, {file_of(self.store), file_of(self.vectors), *ann})
        except (OSError, SearchError) as error:
            log.warning("%s: the change is durable, but %s is out of date: %s", self.folder, MANIFEST, error)

    def _manifest(self) -> dict[str, Any]:
        files = {file_of(self.vectors): {"rows": self.vectors.count, "crc32": f"{self.vectors.crc:08x}"}}
        if self._ann is not None:
            files[file_name("ann", self._ann.key)] = {"rows": self._ann.covered, "crc32": f"{self._ann.crc:08x}"}
        return {
            "store": file_of(self.store),
            "encoder": self.identity.to_json(),
            "dimension": self.identity.dimension,
            "metric": "cosine",
            "count": self.view.count,
            "generation": self.view.generation,
            "settings": self.store["settings"],
            "plan": self.store["plan"],
            "files": files,
        }

    def save(self, folder: Path) -> None:
        """Write the living rows to a folder, new or that of an index to replace, and go on from there.

        Raises:
            SearchError: the folder holds something else, or cannot be written.
        """
        with self._lock, _told(folder):
            if (folder / MANIFEST).is_file():
                self._replace(folder)
            elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise SearchError(f"{folder}: exists and is no index; give a new folder, or remove this one first")
            else:
                with replaced_folder(folder) as beside:
                    self._copy(beside, self.view.generation + 1)
                self._adopt(State.open(folder))

    def compact(self) -> None:
        """Drop what is deleted from all files, and choose the approximate index anew.

        Raises:
            SearchError: the folder cannot be written.
        """
        with self._lock, _told(self.folder):
            if self.folder is not None:
                self._replace(self.folder, replan=True)
                return
            fresh = State(self.identity, Store(), Vectors(self.identity.dimension), None)
            self._fill(fresh, self.view.generation + 1, replan=True)
            self._adopt(fresh)

    def _replace(self, folder: Path, replan: bool = False) -> None:
        ours = self.folder is not None and folder.resolve() == self.folder.resolve()
        there = self if ours else State.open(folder)
        with there._locked():  # nobody changes what is about to be replaced
            old = {path.name for path in folder.iterdir()}
            try:
                self._copy(folder, max(self.view.generation, there.view.generation) + 1, replan)
            except BaseException:
                remove_strays(folder, old)
                raise
        self._adopt(State.open(folder, mmap=self.vectors.mmap))
        self._describe()

    def _copy(self, folder: Path, generation: int, replan: bool = False) -> None:
        """Write files of a new generation; the manifest, last, makes them count."""
        store = Store(folder / file_name("store", generation), create=True)
        vectors = Vectors(self.identity.dimension, folder / file_name("vectors", generation))
        fresh = State(self.identity, store, vectors, folder)
        self._fill(fresh, generation, replan)
        write_manifest(folder, fresh._manifest())
        store.close()

    def _fill(self, fresh: State, generation: int, replan: bool) -> None:
        view = self.view
        with fresh.store.transaction():
            rows = view.store.rows(COPIED_AT_ONCE)
            while block := list(islice(rows, COPIED_AT_ONCE)):
                fresh.store.insert(fresh.vectors.count, [row for _, row in block])
                fresh.vectors.append(view.matrix[[slot for slot, _ in block]])
            for key in ("settings", "next_id", "note", "plan", "sample_queries"):
                fresh.store[key] = view.store[key]
            fresh.vectors.sync()
            fresh._note(generation)
            if replan or (view.ann is not None and view.live is not None):
                fresh._plan(generation)
            elif view.ann is not None:
                fresh._put(copy(view.ann), generation)
        fresh.view = fresh._committed()


def file_of(part: Store | Vectors) -> str:
    """Its file's name in the folder of the index."""
    assert part.path is not None
    return part.path.name


def _changed_at(folder: Path) -> int:
    """A number that is another one after each change of the index; 0 if the folder has gone, which searches survive."""
    try:
        found = (folder / MANIFEST).stat()
    except OSError:
        return 0
    return hash((found.st_ino, found.st_mtime_ns))


@contextmanager
def _told(folder: Path | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SearchError(f"{folder}: {error.strerror}; nothing was changed; free the way and try again") from error
