"""Saving and compacting: a whole index written anew, beside the old files, which then makes way in one step.

A copy gets checksums of its own. So what it reads is compared with the old ones a moment before, whether that was
done when it was first touched or not: damage is never made to look sound.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from copy import copy
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from simcse.errors import SearchError
from simcse.files import replaced_folder
from simcse.search.local.files import (
    LOOKS,
    MANIFEST,
    file_name,
    highest_number,
    remove_strays,
    write_manifest,
)
from simcse.search.local.state import State
from simcse.search.local.store import Store
from simcse.search.local.vectors import Vectors
from simcse.search.local.view import View

__all__ = ["compact", "compact_if_due", "save"]

log = logging.getLogger(__name__)

COMPACT_AT = 4 / 3  # rows per living row
ROWS_AT_ONCE = 16_384


def save(state: State, folder: Path) -> None:
    """Write the living rows to a folder, new or that of an index to replace, and continue there.

    Raises:
        SearchError: the folder holds something else, or cannot be written; what is to be copied is damaged.
    """
    with state.lock, _explained(folder):
        state.check_not_changing()
        if (folder / MANIFEST).is_file():
            _replace(state, folder)
        elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise SearchError(f"{folder}: exists and is no index; give a new folder, or remove this one first")
        else:
            with _still(state) as view, replaced_folder(folder) as beside:
                _copy(state, view, beside, view.generation + 1)
            state.take(State.open(folder, mmap=state.vectors.mmap))


def compact(state: State) -> None:
    """Drop what is deleted from all files, and choose the approximate index anew.

    Raises:
        SearchError: the folder cannot be written; what is to be copied is damaged.
    """
    with state.lock, _explained(state.folder):
        state.check_not_changing()
        if state.folder is not None:
            _replace(state, state.folder, replan=True)
            return
        fresh = State(state.identity, Store(), Vectors(state.identity.dimension), None)
        _fill(fresh, state.view, state.view.generation + 1, replan=True)
        state.take(fresh)


def compact_if_due(state: State) -> None:
    """Compact where more than a quarter is dead. A failure is logged: what was deleted is so, compacted or not."""
    try:
        if state.view.size > COMPACT_AT * state.view.count:
            compact(state)
    except SearchError as error:
        log.warning("%s: the deletion is durable, but its room was not freed: %s", state.folder, error)


def _replace(state: State, folder: Path, replan: bool = False) -> None:
    ours = state.folder is not None and folder.resolve() == state.folder.resolve()
    with ExitStack() as stack:
        generation = highest_number(folder)
        try:
            there = state if ours else State.open(folder)
        except SearchError:
            pass  # a damaged index, which nobody can change, makes way
        else:  # nobody changes what is about to be replaced
            stack.enter_context(there.locked())
            generation = max(generation, there.view.generation)
        view = stack.enter_context(_still(state))
        old = {path.name for path in folder.iterdir()}
        try:
            _copy(state, view, folder, max(generation, view.generation) + 1, replan)
        except BaseException:
            remove_strays(folder, old)
            raise
    state.take(State.open(folder, mmap=state.vectors.mmap))
    state.describe()


@contextmanager
def _still(state: State) -> Iterator[View]:
    """The view to copy; other processes cannot commit a change of it while the block runs."""
    if state.folder is None or state.store.changing:
        yield state.view
        return
    for _ in range(LOOKS):
        state.follow()
        with closing(Store(state.store.path)) as beside, beside.reading():  # of its own, so that searches go on
            if beside.file == state.store.file and beside["generation"] == state.view.generation:
                yield replace(state.view, store=beside)
                return
    raise SearchError(f"{state.folder}: other processes keep changing it; try again")


def _copy(state: State, view: View, folder: Path, generation: int, replan: bool = False) -> None:
    """Write files of a new generation; the manifest, last, makes them count."""
    with closing(Store(folder / file_name("store", generation), create=True)) as store:
        vectors = Vectors(state.identity.dimension, folder / file_name("vectors", generation))
        fresh = State(state.identity, store, vectors, folder)
        _fill(fresh, view, generation, replan)
        write_manifest(folder, fresh.manifest())


def _fill(fresh: State, view: View, generation: int, replan: bool) -> None:
    """Put the living rows of a view into a state without rows; durable where that has files."""
    view.blocks.forget()  # what was right when it was first read may be damaged by now
    with fresh.store.transaction():
        rows = view.store.rows(ROWS_AT_ONCE)
        while block := list(islice(rows, ROWS_AT_ONCE)):
            fresh.store.insert(fresh.vectors.count, [row for _, row in block])
            fresh.vectors.append(view.vectors(np.array([slot for slot, _ in block])))
        if fresh.vectors.count != view.count:
            raise SearchError(
                f"{view.store.path or 'index in memory'}: damaged: found {fresh.vectors.count} texts, expected "
                f"{view.count}; restore a copy or build the index anew"
            )
        for key in ("settings", "next_id", "note", "plan", "sample_queries"):
            fresh.store[key] = view.store[key]
        fresh.vectors.sync()
        fresh.note(generation)
        if replan or (view.ann is not None and view.live is not None):
            fresh.plan(generation)
        elif view.ann is not None:
            view.ann.verify()
            fresh.put(copy(view.ann), generation)
        fresh.view = fresh.committed()


@contextmanager
def _explained(folder: Path | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SearchError(f"{folder}: {error.strerror}; nothing was changed; free the way and try again") from error
