"""Candidates from a fixed vocabulary (words, entities, labels) rather than from the batch: all of it, or a sample."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from simcse.errors import ConfigError, DataError
from simcse.objectives.logits import ContrastiveLogits

__all__ = ["sampled_candidates", "vocabulary_candidates"]


def vocabulary_candidates(
    queries: Tensor,
    table: Tensor,
    target: Tensor,
    *,
    valid: Tensor | None = None,
    log_noise: Tensor | None = None,
    correction: Tensor | None = None,
) -> ContrastiveLogits:
    """Dot product of each query with the whole vocabulary, one matrix product ("1-vs-all").

    Args:
        queries: (R, D).
        table: (C, D) vectors of the candidates.
        target: (R,) the right candidate's row in the table.
        valid: (R, C) valid candidates; None: all.
        log_noise: (C,) or (R, C) log expected counts, for the objectives that read `log_noise`; 0: each once.
        correction: (R,) #x / #y for `BackwardCorrected`.

    Returns:
        ContrastiveLogits of R rows and C candidates; column c is row c of the table.

    Raises:
        ConfigError: tensors that do not fit.
        DataError: a target outside the vocabulary.
    """
    _check(queries, table, target)
    with torch.autocast(queries.device.type, enabled=False):
        return ContrastiveLogits(_exact(queries) @ _exact(table).T, target, valid, log_noise, correction)


def sampled_candidates(
    queries: Tensor,
    table: Tensor,
    target: Tensor,
    noise: Tensor,
    *,
    log_noise: Tensor | None = None,
    remove_hits: bool = True,
    correction: Tensor | None = None,
) -> ContrastiveLogits:
    """Dot product of each query with its target and with sampled candidates.

    Args:
        queries: (R, D).
        table: (vocabulary, D) vectors of the candidates.
        target: (R,) the right candidate's row in the table.
        noise: (R, k) rows of the table drawn for each query, or (k,) drawn once for all of them.
        log_noise: (vocabulary,) or (R, 1 + k) log expected counts, log(k q): of each candidate, or of each
            column.
        remove_hits: mask out noise that hits the target (accidental hits). The limits of `NegativeSampling` and
            `NoiseContrastive` are exact where hits stay; noise without the target is within O(p_d) of that.
        correction: (R,) #x / #y for `BackwardCorrected`.

    Returns:
        ContrastiveLogits of R rows and 1 + k candidates; the target is column 0.

    Raises:
        ConfigError: tensors that do not fit.
        DataError: a target or noise outside the table, or a row whose noise is all hits.
    """
    _check(queries, table, target)
    R = queries.shape[0]
    if noise.dtype != torch.int64 or noise.ndim not in (1, 2) or (noise.ndim == 2 and noise.shape[0] != R):
        raise ConfigError(f"noise: found {tuple(noise.shape)} {noise.dtype}, expected (k,) or ({R}, k) torch.int64")
    own = target[:, None]  # (R, 1)
    columns = torch.cat([own, noise.expand(R, -1)], 1)  # (R, 1 + k)
    if bool((outside := (columns < 0) | (columns >= len(table))).any()):
        row, column = (int(index) for index in outside.nonzero()[0])
        found = f"{'noise' if column else 'target'} is {int(columns[row, column])}"
        raise DataError(f"row {row}: {found}, expected a row of the table from 0 to {len(table) - 1}")
    with torch.autocast(queries.device.type, enabled=False):
        exact = _exact(queries)
        if noise.ndim == 2:
            logits = torch.einsum("rd,rkd->rk", exact, _exact(F.embedding(columns, table)))  # (R, 1 + k)
        else:
            right = (exact * _exact(F.embedding(target, table))).sum(1, keepdim=True)  # (R, 1)
            logits = torch.cat([right, exact @ _exact(F.embedding(noise, table)).T], 1)  # (R, 1 + k)
    valid = torch.cat([torch.ones_like(own, dtype=torch.bool), columns[:, 1:] != own], 1) if remove_hits else None
    if log_noise is not None and log_noise.ndim == 1:
        log_noise = log_noise[columns]
    return ContrastiveLogits(logits, torch.zeros_like(target), valid, log_noise, correction)


def _check(queries: Tensor, table: Tensor, target: Tensor) -> None:
    if queries.ndim != 2 or table.ndim != 2 or queries.shape[1] != table.shape[1]:
        raise ConfigError(f"table: found {tuple(table.shape)}, expected (C, D) to fit queries {tuple(queries.shape)}")
    if target.shape != queries.shape[:1]:
        raise ConfigError(f"target: found {tuple(target.shape)}, expected ({queries.shape[0]},) to fit the queries")


def _exact(vectors: Tensor) -> Tensor:
    return vectors.to(torch.promote_types(vectors.dtype, torch.float32))
