"""The state of an index: a store, its vectors, the folder they lie in, and how one state follows another.

Searches read a `View`, which never changes; a mutation prepares the next one and puts it in place once it is committed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from simcse.errors import SearchError
from simcse.search.fingerprint import Identity, OtherEncoderError, packed_units, unpacked_units
from simcse.search.local.blocks import BLOCK_ROWS, Checksums
from simcse.search.local.files import (
    MANIFEST,
    changed_at,
    file_name,
    folder_size,
    looked_again,
    part_of,
    read_manifest,
    remove_strays,
    write_manifest,
)
from simcse.search.local.store import Store, file_id
from simcse.search.local.vectors import Vectors
from simcse.search.local.view import View
from simcse.search.nearest.ann import Ann, PackedAnn
from simcse.search.nearest.plan import make_plan
from simcse.search.storage import change_inside_change
from simcse.vectors import Matrix

__all__ = ["State", "file_of"]

log = logging.getLogger(__name__)

VERIFIED_AT_ONCE = 64 * 2**20  # bytes; larger indexes open memory-mapped, and are checked where they are touched
LONGEST_TAIL = 20_000  # rows behind the approximate index that are compared exactly


class State:
    """The current view of an index, and the road to the next."""

    def __init__(self, identity: Identity, store: Store, vectors: Vectors, folder: Path | None, seen: int = 0) -> None:
        """Use `empty` or `open`."""
        self.identity, self.store, self.vectors, self.folder = identity, store, vectors, folder
        self._ann: Ann | None = None
        self.lock = threading.RLock()
        self._seen = seen  # `changed_at` of the folder before anything of it was read
        self._refused = ""  # why what lies in the folder now is not taken in
        self.view = self.committed()

    @classmethod
    def empty(cls, identity: Identity, settings: dict[str, Any]) -> State:
        """No rows, in memory."""
        state = cls(identity, Store(), Vectors(identity.dimension), None)
        state.store["settings"] = settings
        state.note(0)
        state.view = state.committed()
        return state

    @classmethod
    def open(cls, folder: Path, *, mmap: bool = True) -> State:
        """What lies in a folder.

        Raises:
            SearchError: no index, or a damaged one.
        """
        return looked_again(folder, lambda manifest, seen: cls._open(folder, manifest, mmap, seen))

    @classmethod
    def _open(cls, folder: Path, manifest: dict[str, Any], mmap: bool, seen: int) -> State:
        try:
            identity = Identity.from_json(manifest["encoder"])
        except (ValueError, KeyError, TypeError) as error:
            raise SearchError(
                f"{folder / MANIFEST}: damaged ({error}); restore a copy or build the index anew"
            ) from error
        store = Store(part_of(folder, "store", manifest["store"]))
        stored = store["vectors"]
        found = stored.get("dimension") if isinstance(stored, dict) else stored
        if found != identity.dimension:
            raise SearchError(
                f"{store.path}: holds {found} dimensions, {MANIFEST} says {identity.dimension}; these files are not of "
                "one index: restore a copy or build it anew"
            )
        vectors = Vectors(identity.dimension, part_of(folder, "vectors", stored.get("file")), mmap)
        state = cls(identity, store, vectors, folder, seen)
        if not mmap or folder_size(folder) <= VERIFIED_AT_ONCE:
            state.verify()
        return state

    def __reduce__(self) -> tuple[Callable[..., State], tuple[Any, ...]]:
        """For `pickle` and `copy`: of an index in memory all that it holds, of one in a folder its place.

        Two copies of an index in a folder are that folder opened twice, as by two processes.
        """
        with self.lock:
            if self.folder is not None:
                return _opened, (self.folder.absolute(), self.vectors.mmap, self.identity)
            return _restored, (
                self.identity,
                self.store.content(),
                self.vectors.matrix,
                self._ann and self._ann.packed(),
            )

    def verify(self) -> None:
        """Read everything and compare checksums.

        Raises:
            SearchError: damage; names the file.
        """
        view = self.view
        with view.store.reading():  # one state, whatever other processes commit meanwhile
            texts, deleted, stored = len(view.store), len(view.store.dead()), view.store["vectors"]
        if texts + deleted != stored["count"]:
            raise SearchError(
                f"{view.store.path or 'index in memory'}: {texts} texts and {deleted} deleted ones for "
                f"{stored['count']} vectors; restore a copy or build the index anew"
            )
        view.blocks.forget()
        view.blocks.check(view.raw)
        view.store.verify()
        if view.ann is not None:
            view.ann.verify()

    def committed(self) -> View:
        """What is committed, or what this thread is about to commit, read in one transaction."""
        store, vectors = self.store, self.vectors
        known = vectors.checksums[: vectors.count // BLOCK_ROWS]  # rows are only added: full blocks stay as they are
        with store.reading():
            generation, stored, ann = store["generation"] or 0, store["vectors"], store["ann"]
            settings, plan, dead = store["settings"] or {}, store["plan"], store.dead()
            checksums = np.concatenate([known, store.checksums(len(known))])
        try:
            if stored is not None:
                vectors.move_to(_whole(stored["count"]), checksums)
            live = None
            if len(dead):
                live = np.ones(vectors.count, bool)
                live[dead] = False
            count = vectors.count - len(dead)
            committed_ann = self._committed_ann(ann)
            return View(
                _whole(generation), store, vectors.matrix, vectors.blocks, live, count, committed_ann, settings, plan
            )
        except (KeyError, TypeError, IndexError) as error:
            raise SearchError(f"{store.path}: damaged ({error}); restore a copy or build the index anew") from error

    def _committed_ann(self, stored: dict[str, int] | None) -> Ann | None:
        """The committed approximate index: the one in memory, or the file that another process has written."""
        if stored is None:
            self._ann = None
        elif self._ann is None or self._ann.key != stored["key"]:
            assert self.folder is not None
            file = self.folder / file_name("ann", stored["key"])
            self._ann = Ann.read(file, stored, mmap=self.vectors.mmap, checked=VERIFIED_AT_ONCE)
        return self._ann

    def optimize(self, memory: int | None = None, sample_queries: Matrix | None = None) -> None:
        """Choose, build and measure an approximate index for the rows that are there; see `plan.make_plan`. Sample
        queries are kept, and used again when the index is compacted.
        """
        with self.mutation():
            if sample_queries is not None:
                self.store["sample_queries"] = [len(sample_queries), packed_units(sample_queries)]
            self.plan(self.view.generation + 1, memory)

    def plan(self, key: int, memory: int | None = None) -> None:
        """Choose an approximate index, whose file gets the number `key`; inside a mutation."""
        live = np.ones(self.vectors.count, bool)
        live[self.store.dead()] = False
        settings, sample = self.store["settings"], self.store["sample_queries"]
        try:
            kind, target_recall = settings["kind"], settings["target_recall"]
            sample_queries = sample and unpacked_units(sample[1], sample[0])
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise SearchError(
                f"{self.store.path}: damaged settings or sample queries ({error}); restore a copy or build the index "
                "anew"
            ) from error
        plan, ann = make_plan(
            self.vectors.checked(),
            kind=kind,
            target_recall=target_recall,
            memory=memory,
            live=live,
            sample_queries=sample_queries,
        )
        self.store["plan"] = plan.to_json()
        self.put(ann, key)

    def put(self, ann: Ann | None, key: int) -> None:
        """Make this the approximate index, in a file with the number `key`; inside a mutation."""
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
        slots = np.setdiff1d(np.arange(ann.covered, count), self.store.dead(), assume_unique=True)
        self.put(ann.grown(self.vectors.checked(slots), slots), self.view.generation + 1)

    def current(self) -> View:
        """The view to search, after taking in what another process has committed to the same files.

        Raises:
            OtherEncoderError: another encoder has built the index anew.
            SearchError: another process has put a damaged index there.
        """
        if self.folder is None or self.store.changing:
            return self.view
        if changed_at(self.folder) != self._seen and self.lock.acquire(blocking=False):
            try:  # where it cannot be had, a thread of ours is the one that changes the index: the old view is fine
                self.follow()
            finally:
                self.lock.release()
        if self._refused:
            raise OtherEncoderError(self._refused)
        return self.view

    def follow(self) -> None:
        """Take in what other processes have committed; raises as `current`."""
        assert self.folder is not None
        if changed_at(self.folder) and (other := looked_again(self.folder, self._look)) is not None:
            self.take(other)

    def _look(self, manifest: dict[str, Any], seen: int) -> State | None:
        """What lies in our folder in the place of our files; None if they lie there still, and are taken in."""
        assert self.folder is not None
        if not self._is_ours(manifest):
            return State._open(self.folder, manifest, self.vectors.mmap, seen)
        if self.store["generation"] != self.view.generation:
            self.view = self.committed()
        self._seen, self._refused = seen, ""
        return None

    def _is_ours(self, manifest: dict[str, Any]) -> bool:
        """Whether a manifest names the store that is open: not another one, nor another file of the same name."""
        assert self.folder is not None
        name: str = manifest["store"]
        return name == file_of(self.store) and file_id(self.folder / name) == self.store.file

    def take(self, other: State) -> None:
        """Go on with another state, unless another encoder has made it."""
        try:
            other.identity.check_follows(self.identity, str(other.folder))
        except OtherEncoderError as error:
            self._seen, self._refused = other._seen, str(error)
            raise
        self.identity, self.store, self.vectors, self.folder = other.identity, other.store, other.vectors, other.folder
        self._ann, self._seen, self._refused = other._ann, other._seen, ""
        self.view = other.view

    @contextmanager
    def mutation(self) -> Iterator[None]:
        """All changes inside become durable and visible together, or not at all.

        Raises:
            SearchError: another process is changing the index, or this thread in an outer block, or it cannot be
                written; it is then as it was before.
            OtherEncoderError: another encoder has built the index anew.
        """
        with self.lock:
            self.check_not_changing()
            before: tuple[int, Checksums] | None = None
            try:
                with self.locked():
                    before = self.vectors.count, self.vectors.checksums
                    try:
                        yield
                        self.vectors.sync()
                        self._absorb()
                        self.note(self.view.generation + 1, before[0])
                        view = self.committed()
                    except BaseException:
                        self.vectors.rewind(*before)
                        raise
            except BaseException:  # the commit itself may have failed
                if before is not None:
                    self.vectors.move_to(*before)
                    self._ann = self.view.ann
                raise
            self.view = view
            if self.folder is not None:
                self.describe()

    def check_not_changing(self) -> None:
        """Raise a SearchError where this thread is in the middle of a change."""
        if self.store.changing:
            raise change_inside_change(self.folder or "index in memory")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from changing the index, starting from what they have done so far."""
        while True:
            if self.folder is not None:
                self.follow()
            with self.store.transaction():
                if self.folder is not None and not self._is_ours(read_manifest(self.folder)):
                    continue  # just now
                if self.store["generation"] != self.view.generation:
                    self.view = self.committed()
                yield
                return

    def note(self, generation: int, unchanged: int = 0) -> None:
        """Write down what vectors a generation has, of which the first ones are as before; inside a mutation."""
        vectors, first = self.vectors, unchanged // BLOCK_ROWS
        name = vectors.path.name if vectors.path else None
        self.store["generation"] = generation
        self.store["vectors"] = {"file": name, "count": vectors.count, "dimension": vectors.dimension}
        self.store.put_checksums(first, vectors.checksums[first:])

    def describe(self) -> None:
        """Bring the manifest's figures up to date; they are for readers, the store has the truth."""
        assert self.folder is not None
        try:
            with self.store.transaction():  # another process may have gone on since
                if self._is_ours(read_manifest(self.folder)) and self.store["generation"] == self.view.generation:
                    write_manifest(self.folder, self.manifest())
                    ann = {file_name("ann", self._ann.key)} if self._ann else set()
                    remove_strays(self.folder, {file_of(self.store), file_of(self.vectors), *ann})
        except (OSError, SearchError) as error:
            log.warning("%s: the change is durable, but %s is out of date: %s", self.folder, MANIFEST, error)

    def manifest(self) -> dict[str, Any]:
        """What `write_manifest` writes of the current view."""
        files: dict[str, dict[str, Any]] = {file_of(self.vectors): {"rows": self.vectors.count}}
        if self._ann is not None:
            files[file_name("ann", self._ann.key)] = {"rows": self._ann.covered, "crc32": f"{self._ann.crc:08x}"}
        return {
            "store": file_of(self.store),
            "encoder": self.identity.to_json(),
            "dimension": self.identity.dimension,
            "metric": "cosine",
            "count": self.view.count,
            "generation": self.view.generation,
            "settings": self.view.settings,
            "plan": self.view.plan,
            "files": files,
        }


def _opened(folder: Path, mmap: bool, identity: Identity) -> State:
    """What lies in a folder now, if the same encoder built it; raises as `open` and `current`."""
    state = State.open(folder, mmap=mmap)
    state.identity.check_follows(identity, str(folder))
    return state


def _restored(identity: Identity, content: bytes, matrix: Matrix, ann: PackedAnn | None) -> State:
    """A state in memory."""
    state = State(identity, Store(), Vectors(identity.dimension), None)
    state.store.restore(content)
    state.vectors.append(matrix)
    state._ann = ann and Ann.unpacked(ann)
    state.view = state.committed()
    return state


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"found {value!r} as a whole number")
    return value


def file_of(part: Store | Vectors) -> str:
    """Its file's name in the folder of the index."""
    assert part.path is not None
    return part.path.name
