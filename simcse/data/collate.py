"""Rows in, stacked token batches out, prepared by a thread ahead of the step that needs them."""

from __future__ import annotations

import hashlib
import queue
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import datasets
import numpy as np
import torch
from torch import Tensor

from simcse.data.augment import Augment
from simcse.tokens.batch import TokenBatch
from simcse.tokens.tokenize import Tokenize

__all__ = ["Batch", "Batches", "text_key"]

AHEAD = 4  # batches prepared before they are needed


@dataclass(frozen=True)
class Batch:
    """One process's share of a step.

    Attributes:
        tokens: B * V sequences; the V views of a row stand side by side, so that a run of rows is a run of tokens.
        views: V, sentences of a row: 2 for dropout positives and pairs, 3 for triplets.
        rows: (B,) numbers of the rows in the training file.
        keys: (V, B) int64 hashes of the texts; equal texts have equal keys.
        log_frequency: (V, B) natural log of the share of rows that have the text in this view, if asked for.
    """

    tokens: TokenBatch
    views: int
    rows: np.ndarray
    keys: Tensor
    log_frequency: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)


def text_key(text: str) -> int:
    """A signed 64-bit hash, the same in every process."""
    return int.from_bytes(
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big", signed=True
    )


class Batches:
    """The order of the rows, and one process's share of every batch.

    The rows of an epoch are shuffled by (seed, epoch) alone, and step s of a run is always the same rows: a run can
    stop and go on anywhere, and W processes together see what one process would.

    Args:
        dataset: columns `text` (each row is its own positive), or `anchor`, `positive` and perhaps `hard_negative`.
        tokenize: cuts and tokenizes; or one for each column, where they have prompts of their own.
        batch_size: rows of a step over all processes; what is left at an epoch's end is dropped, as its few rows would
            meet fewer negatives.
        seed: of the order.
        rank: this process.
        world: number of processes, a divisor of `batch_size`.
        device: where the tensors go.
        with_counts: fill `Batch.log_frequency`.
        augment: changes the second view of a text, each time anew; None leaves it as it is.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        tokenize: Tokenize | Sequence[Tokenize],
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        with_counts: bool = False,
        augment: Augment | None = None,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.rank, self.world = rank, world
        self.device = device
        self.augment = augment
        names = list(dataset.column_names)
        self.columns = names if len(names) > 1 else names * 2  # a text is its own positive
        each = [tokenize] * len(names) if isinstance(tokenize, Tokenize) else list(tokenize)
        self.tokenize = each if len(names) > 1 else each * 2  # of the V views
        self.counts = [self._count(name) for name in self.columns] if with_counts else None
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))

    @property
    def repeats_texts(self) -> bool:
        """Whether a row is the same text twice, so that only dropout tells its views apart."""
        return self.columns[0] == self.columns[1] and self.augment is None

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        return len(self.dataset) // self.batch_size

    def rows_of(self, step: int) -> np.ndarray:
        """Numbers of this process's rows in step 0, 1, 2, ... of the run."""
        epoch, place = divmod(step, self.per_epoch)
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng((self.seed, epoch)).permutation(len(self.dataset)))
        share = self.batch_size // self.world
        first = place * self.batch_size + self.rank * share
        return self._order[1][first : first + share]

    def batch_of(self, step: int) -> Batch:
        """This process's share of a step."""
        rows = self.rows_of(step)
        table = self.dataset[rows.tolist()]
        columns = [table[name] for name in self.columns]  # V lists of B texts
        if self.augment is not None:
            columns[1] = self._augmented(columns[1], rows, step)
        distinct = columns if columns[0] is not columns[1] else columns[:1]
        found = [tokenize(column)[0] for tokenize, column in zip(self.tokenize, distinct, strict=False)]
        views = found if len(distinct) > 1 else found * len(columns)  # V lists of B token lists
        ids = [sequence for row in zip(*views, strict=True) for sequence in row]
        left_out = tuple(tokenize.left_out for tokenize in self.tokenize) * len(rows)
        keys = [[text_key(text) for text in column] for column in columns]
        return Batch(
            TokenBatch.from_lists(ids, self.device, left_out if any(left_out) else ()),
            len(columns),
            rows,
            torch.tensor(keys, device=self.device),  # (V, B)
            self._log_frequency(keys),
        )

    @contextmanager
    def ahead(self, first: int, last: int) -> Iterator[Iterator[Batch]]:
        """Yield the batches of steps first..last - 1, each prepared by a thread while earlier ones train."""
        ready: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=AHEAD)
        stopped = threading.Event()

        def put(item: Batch | BaseException) -> None:
            while not stopped.is_set():
                with suppress(queue.Full):
                    ready.put(item, timeout=0.1)
                    return

        def prepare() -> None:
            try:
                for step in range(first, last):
                    if stopped.is_set():
                        return
                    put(self.batch_of(step))
            except BaseException as error:  # whatever it is, it belongs to the thread that waits
                put(error)

        def take() -> Iterator[Batch]:
            for _ in range(first, last):
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                yield item

        thread = threading.Thread(target=prepare, daemon=True, name="simcse-batches")
        thread.start()
        try:
            yield take()
        finally:
            stopped.set()
            thread.join()

    def _augmented(self, texts: list[str], rows: np.ndarray, step: int) -> list[str]:
        """Each text by a random source of its own (seed, step, row): the same for any number of processes."""
        assert self.augment is not None
        return [
            self.augment(text, np.random.default_rng((self.seed, step, row)))
            for text, row in zip(texts, rows.tolist(), strict=True)
        ]

    def _count(self, column: str) -> Counter[int]:
        counts: Counter[int] = Counter()
        for start in range(0, len(self.dataset), 10_000):
            counts.update(map(text_key, self.dataset[start : start + 10_000][column]))
        return counts

    def _log_frequency(self, keys: list[list[int]]) -> Tensor | None:
        if self.counts is None:
            return None
        seen = [[counts[key] for key in column] for counts, column in zip(self.counts, keys, strict=True)]
        return (torch.tensor(seen, device=self.device, dtype=torch.float32) / len(self.dataset)).log()  # (V, B)
