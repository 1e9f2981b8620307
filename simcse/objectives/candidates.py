"""Candidate sets from a batch: vectors in, for each anchor its candidates out, one of which is right.

InfoNCE and NT-Xent are losses made of two halves: a candidate set and softmax cross-entropy. Here are the candidate
sets of a batch (`vocabulary.py` has those of a fixed vocabulary); an objective turns their `ContrastiveLogits` into a
loss. Each candidate set works with each objective.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from simcse.errors import ConfigError
from simcse.objectives.logits import ContrastiveLogits
from simcse.objectives.registry import build

__all__ = [
    "CANDIDATES",
    "AllViewsCandidates",
    "BatchCandidates",
    "Gather",
    "InBatchCandidates",
    "PastKeys",
    "Similarity",
    "SymmetricCandidates",
    "build_candidates",
]

Gather = Callable[[Tensor], Tensor]
"""Maps this process's rows (n, ...) to everyone's (world * n, ...) in rank order, with gradient."""

Similarity = Literal["cosine", "dot"]


class PastKeys(NamedTuple):
    """Vectors of earlier batches, further negatives of all anchors (MoCo, He et al. 2020; ESimCSE, Wu et al. 2022).

    Attributes:
        vectors: (Q, D), used without gradient; may be empty.
        keys: (Q,) int64 hashes of their texts; needed where the batch has `keys`.
        log_frequency: (Q,) as the batch's; needed where the batch has it.
    """

    vectors: Tensor
    keys: Tensor | None = None
    log_frequency: Tensor | None = None


@dataclass(frozen=True)
class BatchCandidates:
    """What the candidate sets of a batch share: their options, and how they are called.

    Raises:
        ConfigError: an option out of range.
    """

    directions: ClassVar[tuple[tuple[int, int], ...]]
    """(view of the anchors, view of their positives), one block of B rows each."""

    anchors_compete: ClassVar[bool] = False
    """Whether the other vectors of the anchors' own view are candidates, too."""

    temperature: float = 0.05
    """Divides the similarity; 0.05 as in SimCSE, App. A."""

    hard_negative_weight: float = 1.0
    """Weight alpha of the anchor's own hard negatives in the denominator; others' have weight 1. 1 as in SimCSE (whose
    code expects ln alpha)."""

    similarity: Similarity = "cosine"
    """Of two vectors: "cosine", or "dot" product."""

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise ConfigError(
                f"temperature is {self.temperature}, expected a number above 0 (0.05 is usual for cosines)"
            )
        if not (self.hard_negative_weight > 0 and math.isfinite(self.hard_negative_weight)):
            raise ConfigError(
                f"hard_negative_weight is {self.hard_negative_weight}, expected a number above 0 (1 leaves hard "
                "negatives as they are; to leave them out, drop their column)"
            )
        if self.similarity not in ("cosine", "dot"):
            raise ConfigError(f"similarity is {self.similarity!r}, expected 'cosine' or 'dot'")

    def __call__(
        self,
        views: Tensor,
        *,
        keys: Tensor | None = None,
        log_frequency: Tensor | None = None,
        past: PastKeys | None = None,
        gather: Gather = lambda rows: rows,
        rank: int = 0,
    ) -> ContrastiveLogits:
        """Similarities over temperature of each anchor with its candidates in the global batch.

        Args:
            views: (V, B, D) this process's vectors: anchors, positives, then V - 2 views of hard negatives.
            keys: (V, B) int64 hashes of the texts. A candidate other than the target whose key equals the anchor's or
                its positive's is no negative: it is masked out.
            log_frequency: (V, B) natural log of the share of the training rows that have the text in this view; fills
                `log_noise` and `correction` for the objectives that need counts.
            past: vectors of earlier batches, the last candidates of each row.
            gather: brings the rows of all processes together, with gradient.
            rank: this process's place in what `gather` returns.

        Returns:
            B rows for each direction; the target of row i is its own positive. No factor for the number of processes:
            the mean over processes of the loss has the gradient of one process on the whole batch.

        Raises:
            ConfigError: tensors that do not fit.
            DataError: a row without a valid negative.
        """
        _check(views, keys, log_frequency)
        batch = self._global_batch(views, keys, log_frequency, gather, rank)
        if past is not None:
            batch = batch.with_past(past)
        return batch.logits(self.directions, self.anchors_compete)

    def most_negatives(self, views: int, rows: int) -> int:
        """Negatives of an anchor in a global batch of so many rows, if no two texts are equal."""
        others = views if self.anchors_compete else views - 1
        return others * rows - (2 if self.anchors_compete else 1)

    def _global_batch(
        self, views: Tensor, keys: Tensor | None, log_frequency: Tensor | None, gather: Gather, rank: int
    ) -> _Batch:
        """Gather the candidates' views in one exchange."""
        one_way = len(self.directions) == 1
        first = 1 if one_way and not self.anchors_compete else 0  # the first view that holds candidates
        own = _vectors(views, self.similarity)  # (V, B, D)
        gathered = gather(own[first:].transpose(0, 1).contiguous())  # (N, V - first, D)
        B, N = own.shape[1], gathered.shape[0]
        if N % B or not 0 <= rank < N // B:
            raise ConfigError(
                f"rank is {rank} and gather gave {N} rows, expected a multiple of {B} and a rank below {N / B:g}"
            )
        return _Batch(
            own,
            {view: gathered[:, view - first] for view in range(first, own.shape[0])},
            keys=None if keys is None else gather(keys.T.contiguous()).T,
            frequency=None if log_frequency is None else gather(log_frequency.to(own.dtype).T.contiguous()).T,
            rank=rank,
            temperature=self.temperature,
            log_weight=math.log(self.hard_negative_weight),
            similarity=self.similarity,
        )


class InBatchCandidates(BatchCandidates):
    """Each anchor against all positives, then all hard negatives, of the global batch (SimCSE, eq. 1 and 5): InfoNCE.

    R = B rows and C = (V - 1) * world * B candidates; the target of row i is column rank * B + i.
    """

    directions = ((0, 1),)


class AllViewsCandidates(BatchCandidates):
    """Each vector of both views against all others, itself masked out (SimCLR, Chen et al. 2020, eq. 1): NT-Xent.

    R = 2B rows, view 0 then view 1, and C = V * world * B candidates in the order of the views; a row has
    2 * world * B - 1 of them, and the hard negatives.
    """

    directions = ((0, 1), (1, 0))
    anchors_compete = True


class SymmetricCandidates(BatchCandidates):
    """Anchors against positives and positives against anchors, as for pairs of two kinds (CLIP, Radford et al. 2021).

    R = 2B rows, from the anchors then from the positives, and C = (V - 1) * world * B candidates. Both directions meet
    the hard negatives.
    """

    directions = ((0, 1), (1, 0))


CANDIDATES: Mapping[str, type[BatchCandidates]] = {
    "all_views": AllViewsCandidates,
    "in_batch": InBatchCandidates,
    "symmetric": SymmetricCandidates,
}
"""Candidate sets by the name that a config uses."""


def build_candidates(name: str, **options: Any) -> BatchCandidates:
    """The candidate set of that name, with its options.

    Raises:
        ConfigError: an unknown name or option, or a value out of range.
    """
    return build("candidates", CANDIDATES, name, options)


@dataclass(frozen=True)
class _Batch:
    """The global batch of N = world * B rows as one process sees it."""

    own: Tensor  # (V, B, D)
    everyone: dict[int, Tensor]  # view -> (N, D)
    keys: Tensor | None  # (V, N)
    frequency: Tensor | None  # (V, N) log shares
    rank: int
    temperature: float
    log_weight: float
    similarity: Similarity
    past: PastKeys | None = None

    def with_past(self, past: PastKeys) -> _Batch:
        """The same with vectors of earlier batches, as they are compared."""
        for name, own, other in (("keys", self.keys, past.keys), ("frequency", self.frequency, past.log_frequency)):
            if (own is None) != (other is None):
                raise ConfigError(f"{name} of the batch and of past: found only one of them, expected both or none")
        D = self.own.shape[-1]
        if past.vectors.ndim != 2 or past.vectors.shape[-1] != D:
            raise ConfigError(f"past: found {tuple(past.vectors.shape)}, expected (Q, {D}) to fit the views")
        vectors = _vectors(past.vectors.detach().to(self.own.device), self.similarity)  # (Q, D)
        return replace(self, past=past._replace(vectors=vectors))

    def logits(self, directions: tuple[tuple[int, int], ...], anchors_compete: bool) -> ContrastiveLogits:
        """Rows for each direction (anchor's view, positive's view)."""
        blocks = [self._block(anchor, positive, anchors_compete) for anchor, positive in directions]
        if len(blocks) == 1:
            return blocks[0]
        return replace(
            blocks[0],
            logits=torch.cat([block.logits for block in blocks]),
            target=torch.cat([block.target for block in blocks]),
            valid=torch.cat([block.valid for block in blocks if block.valid is not None]),
            log_noise=_cat([block.log_noise for block in blocks]),
            correction=_cat([block.correction for block in blocks]),
        )

    def _block(self, anchor: int, positive: int, anchors_compete: bool) -> ContrastiveLogits:
        V, B, _ = self.own.shape
        N = self.everyone[positive].shape[0]
        hard = range(2, V)
        candidates = [0, 1, *hard] if anchors_compete else [positive, *hard]
        rows = torch.arange(B, device=self.own.device)
        column = {view: place * N + self.rank * B + rows for place, view in enumerate(candidates)}  # of the own rows

        vectors = [self.everyone[view] for view in candidates]
        vectors += [] if self.past is None else [self.past.vectors]
        with torch.autocast(self.own.device.type, enabled=False):
            logits = (self.own[anchor] / self.temperature) @ torch.cat(vectors).T  # (B, C)
        if self.log_weight:
            for view in hard:
                logits[rows, column[view]] += self.log_weight

        valid = self._distinct(anchor, positive, candidates, logits)  # (B, C)
        valid[rows, column[positive]] = True
        if anchors_compete:
            valid[rows, column[anchor]] = False
        log_noise, correction = self._frequencies(anchor, positive, candidates, valid)
        temperature = self.temperature if self.similarity == "cosine" else None
        return ContrastiveLogits(logits, column[positive], valid, log_noise, correction, temperature)

    def _distinct(self, anchor: int, positive: int, candidates: list[int], logits: Tensor) -> Tensor:
        """(B, C) candidates whose text is neither the anchor's nor its positive's."""
        if self.keys is None:
            return torch.ones_like(logits, dtype=torch.bool)
        theirs = _joined(self.keys[candidates], None if self.past is None else self.past.keys)  # (C,)
        mine = self.keys[:, self._mine(), None]  # (V, B, 1)
        return (theirs != mine[anchor]) & (theirs != mine[positive])

    def _frequencies(
        self, anchor: int, positive: int, candidates: list[int], valid: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        """Log expected counts (B, C) of the candidates, and #x / #y (B,)."""
        if self.frequency is None:
            return None, None
        theirs = _joined(self.frequency[candidates], None if self.past is None else self.past.log_frequency)  # (C,)
        mine = self.frequency[:, self._mine()]  # (V, B)
        negatives = valid.count_nonzero(1)[:, None] - 1  # (B, 1)
        return negatives.clamp(min=1).log().to(theirs.dtype) + theirs, (mine[anchor] - mine[positive]).exp()

    def _mine(self) -> slice:
        B = self.own.shape[1]
        return slice(self.rank * B, (self.rank + 1) * B)


def _joined(views: Tensor, past: Tensor | None) -> Tensor:
    """(views * N,) then (Q,) -> (C,)."""
    flat = views.flatten()
    return flat if past is None else torch.cat([flat, past.to(flat)])


def _vectors(vectors: Tensor, similarity: Similarity) -> Tensor:
    """At least float32 whatever the precision of the encoder; of unit length for cosines."""
    exact = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    with torch.autocast(vectors.device.type, enabled=False):
        return F.normalize(exact, dim=-1) if similarity == "cosine" else exact


def _check(views: Tensor, keys: Tensor | None, log_frequency: Tensor | None) -> None:
    if views.ndim != 3 or views.shape[0] < 2 or not views.is_floating_point():
        raise ConfigError(
            f"views: found {tuple(views.shape)} {views.dtype}, expected floats (V, B, D) with V of at least 2"
        )
    for name, tensor in (("keys", keys), ("log_frequency", log_frequency)):
        if tensor is not None and tensor.shape != views.shape[:2]:
            raise ConfigError(
                f"{name}: found {tuple(tensor.shape)}, expected {tuple(views.shape[:2])} to fit the views"
            )


def _cat(parts: list[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if present else None
