"""Rows of one source in, stacked token batches out."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import datasets
import numpy as np
import torch
from torch import Tensor

from simcse.data.augment import Augment
from simcse.tokens.batch import TokenBatch
from simcse.tokens.tokenize import Tokenize

__all__ = ["SCORE", "Batch", "Batches", "TextVectors", "text_key"]

SCORE = "score"  # the column of scored pairs that holds no text


@dataclass(frozen=True)
class Batch:
    """One process's share of a step.

    Attributes:
        tokens: B * V sequences; the V views of a row stand side by side, so that a run of rows is a run of tokens.
        views: V, sentences of a row: 2 for dropout positives and pairs, 3 for triplets, 1 for texts without positives.
        rows: (B,) numbers of the rows in the training file.
        keys: (V, B) int64 hashes of the texts; equal texts have equal keys.
        log_frequency: (V, B) natural log of the share of rows that have the text in this view, if asked for.
        scores: (B,) gold similarities from 0 to 1 of scored pairs.
        teacher: (V, B, D_t) vectors that a teacher gives the texts, of unit length.
        source: number of the source that the rows are of.
    """

    tokens: TokenBatch
    views: int
    rows: np.ndarray
    keys: Tensor
    log_frequency: Tensor | None = None
    scores: Tensor | None = None
    teacher: Tensor | None = None
    source: int = 0

    def __len__(self) -> int:
        return len(self.rows)


class TextVectors:
    """The vectors that one or several encoders give the texts of a column, side by side, so that the dot product of two
    rows is the mean of the encoders' cosines.

    Args:
        parts: for each encoder (N, D_i), of unit length.
    """

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self._parts = parts

    @property
    def dimension(self) -> int:
        """Of the vectors together."""
        return sum(part.shape[1] for part in self._parts)

    def __getitem__(self, row: int) -> np.ndarray:
        """(D_t,) of unit length."""
        joined: np.ndarray = np.concatenate([part[row] for part in self._parts]) / np.sqrt(len(self._parts))
        return joined


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
        dataset: columns `text` (each row is its own positive), or `anchor`, `positive` and perhaps hard negatives;
            `score` beside two of them makes scored pairs.
        tokenize: cuts and tokenizes; or one for each column, where they have prompts of their own.
        batch_size: rows of a step over all processes; what is left at an epoch's end is dropped, as its few rows would
            meet fewer negatives.
        seed: of the order.
        rank: this process.
        world: number of processes, a divisor of `batch_size`.
        device: where the tensors go.
        with_counts: fill `Batch.log_frequency`.
        augment: changes the second view of a text, each time anew; None leaves it as it is.
        any_two: the columns of a row mean the same; its two views are drawn from them, each time anew.
        once: the texts of a column alone have no positives: one view, which a teacher can be learned from.
        teacher: of each column the vectors that a teacher gives its rows, for `Batch.teacher`; empty: none.
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
        any_two: bool = False,
        once: bool = False,
        teacher: Sequence[TextVectors] = (),
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.rank, self.world = rank, world
        self.device = device
        self.augment = augment
        self.any_two = any_two
        self.teacher = teacher
        self.text_columns = [name for name in dataset.column_names if name != SCORE]  # C columns
        each = [tokenize] * len(self.text_columns) if isinstance(tokenize, Tokenize) else list(tokenize)
        places = [0, 1] if any_two else list(range(len(self.text_columns)))
        places = places if len(places) > 1 or once else places * 2  # a text is its own positive
        self.columns = [self.text_columns[place] for place in places]  # of the V views, unless they are drawn
        self.tokenize = [each[place] for place in places]
        self._places = np.asarray(places)
        self.counts = [self._count(name) for name in self.columns] if with_counts else None
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))

    @property
    def repeats_texts(self) -> bool:
        """Whether a row is the same text twice, so that only dropout tells its views apart."""
        return self.columns[1:] == self.columns[:1] and self.augment is None

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
        places = self._places_of(rows, step)  # (V, B)
        columns = [[table[self.text_columns[place]][row] for row, place in enumerate(view)] for view in places.tolist()]
        if self.augment is not None:
            columns[1] = self._augmented(columns[1], rows, step)
        distinct = columns[:1] if self.repeats_texts else columns
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
            torch.tensor(table[SCORE], device=self.device, dtype=torch.float32) if SCORE in table else None,  # (B,)
            self._teacher_of(places, rows),
        )

    def _places_of(self, rows: np.ndarray, step: int) -> np.ndarray:
        """(V, B) which column the text of each view and row stands in."""
        if not self.any_two:
            return np.broadcast_to(self._places[:, None], (len(self._places), len(rows)))
        draws = [np.random.default_rng((self.seed, step, row)) for row in rows.tolist()]
        return np.stack([draw.permutation(len(self.text_columns))[:2] for draw in draws], axis=1)

    def _teacher_of(self, places: np.ndarray, rows: np.ndarray) -> Tensor | None:
        """(V, B, D_t) vectors of the batch's texts, as their files have them before augmentation."""
        if not len(self.teacher):
            return None
        views = [[self.teacher[place][row] for place, row in zip(view, rows, strict=True)] for view in places]
        return torch.from_numpy(np.asarray(views, dtype=np.float32)).to(self.device)

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
