"""What stops a run that cannot succeed: data or dropout that do not fit the options, and a loss that is no number."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from simcse.data.collate import Batch
from simcse.errors import ConfigError, DataError, ModelError
from simcse.training.config import SourceConfig, TrainConfig
from simcse.training.loss import ContrastiveLoss

__all__ = ["LossWatch", "check_data", "check_dropout", "check_finite", "check_prompts"]

DELAY = 2  # steps behind the one at hand


def check_data(config: TrainConfig, source: SourceConfig, criterion: ContrastiveLoss, rows: Any) -> None:
    """Make sure that the training rows fit the options.

    Args:
        config: the options.
        source: whose rows they are.
        criterion: built from the options; its queue counts by `config`.
        rows: a `datasets.Dataset`, the training file as read.

    Raises:
        DataError: fewer rows than a batch.
        ConfigError: rows without a negative, or with fewer than they are to keep; options for one column, and several;
            counts of texts that change.
    """
    file, columns, augment = source.train, len(rows.column_names), config.data.augment
    columns = columns if source.rows == "roles" else 2
    if len(rows) < config.batch_size:
        raise DataError(f"{file}: {len(rows)} rows are fewer than batch_size={config.batch_size}; lower it")
    first = criterion.candidates.most_negatives(max(2, columns), config.batch_size)  # in the first step
    if first < 1:
        raise ConfigError(
            f"batch_size is {config.batch_size}: a row's negatives are the other rows of its batch, so at least 2"
        )
    most = first + config.model.queue_size
    if config.num_negatives is not None and config.num_negatives > most:
        raise ConfigError(
            f"num_negatives is {config.num_negatives}, but a row has {most} at most at "
            f"batch_size={config.batch_size}; raise that, or leave num_negatives out to keep all"
        )
    if columns > 1 and (config.model.fixed_dropout_mask or augment != "none"):
        option = "model.fixed_dropout_mask" if config.model.fixed_dropout_mask else f"data.augment={augment}"
        raise ConfigError(
            f"{option} makes positives of single texts, but {file} has {columns} columns; "
            "name one of them by data.columns, or leave the option out"
        )
    if columns == 1 and source.loss == "none" and config.model.two_encoders:
        raise ConfigError(f"model.two_encoders needs positives for the second one, but {file} has single texts")
    if criterion.objective.needs_counts and augment != "none":
        raise ConfigError(f"objective={config.objective} counts texts, which data.augment changes each time anew")


def check_prompts(config: TrainConfig, rows: Sequence[Any]) -> None:
    """Raise a ConfigError where a prompt is for a role that no source has.

    Args:
        config: the options.
        rows: a `datasets.Dataset` for each source.
    """
    expected: set[str] = set()
    for source, own in zip(config.data.all_sources(), rows, strict=True):
        single = source.rows != "roles" or len(own.column_names) == 1
        expected |= {"text"} if single else {"query", "document"}
    if wrong := next((role for role in config.data.prompts if role not in expected), None):
        files = ", ".join(source.train for source in config.data.all_sources())
        count = len(rows[0].column_names)
        held = f"has {count} column{'s'[: count - 1]}" if len(rows) == 1 else "have no such rows"
        raise ConfigError(
            f"data.prompts: found {wrong}, but {files} {held}, expected {' and '.join(sorted(expected, reverse=True))}"
        )


def check_dropout(model: nn.Module, batch: Batch) -> None:
    """Make sure that two passes over the same text differ, by making them; no random state is used up.

    Args:
        model: maps a batch to its views (V, B, D).
        batch: any batch whose views of a row are the same text.

    Raises:
        ConfigError: the views are equal to the bit, so that a positive would carry nothing to learn.
    """
    row = Batch(batch.tokens.select(0, batch.views), batch.views, batch.rows[:1], batch.keys[:, :1])
    device = row.tokens.ids.device
    with torch.no_grad(), torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type):
        views = model(row)  # (V, 1, D)
    if bool((views[0] == views[1]).all()):
        raise ConfigError(
            "model.dropout: the backbone has no active dropout, but a text file's positives are the same text under "
            "two dropout masks; set model.dropout=0.1, or train on pairs"
        )


def check_finite(model: nn.Module, step: int, kept: Path) -> None:
    """Raise a ModelError if a weight is NaN or infinite: such weights are never saved.

    Args:
        model: what is about to be evaluated or saved.
        step: steps done.
        kept: last/, whose state stays as it is.
    """
    bad = [name for name, weight in model.named_parameters() if not bool(torch.isfinite(weight).all())]  # sync point
    if bad:
        left = f"{kept} still has an earlier step" if kept.is_dir() else "nothing is saved"
        raise ModelError(
            f"step {step}: {len(bad)} of {len(list(model.parameters()))} weights are NaN or infinite ({bad[0]}, ...); "
            f"{left}; lower optim.lr, or set precision=fp32"
        )


class LossWatch:
    """Stops at a loss that is NaN or infinite, and names the step and the rows.

    On an accelerator it reads the loss DELAY steps later, so that the host never waits for the step at hand.
    """

    def __init__(self) -> None:
        self._pending: deque[tuple[int, np.ndarray, Tensor, torch.cuda.Event]] = deque()

    def see(self, step: int, rows: np.ndarray, loss: Tensor) -> None:
        """Look at a step's loss.

        Raises:
            ModelError: this or an earlier loss is not finite.
        """
        if loss.device.type != "cuda":
            self._check(step, rows, float(loss))
            return
        host = torch.empty((), dtype=loss.dtype, pin_memory=True)
        host.copy_(loss, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        self._pending.append((step, rows, host, event))
        self._settle(DELAY)

    def flush(self) -> None:
        """Look at every loss seen so far; called before anything is saved."""
        self._settle(0)

    def _settle(self, left: int) -> None:
        while len(self._pending) > left:
            step, rows, host, event = self._pending.popleft()
            event.synchronize()
            self._check(step, rows, float(host))

    @staticmethod
    def _check(step: int, rows: np.ndarray, loss: float) -> None:
        if not math.isfinite(loss):
            shown = ", ".join(map(str, rows[:8] + 1)) + (", ..." if len(rows) > 8 else "")
            raise ModelError(
                f"step {step}: the loss is {loss}; rows {shown} of the training file ({len(rows)} in all) were in the "
                "batch; look at them, or lower optim.lr, or raise the option temperature, or set precision=fp32"
            )
