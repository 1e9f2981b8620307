"""Similarities of anchors and candidates: what each candidate set returns and each objective reads."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from simcse.errors import ConfigError, DataError

__all__ = ["ContrastiveLogits", "RowError", "keep_negatives"]


class RowError(DataError):
    """A row of scores from which nothing can be learned.

    Attributes:
        row: its number.
        why: what is wrong with it, to be read behind its name.
    """

    def __init__(self, row: int, why: str) -> None:
        super().__init__(f"row {row} {why}")
        self.row, self.why = row, why


@dataclass(frozen=True)
class ContrastiveLogits:
    """Rows of scores, one an anchor, and in each row one candidate that is right.

    Raises:
        ConfigError: shapes or types that do not fit each other.
        RowError: a DataError; a target that is out of range or masked out, or a row without a valid negative.
    """

    logits: Tensor
    """(R, C) scores s(x, y), already divided by the temperature; float32 or float64."""

    target: Tensor
    """(R,) column of the right candidate, int64."""

    valid: Tensor | None = None
    """(R, C) valid candidates, bool; None: all of them."""

    log_noise: Tensor | None = None
    """(C,) or (R, C) natural log of how often a row's noise is expected to contain the candidate, log(k q)."""

    correction: Tensor | None = None
    """(R,) #x / #y, training counts of the row's query and of its answer; read by `BackwardCorrected` alone."""

    temperature: float | None = None
    """Set where logits are cosines divided by it; read by `Margin`, which needs the angle."""

    def __post_init__(self) -> None:
        self._check_shapes()
        self._check_rows()

    def _check_shapes(self) -> None:
        if self.logits.ndim != 2 or self.logits.dtype not in (torch.float32, torch.float64):
            found = f"{tuple(self.logits.shape)} {self.logits.dtype}"
            raise ConfigError(f"logits: found {found}, expected (R, C) in float32 or float64: cast with .float()")
        R, C = self.logits.shape
        exact = (torch.float32, torch.float64)
        self._expect("target", self.target, [(R,)], (torch.int64,))
        self._expect("valid", self.valid, [(R, C)], (torch.bool,))
        self._expect("log_noise", self.log_noise, [(C,), (R, C)], exact)
        self._expect("correction", self.correction, [(R,)], exact)

    def _expect(
        self, name: str, tensor: Tensor | None, shapes: list[tuple[int, ...]], dtypes: tuple[torch.dtype, ...]
    ) -> None:
        if tensor is not None and (tuple(tensor.shape) not in shapes or tensor.dtype not in dtypes):
            wanted = f"{' or '.join(map(str, shapes))} {dtypes[0]}"
            found = f"{tuple(tensor.shape)} {tensor.dtype}"
            raise ConfigError(f"{name}: found {found}, expected {wanted} to fit logits {tuple(self.logits.shape)}")

    def _check_rows(self) -> None:
        """One reduction, and so one wait for the device, when all is well."""
        C = self.logits.shape[1]
        outside = (self.target < 0) | (self.target >= C)  # (R,)
        if self.valid is None:
            hidden, lonely = torch.zeros_like(outside), torch.full_like(outside, C < 2)
        else:
            hidden = ~self.valid.gather(1, self.target.clamp(0, C - 1)[:, None])[:, 0]
            lonely = self.valid.count_nonzero(1) < 2
        if not bool((outside | hidden | lonely).any()):
            return
        if bool(outside.any()):
            row = int(outside.nonzero()[0])
            raise RowError(row, f"has target {int(self.target[row])}, expected a column from 0 to {C - 1}")
        if bool(hidden.any()):
            row = int(hidden.nonzero()[0])
            raise RowError(row, f"has its target, column {int(self.target[row])}, masked out: set valid there to True")
        raise RowError(
            int(lonely.nonzero()[0]),
            f"has no valid negative among its {C} candidates, expected at least 1: raise batch_size, or remove rows "
            "that repeat the same text",
        )

    @property
    def positive(self) -> Tensor:
        """(R,) score of the right candidate."""
        return self.logits.gather(1, self.target[:, None])[:, 0]

    @property
    def negatives(self) -> Tensor:
        """(R, C) bool: the valid candidates without the right one."""
        valid = torch.ones_like(self.logits, dtype=torch.bool) if self.valid is None else self.valid
        return valid.scatter(1, self.target[:, None], False)

    @property
    def masked(self) -> Tensor:
        """(R, C) scores with -inf where a candidate is not valid."""
        return self.logits if self.valid is None else self.logits.masked_fill(~self.valid, -math.inf)


def keep_negatives(
    scores: ContrastiveLogits, count: int, generator: torch.Generator | None = None
) -> ContrastiveLogits:
    """Keep `count` random negatives of each row, and mask out the others.

    Contrastive Tension (Carlsson et al. 2021) keeps 7. A row that has fewer keeps what it has. Expected counts are
    thinned alike.

    Raises:
        ConfigError: count below 1.
    """
    if count < 1:
        raise ConfigError(f"count of negatives is {count}, expected at least 1")
    order = torch.rand(scores.logits.shape, generator=generator, device=scores.logits.device)  # (R, C)
    order = order.masked_fill(~scores.negatives, -1.0).scatter(1, scores.target[:, None], 2.0)  # the target comes first
    chosen = order.topk(min(count + 1, order.shape[1]), dim=1).indices  # (R, count + 1)
    valid = torch.zeros_like(order, dtype=torch.bool).scatter(1, chosen, True) & (order >= 0)
    if scores.log_noise is None:
        return replace(scores, valid=valid)
    had = scores.negatives.count_nonzero(1).clamp(min=count)[:, None].to(scores.log_noise.dtype)  # (R, 1)
    return replace(scores, valid=valid, log_noise=scores.log_noise - (had / count).log())
