"""One visible loop: batch, loss, backward, step, maybe evaluate, maybe save."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from simcse.data.collate import Batch
from simcse.data.mixture import Mixture
from simcse.evaluation.evaluators import Evaluator
from simcse.training.average import WeightAverage
from simcse.training.denormals import drop_denormals
from simcse.training.distributed import greatest, mean_over_processes, rank, world
from simcse.training.interrupt import Interrupted
from simcse.training.large_batch import cached_backward
from simcse.training.loss import Criterion
from simcse.training.model import ContrastiveModel
from simcse.training.run_dir import RunDir
from simcse.training.watch import LossWatch, check_finite

__all__ = ["Schedule", "Trainer", "rate_at", "weight_groups"]


NORMAL_EVERY = 256  # steps after which a CPU looks for denormals, which takes it about as long as AdamW's own step
AGREED_EVERY = 10  # steps after which several accelerators ask each other whether to stop: the answer is waited for


@dataclass(frozen=True)
class Schedule:
    """How far, how fast, and how often to look; see `TrainConfig` for each field."""

    steps: int
    lr: float
    warmup: float = 0.0
    clip: float = 1.0
    micro_batch_size: int | None = None
    eval_every: int = 125
    save_every: int = 500
    log_every: int = 10
    seed: int = 42


def rate_at(step: int, schedule: Schedule) -> float:
    """The learning rate of step 1, 2, ...: up over the warm-up, then linearly down, to reach 0 behind the last step."""
    rising = round(schedule.warmup * schedule.steps)
    if step <= rising:
        return schedule.lr * step / rising
    return schedule.lr * (schedule.steps - step + 1) / max(schedule.steps - rising, 1)


def weight_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: weight decay on matrices, none on biases and LayerNorm weights, as BERT's authors do."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    matrices, others = [w for w in weights if w.ndim > 1], [w for w in weights if w.ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


@dataclass
class Trainer:
    """Trains `model` on `batches`; `train` runs the loop.

    Attributes:
        accelerator: devices, precision, processes and trackers.
        model: as `accelerator.prepare` returned it.
        optimizer: likewise.
        batches: this process's share of every step.
        criterion: from the views of a batch to the loss.
        evaluator: scores the encoder on the first process, or None.
        run: the folder.
        schedule: how far, how fast, how often.
        average: of the weights, evaluated and kept in best/ in their place, or None.
        step: steps done.
        best: the best evaluation so far, with its step.
        due: whether this step's evaluation and save are still to be done.
    """

    accelerator: Accelerator
    model: torch.nn.Module
    optimizer: Any
    batches: Mixture
    criterion: Criterion
    evaluator: Evaluator | None
    run: RunDir
    schedule: Schedule
    average: WeightAverage | None = None
    step: int = 0
    best: dict[str, float] = field(default_factory=dict)
    due: bool = False

    def train(
        self,
        show: Callable[[dict[str, float]], None] = lambda record: None,
        stop: Callable[[], int] = lambda: 0,
    ) -> None:
        """Run to the last step.

        Args:
            show: called after every step with step, and at log steps loss, lr, grad_norm and rows_per_second too.
            stop: asked after every step for the number of a signal that tells the run to stop; 0: none.

        Raises:
            Interrupted: a process was told to stop; last/ has the step at hand.
            ModelError: a loss or a weight is NaN or infinite.
        """
        schedule, watch, meter = self.schedule, LossWatch(), _Meter()
        self.model.train()
        if self.due:  # the run was interrupted before it could
            self._evaluate_and_save()
        with self.batches.ahead(self.step, schedule.steps) as stream:
            for batch in stream:
                self.step += 1
                self._set_rate()
                seed_step(schedule.seed, self.step)
                loss = self._backward(batch)
                watch.see(self.step, batch.rows, loss)
                norm = self.accelerator.clip_grad_norm_(self.model.parameters(), schedule.clip or float("inf"))
                self.optimizer.step()
                self.optimizer.zero_grad()
                if self._on_cpu and self.step % NORMAL_EVERY == 0:
                    drop_denormals(self.optimizer.state.values())
                if self.average:
                    self.average.update()
                if self.criterion.queue:
                    self.criterion.queue.update(self._plain, batch)
                meter.add(loss, self.batches.batch_size)
                last = self.step == schedule.steps
                if last or self.step % schedule.log_every == 0:  # sync point: reads the loss
                    show(self._log(meter, norm))
                else:
                    show({"step": self.step})
                self.due = last or any(self.step % every == 0 for every in self._looks)
                if number := self._told_to_stop(stop):
                    watch.flush()
                    self._save()
                    raise Interrupted(
                        number, f"step {self.step} of {schedule.steps} is done, and saved in {self.run.last}"
                    )
                if self.due:  # sync point
                    watch.flush()
                    self._evaluate_and_save()
                    meter.restart()

    def _backward(self, batch: Batch) -> Tensor:
        """Add the gradient of a batch's loss to the parameters; the loss, detached."""
        micro = self.schedule.micro_batch_size
        if micro is not None and micro < len(batch):
            return cached_backward(self.accelerator, self.model, batch, self.criterion, micro)
        views = self.model(batch)  # (V, B, D)
        loss = self.criterion(views, batch)
        self.accelerator.backward(loss)
        return loss.detach()

    def evaluate(self) -> None:
        """Evaluate on the first process; keep best/.

        Raises:
            ModelError: a weight is NaN or infinite.
        """
        if self.evaluator and self.step:
            check_finite(self._plain, self.step, self.run.last)
        if self.evaluator and self.run.writes:
            with self._kept_weights():
                self._evaluate(self.evaluator)
        self.accelerator.wait_for_everyone()

    def _evaluate(self, evaluator: Evaluator) -> None:
        result = evaluator(partial(self._plain.encoder.encode, show_progress=sys.stderr.isatty()))
        self.run.log({"step": self.step, "dev": result})
        self.accelerator.log({f"dev/{key}": value for key, value in result.items()}, step=self.step)
        # step 0 is what training must beat, but no trained encoder: it is never kept as best/
        if self.step and self._is_better(result[evaluator.primary_metric], evaluator):
            self.best = {"step": self.step, **result}
            self.run.save_best(self._plain.encoder.write)

    def _kept_weights(self) -> AbstractContextManager[None]:
        """Inside, the encoder has the weights that best/ is to have."""
        return self.average.in_place() if self.average else nullcontext()

    def _is_better(self, value: float, evaluator: Evaluator) -> bool:
        worst = -math.inf if evaluator.greater_is_better else math.inf
        best = self.best.get(evaluator.primary_metric, worst)
        return value > best if evaluator.greater_is_better else value < best

    def resume(self) -> None:
        """Restore optimizer, head, step and best evaluation from the folder that the run goes on from."""
        state = self.run.load_state()
        for name, part in self._stateful.items():
            part.load_state_dict(state[name])
        self.step, self.best, self.due = state["step"], state["best"], state["due"]

    @property
    def _looks(self) -> list[int]:
        """How often to look: at the encoder, and at what is worth keeping."""
        return [self.schedule.save_every, *([self.schedule.eval_every] if self.evaluator else [])]

    @property
    def _stateful(self) -> dict[str, Any]:
        """What a resumed run needs the state of, beside the encoder."""
        parts = {
            "optimizer": self.optimizer,
            "head": self._plain.head,
            "map": self._plain.map,
            "second": self._plain.second,
            "queue": self.criterion.queue,
            "average": self.average,
            "scaler": self.accelerator.scaler,
        }
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def _plain(self) -> ContrastiveModel:
        model: ContrastiveModel = self.accelerator.unwrap_model(self.model)
        return model

    @property
    def _on_cpu(self) -> bool:
        return bool(self.accelerator.device.type == "cpu")

    def _set_rate(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(self.step, self.schedule)

    def _log(self, meter: _Meter, norm: Tensor | float) -> dict[str, float]:
        record = {
            "step": self.step,
            "epoch": round(self.step / self.batches.per_epoch, 4),
            "loss": float(mean_over_processes(meter.mean)),
            "lr": rate_at(self.step, self.schedule),
            "grad_norm": float(norm),
            "rows_per_second": round(meter.rate, 1),
        }
        meter.restart()
        self.run.log(record)
        self.accelerator.log({key: value for key, value in record.items() if key != "step"}, step=self.step)
        return record

    def _evaluate_and_save(self) -> None:
        """What is to be done at this step; last/ knows of the newest evaluation."""
        last = self.step == self.schedule.steps
        if self.evaluator and (last or self.step % self.schedule.eval_every == 0):
            self.evaluate()
        self.due = False
        self._save()
        if last and self.evaluator is None:  # nothing was evaluated, so the last encoder is the best one known
            with self._kept_weights():
                self.run.save_best(self._plain.encoder.write)
        self.accelerator.wait_for_everyone()

    def _told_to_stop(self, stop: Callable[[], int]) -> int:
        """The signal that any process was sent, the same for all of them."""
        alone = self._on_cpu or world() == 1
        if self.due or alone or self.step % AGREED_EVERY == 0:  # sync point of several accelerators
            return greatest(stop(), self.accelerator.device)
        return 0

    def _save(self) -> None:
        check_finite(self._plain, self.step, self.run.last)
        state: dict[str, Any] = {"step": self.step, "best": self.best, "due": self.due}
        state |= {name: part.state_dict() for name, part in self._stateful.items()}
        self.run.save_last(self._plain.encoder.write, state)
        self.accelerator.wait_for_everyone()


def seed_step(seed: int, step: int) -> None:
    """Seed dropout from (seed, step, process): processes draw different masks, a resumed run the same ones."""
    torch.manual_seed(int(np.random.SeedSequence((seed, step, rank())).generate_state(1, np.uint64)[0] >> 1))


class _Meter:
    """Mean loss and rows a second since the last reading; adding a loss does not wait for the device."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._loss: Tensor | None = None
        self._count = self._rows = 0
        self._since = time.perf_counter()

    def add(self, loss: Tensor, rows: int) -> None:
        self._loss = loss.detach().clone() if self._loss is None else self._loss + loss
        self._count += 1
        self._rows += rows

    @property
    def mean(self) -> Tensor:
        assert self._loss is not None
        return self._loss / self._count

    @property
    def rate(self) -> float:
        return self._rows / (time.perf_counter() - self._since)
