"""Who competes with whom: from vectors to a matrix of scores with one right candidate in each row.

A layout (`info_nce`, `nt_xent`, `symmetric_info_nce` and `queue_scores` here, `vocabulary_scores` and `sampled_scores`
in `vocabulary.py`) decides which candidates an anchor meets; an objective turns the `Scores` into a loss. Each layout
works with each objective.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from simcse.errors import ConfigError
from simcse.objectives.table import Scores, keep_negatives

__all__ = [
    "SCORES",
    "Gather",
    "Scores",
    "Similarity",
    "info_nce",
    "keep_negatives",
    "nt_xent",
    "queue_scores",
    "symmetric_info_nce",
]

Gather = Callable[[Tensor], Tensor]
"""Takes this process's rows (n, ...) and returns everyone's (world * n, ...) in rank order, with gradient."""

Similarity = Literal["cosine", "dot"]


def info_nce(
    views: Tensor,
    *,
    temperature: float = 0.05,
    hard_negative_weight: float = 1.0,
    keys: Tensor | None = None,
    gather: Gather = lambda rows: rows,
    rank: int = 0,
    similarity: Similarity = "cosine",
    log_frequency: Tensor | None = None,
) -> Scores:
    """Each anchor against all positives, then all hard negatives, of the global batch (SimCSE, eq. 1 and 5).

    Args:
        views: (V, B, D) this process's vectors: anchors, positives, then V - 2 views of hard negatives.
        temperature: divides the similarity; 0.05 as in SimCSE, App. A.
        hard_negative_weight: weight alpha of the anchor's own hard negatives in the denominator; others' have weight 1.
            1 as in SimCSE (whose code takes ln alpha).
        keys: (V, B) int64 hashes of the texts. A candidate other than the target whose key equals the anchor's or its
            positive's is no negative: it is masked out.
        gather: brings the rows of all processes together, with gradient.
        rank: this process's place in what `gather` returns.
        similarity: "cosine", or "dot" product.
        log_frequency: (V, B) natural log of the share of the training rows that hold the text in this view; fills
            `Scores.log_noise` and `Scores.correction` for the objectives that need counts.

    Returns:
        R = B rows and C = (V - 1) * world * B candidates; the target of row i is column rank * B + i. No factor for
        the number of processes: the mean over processes of the loss has the gradient of one process on the whole batch.

    Raises:
        ConfigError: an option out of range, or tensors that do not fit.
        DataError: a row without a valid negative.
    """
    batch = _share(views, 1, temperature, hard_negative_weight, keys, gather, rank, similarity, log_frequency)
    return batch.scores((0, 1))


def nt_xent(
    views: Tensor,
    *,
    temperature: float = 0.05,
    hard_negative_weight: float = 1.0,
    keys: Tensor | None = None,
    gather: Gather = lambda rows: rows,
    rank: int = 0,
    similarity: Similarity = "cosine",
    log_frequency: Tensor | None = None,
) -> Scores:
    """Each vector of both views against all others, itself masked out (SimCLR, Chen et al. 2020, eq. 1).

    Arguments and errors as in `info_nce`.

    Returns:
        R = 2B rows, view 0 then view 1, and C = V * world * B candidates in the order of the views; a row has
        2 * world * B - 1 of them, and the hard negatives.
    """
    batch = _share(views, 0, temperature, hard_negative_weight, keys, gather, rank, similarity, log_frequency)
    return batch.scores((0, 1), (1, 0), whole=True)


def symmetric_info_nce(
    views: Tensor,
    *,
    temperature: float = 0.05,
    hard_negative_weight: float = 1.0,
    keys: Tensor | None = None,
    gather: Gather = lambda rows: rows,
    rank: int = 0,
    similarity: Similarity = "cosine",
    log_frequency: Tensor | None = None,
) -> Scores:
    """Anchors against positives and positives against anchors, as for pairs of two kinds (CLIP, Radford et al. 2021).

    Arguments and errors as in `info_nce`. Both directions meet the hard negatives.

    Returns:
        R = 2B rows, from the anchors then from the positives, and C = (V - 1) * world * B candidates.
    """
    batch = _share(views, 0, temperature, hard_negative_weight, keys, gather, rank, similarity, log_frequency)
    return batch.scores((0, 1), (1, 0))


def queue_scores(
    views: Tensor,
    *,
    queue: Tensor,
    queue_keys: Tensor | None = None,
    queue_log_frequency: Tensor | None = None,
    temperature: float = 0.05,
    hard_negative_weight: float = 1.0,
    keys: Tensor | None = None,
    gather: Gather = lambda rows: rows,
    rank: int = 0,
    similarity: Similarity = "cosine",
    log_frequency: Tensor | None = None,
) -> Scores:
    """`info_nce` with the keys of past batches as further negatives (MoCo, He et al. 2020; ESimCSE, Wu et al. 2022).

    Args:
        queue: (Q, D) past keys, without gradient; may be empty.
        queue_keys: (Q,) int64 hashes of their texts; needed where `keys` is given.
        queue_log_frequency: (Q,) as `log_frequency`; needed where that is given.

    Other arguments and errors as in `info_nce`.

    Returns:
        R = B rows and C = (V - 1) * world * B + Q candidates, the queue last.
    """
    for name, own, other in (("keys", keys, queue_keys), ("log_frequency", log_frequency, queue_log_frequency)):
        if (own is None) != (other is None):
            raise ConfigError(f"{name} and queue_{name}: only one of them is given, expected both or none")
    if queue.ndim != 2 or queue.shape[-1] != views.shape[-1]:
        raise ConfigError(f"queue: found {tuple(queue.shape)}, expected (Q, {views.shape[-1]}) to fit the views")
    batch = _share(views, 1, temperature, hard_negative_weight, keys, gather, rank, similarity, log_frequency)
    past = _vectors(queue.detach().to(views.device), similarity)  # (Q, D)
    return replace(batch, queue=past, queue_keys=queue_keys, queue_frequency=queue_log_frequency).scores((0, 1))


SCORES: Mapping[str, Callable[..., Scores]] = {
    "info_nce": info_nce,
    "nt_xent": nt_xent,
    "symmetric": symmetric_info_nce,
}
"""Layouts that take the same arguments, by the name that a config uses."""


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
    cosine: bool
    queue: Tensor | None = None  # (Q, D)
    queue_keys: Tensor | None = None  # (Q,)
    queue_frequency: Tensor | None = None  # (Q,)

    def scores(self, *directions: tuple[int, int], whole: bool = False) -> Scores:
        """Rows for each direction (anchor's view, positive's view); `whole`: the anchor's view competes too."""
        blocks = [self._block(anchor, positive, whole) for anchor, positive in directions]
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

    def _block(self, anchor: int, positive: int, whole: bool) -> Scores:
        V, B, _ = self.own.shape
        N = self.everyone[positive].shape[0]
        hard = range(2, V)
        candidates = [0, 1, *hard] if whole else [positive, *hard]
        rows = torch.arange(B, device=self.own.device)
        column = {view: place * N + self.rank * B + rows for place, view in enumerate(candidates)}  # of the own rows

        vectors = [self.everyone[view] for view in candidates]
        vectors += [] if self.queue is None else [self.queue]
        with torch.autocast(self.own.device.type, enabled=False):
            logits = (self.own[anchor] / self.temperature) @ torch.cat(vectors).T  # (B, C)
        if self.log_weight:
            for view in hard:
                logits[rows, column[view]] += self.log_weight

        valid = self._distinct(anchor, positive, candidates, logits)  # (B, C)
        valid[rows, column[positive]] = True
        if whole:
            valid[rows, column[anchor]] = False
        log_noise, correction = self._frequencies(anchor, positive, candidates, valid)
        temperature = self.temperature if self.cosine else None
        return Scores(logits, column[positive], valid, log_noise, correction, temperature)

    def _distinct(self, anchor: int, positive: int, candidates: list[int], logits: Tensor) -> Tensor:
        """(B, C) candidates whose text is neither the anchor's nor its positive's."""
        if self.keys is None:
            return torch.ones_like(logits, dtype=torch.bool)
        theirs = self._with_queue(self.keys[candidates], self.queue_keys)  # (C,)
        mine = self.keys[:, self._mine(), None]  # (V, B, 1)
        return (theirs != mine[anchor]) & (theirs != mine[positive])

    def _frequencies(
        self, anchor: int, positive: int, candidates: list[int], valid: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        """Log expected counts (B, C) of the candidates, and #x / #y (B,)."""
        if self.frequency is None:
            return None, None
        theirs = self._with_queue(self.frequency[candidates], self.queue_frequency)  # (C,)
        mine = self.frequency[:, self._mine()]  # (V, B)
        negatives = valid.count_nonzero(1)[:, None] - 1  # (B, 1)
        return negatives.clamp(min=1).log().to(theirs.dtype) + theirs, (mine[anchor] - mine[positive]).exp()

    def _mine(self) -> slice:
        B = self.own.shape[1]
        return slice(self.rank * B, (self.rank + 1) * B)

    @staticmethod
    def _with_queue(views: Tensor, queue: Tensor | None) -> Tensor:
        flat = views.flatten()
        return flat if queue is None else torch.cat([flat, queue.to(flat)])


def _share(
    views: Tensor,
    first: int,
    temperature: float,
    hard_negative_weight: float,
    keys: Tensor | None,
    gather: Gather,
    rank: int,
    similarity: Similarity,
    log_frequency: Tensor | None,
) -> _Batch:
    """Check the options and gather the candidates' views, from `first` on, in one exchange."""
    _check(views, temperature, hard_negative_weight, keys, similarity, log_frequency)
    own = _vectors(views, similarity)  # (V, B, D)
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
        temperature=temperature,
        log_weight=math.log(hard_negative_weight),
        cosine=similarity == "cosine",
    )


def _vectors(vectors: Tensor, similarity: Similarity) -> Tensor:
    """At least float32 whatever the precision of the encoder; of unit length for cosines."""
    exact = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    with torch.autocast(vectors.device.type, enabled=False):
        return F.normalize(exact, dim=-1) if similarity == "cosine" else exact


def _check(
    views: Tensor,
    temperature: float,
    hard_negative_weight: float,
    keys: Tensor | None,
    similarity: str,
    log_frequency: Tensor | None,
) -> None:
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ConfigError(f"--temperature is {temperature}, expected a number above 0 (0.05 is usual for cosines)")
    if not (hard_negative_weight > 0 and math.isfinite(hard_negative_weight)):
        raise ConfigError(
            f"--hard_negative_weight is {hard_negative_weight}, expected a number above 0 (1 leaves hard negatives as "
            "they are; to leave them out, drop their column)"
        )
    if similarity not in ("cosine", "dot"):
        raise ConfigError(f"similarity is {similarity!r}, expected 'cosine' or 'dot'")
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
