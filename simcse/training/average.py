"""A moving average of the weights while they are trained, which is what is evaluated and kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["WeightAverage"]


class WeightAverage:
    """The exponential moving average (EMA) of an encoder's weights; it starts as their equal.

    Args:
        encoder: what is trained.
        decay: d, of average = d * average + (1 - d) * weight, at each step.
    """

    def __init__(self, encoder: nn.Module, decay: float) -> None:
        self.decay = decay
        self._weights = {name: weight for name, weight in encoder.named_parameters() if weight.requires_grad}
        self._average = {name: weight.detach().clone() for name, weight in self._weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Behind an optimizer step."""
        torch._foreach_lerp_(list(self._average.values()), list(self._weights.values()), 1 - self.decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The encoder has the average as its weights inside, and the weights as they were, to the bit, behind it."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, weight in self._weights.items():
            kept = weight.clone()
            weight.copy_(self._average[name])
            self._average[name].copy_(kept)

    def state_dict(self) -> dict[str, Tensor]:
        """What a resumed run needs."""
        return dict(self._average)

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up what `state_dict` gave."""
        for name, average in self._average.items():
            average.copy_(state[name])
