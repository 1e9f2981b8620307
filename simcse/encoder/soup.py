"""Several encoders of one start as one: the mean of their weights (model soup, Wortsman et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from simcse.encoder.model import SentenceEncoder
from simcse.errors import ConfigError, ModelError

__all__ = ["soup"]


def soup(folders: Sequence[str | Path]) -> SentenceEncoder:
    """The encoder whose weights are the means of others', in fp32 on the CPU; as fast as one of them.

    It helps where they were trained from the same start, with other seeds or options, or are checkpoints of one run.

    Args:
        folders: two or more folders or hub ids, as of `SentenceEncoder.from_pretrained`; settings are the first's.

    Raises:
        ConfigError: fewer than two.
        ModelError: one has other weights or another pooling than the first.
    """
    if len(folders) < 2:
        raise ConfigError(f"a soup of {len(folders)} models: expected at least 2 to average")
    first = SentenceEncoder.from_pretrained(folders[0], device="cpu", dtype="fp32")
    total = {name: weight.double() for name, weight in first.state_dict().items()}
    for folder in folders[1:]:
        other = SentenceEncoder.from_pretrained(folder, device="cpu", dtype="fp32")
        state = other.state_dict()
        shapes, expected = ({name: tuple(weight.shape) for name, weight in s.items()} for s in (state, total))
        if shapes != expected:
            name = next(name for name in {**expected, **shapes} if expected.get(name) != shapes.get(name))
            raise ModelError(
                f"{folder}: {name} is {shapes.get(name, 'missing')}, expected {expected.get(name, 'none')} as in "
                f"{folders[0]}; average models of one start"
            )
        if other.pooling != first.pooling:
            raise ModelError(f"{folder}: pooling {other.pooling}, expected {first.pooling} as in {folders[0]}")
        for name, weight in state.items():
            total[name] += weight.double()
    with torch.no_grad():
        first.load_state_dict({name: weight / len(folders) for name, weight in total.items()})
    return first
