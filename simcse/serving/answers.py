"""A batch of texts to encode, some of them to search for: the work between the queues and the responses.

A filter is compared with every row, which may take seconds. Filters therefore have a queue and a thread of their own;
what is left to the texts' thread is to search the rows that are left.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from simcse.errors import SearchError, SimCSEError
from simcse.search.index import Hit, SearchIndex
from simcse.search.storage import Filter
from simcse.serving.metrics import Metrics
from simcse.vectors import Encode, Matrix, unit_vectors

__all__ = ["Answer", "Answers", "Filtering", "Filters", "Search", "Task", "listed"]


@dataclass(frozen=True)
class Search:
    """What to search for with a text's vector; see `SearchIndex.search`."""

    top_k: int
    min_score: float | None = None
    where: dict[str, Any] = field(default_factory=dict)
    rows: Filter | None = None
    """Those that `where` leaves."""


@dataclass(frozen=True)
class Task:
    """A text to encode in its role, `query` or `document` or none, and to search for if `search` says how."""

    text: str
    search: Search | None = None
    role: str | None = None


@dataclass(frozen=True)
class Answer:
    """Unit vector (d,) of the text, and its hits."""

    vector: Matrix
    hits: list[Hit]


@dataclass(frozen=True)
class Filtering:
    """A filter, and when nobody waits for its rows any more, in seconds of `time.monotonic`."""

    where: dict[str, Any]
    until: float


class Filters:
    """Batch of filters in, the rows that they leave out: equal ones are looked for once.

    Args:
        index: to look in.
        metrics: to note times in.
    """

    def __init__(self, index: SearchIndex, metrics: Metrics) -> None:
        self._index, self._metrics = index, metrics

    def __call__(self, wanted: Sequence[Filtering]) -> list[Filter | Exception]:
        """The rows for each filter; an exception where it is wrong or took too long."""
        begin = time.perf_counter()
        until: dict[str, float] = {}
        for one in wanted:
            until[_key(one.where)] = max(one.until, until.get(_key(one.where), one.until))
        found: dict[str, Filter | Exception] = {}
        for one in wanted:
            if (key := _key(one.where)) not in found:
                found[key] = self._found(one.where, until[key])
        self._metrics.filter_seconds.observe(time.perf_counter() - begin)
        return [found[_key(one.where)] for one in wanted]

    def _found(self, where: dict[str, Any], until: float) -> Filter | Exception:
        try:
            return self._index.subset(where, lambda: time.monotonic() > until)
        except (SearchError, TimeoutError) as error:
            return error


class Answers:
    """Batch in, answers out: each distinct text of a role is encoded once, searches with equal filters run as one.

    Args:
        index: to search.
        encoders: for each role, list of n texts -> (n, d) vectors.
        metrics: to note times and sizes in.
    """

    def __init__(self, index: SearchIndex, encoders: Mapping[str | None, Encode], metrics: Metrics) -> None:
        self._index, self._encoders, self._metrics = index, encoders, metrics

    def __call__(self, tasks: Sequence[Task]) -> list[Answer | Exception]:
        """An answer for each task; an exception where its search is wrong.

        Raises:
            SimCSEError: the texts cannot be encoded.
        """
        begin = time.perf_counter()
        vectors = np.empty((len(tasks), self._index.dimension), np.float32)  # (n, d)
        for role in {task.role for task in tasks}:
            numbers = [number for number, task in enumerate(tasks) if task.role == role]
            rows = {text: row for row, text in enumerate(dict.fromkeys(tasks[n].text for n in numbers))}
            distinct = unit_vectors(self._encoders[role], list(rows), self._index.dimension)  # (u, d)
            vectors[numbers] = distinct[[rows[tasks[n].text] for n in numbers]]
        encoded = time.perf_counter()
        answers: list[Answer | Exception] = [Answer(vector, []) for vector in vectors]
        for numbers in _groups(tasks):
            self._search([tasks[n] for n in numbers], vectors[numbers], numbers, answers)
        self._metrics.batch_texts.observe(len(tasks))
        self._metrics.encode_seconds.observe(encoded - begin)
        self._metrics.search_seconds.observe(time.perf_counter() - encoded)
        return answers

    def _search(
        self, tasks: Sequence[Task], vectors: Matrix, numbers: list[int], answers: list[Answer | Exception]
    ) -> None:
        """Fill in the hits of tasks whose filters are equal: searched for the largest top_k, then cut for each."""
        wanted = [task.search for task in tasks if task.search is not None]
        try:
            found = self._index.search_vectors(vectors, max(one.top_k for one in wanted), where=wanted[0].rows)
        except SimCSEError as error:
            for n in numbers:
                answers[n] = error
            return
        for n, vector, hits, one in zip(numbers, vectors, found, wanted, strict=True):
            least = -np.inf if one.min_score is None else one.min_score
            answers[n] = Answer(vector, [hit for hit in hits[: one.top_k] if hit.score >= least])


def listed(values: Matrix, digits: int = 7) -> Any:
    """Numbers (n, d) as JSON, rounded."""
    return np.round(values.astype(np.float64), digits).tolist()


def _groups(tasks: Sequence[Task]) -> list[list[int]]:
    """Numbers of the tasks to search for, those with equal filters together."""
    groups: dict[str, list[int]] = {}
    for number, task in enumerate(tasks):
        if task.search is not None:
            groups.setdefault(_key(task.search.where), []).append(number)
    return list(groups.values())


def _key(where: dict[str, Any]) -> str:
    return json.dumps(where, sort_keys=True)
