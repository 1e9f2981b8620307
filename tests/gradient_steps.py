"""The gradient of a training step: as a run computes it, and by the naive loop over Hugging Face's model in float64."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import datasets
import naive
import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from tiny import WORDS
from torch import Tensor
from transformers import BertConfig, BertModel

from simcse import SentenceEncoder
from simcse.data.collate import Batch, Batches, TextVectors
from simcse.data.columns import roles_of
from simcse.training.build import MIXED
from simcse.training.build_loss import build_criterion, build_loss
from simcse.training.config import TrainConfig
from simcse.training.distributed import mean_over_processes, rank, world
from simcse.training.loss import ContrastiveLoss, Criterion
from simcse.training.model import ContrastiveModel
from simcse.training.momentum import MomentumQueue
from simcse.training.trainer import Schedule, Trainer
from simcse.training.watch import check_data

TEMPERATURE = naive.TEMPERATURE
ALPHA = 2.0
WIDTH = 32  # of the vectors
KEPT = (8, 20, 32)  # dimensions of Matryoshka
SCORED = ("angle", "cosent", "cosine_mse")
Found = tuple[float, dict[str, Tensor]]


@dataclass(frozen=True)
class Step:
    """What the step is computed by. The defaults are SimCSE's with a hard negative.

    Attributes:
        data: texts that are their own positives; pairs, triplets or quadruplets; echoes, triplets with some
            positives that are their anchors; singles, texts for a teacher alone; or the loss of scored pairs.
        teacher: loss against one, or none.
        guide: whether the teacher masks negatives.
        equal: whether equal texts stay negatives of each other.
        wide: whether the teacher has more dimensions than the student, so that a linear map leads to its space.
    """

    objective: str = "softmax"
    candidates: str = "in_batch"
    similarity: str = "cosine"
    micro: int | None = None
    world: int = 1
    precision: str = "fp32"
    queue: int = 0
    two_encoders: bool = False
    matryoshka: bool = False
    teacher: str = "none"
    guide: bool = False
    equal: bool = False
    wide: bool = False
    data: str = "triplets"
    rows: int = 4  # of a global batch
    seed: int = 0

    def __str__(self) -> str:
        plain = asdict(Step())
        return " ".join(f"{name}={value}" for name, value in asdict(self).items() if value != plain[name]) or "plain"

    @property
    def temperature(self) -> float:
        return TEMPERATURE if self.similarity == "cosine" else 5.0  # of dot products

    @property
    def maps(self) -> bool:
        """Whether a linear map leads to the teacher's space."""
        return self.wide and self.teacher in ("l2", "cosine")

    @property
    def model(self) -> Step:
        """The plainest step of the same model."""
        taught = {"teacher": self.teacher, "wide": True} if self.maps else {}
        return Step(precision=self.precision, two_encoders=self.two_encoders, seed=self.seed, **taught)

    def config(self) -> TrainConfig:
        """What a user would write.

        Raises:
            ConfigError: these do not go together.
        """
        source: dict[str, Any] = {"train": "file.tsv"}
        if self.data == "singles":
            source["loss"] = "none"
        elif self.data in SCORED:
            source |= {"rows": "scored", "loss": self.data}
        data = {"sources": [source]} if len(source) > 1 else source
        teacher = {"loss": self.teacher, "mask_margin": 0.0 if self.guide else None}
        taught = self.guide or self.teacher != "none"
        return TrainConfig(
            model={"queue_size": self.queue, "two_encoders": self.two_encoders},  # type: ignore[arg-type]
            data=data | {"mask_equal_texts": not self.equal},  # type: ignore[arg-type]
            teacher=teacher | {"name": ["teacher"], "weight": 0.5, "temperature": 0.2} if taught else {},  # type: ignore[arg-type]
            batch_size=self.rows, micro_batch_size=self.micro, candidates=self.candidates, objective=self.objective,
            similarity=self.similarity, temperature=self.temperature, hard_negative_weight=ALPHA,
            precision=self.precision, matryoshka=list(KEPT) if self.matryoshka else [],
        )  # fmt: skip


COLUMNS = {"singles": 1, "texts": 1, "triplets": 3, "echoes": 3, "quadruplets": 4}


def rows_of(step: Step) -> tuple[datasets.Dataset, list[np.ndarray]]:
    """Two batches of rows, some of whose texts are equal, and a teacher's vectors of them."""
    return rows_by(Step(data=step.data, rows=step.rows, seed=step.seed, wide=step.wide))


@lru_cache(20)
def rows_by(step: Step) -> tuple[datasets.Dataset, list[np.ndarray]]:
    draw, rng, count, width = random.Random(step.seed), np.random.default_rng(step.seed), 2 * step.rows, 2
    width = COLUMNS.get(step.data, width)
    table = [
        [" ".join(draw.choices(WORDS, k=draw.randint(2, 9))) + f" {v} {r}" for r in range(count)] for v in range(4)
    ]
    for _ in range(count // 2):
        view, other = draw.randrange(width), draw.randrange(width)
        row, there = draw.sample(range(count), 2)
        table[view][row] = table[other][there]
    if step.data == "echoes":
        table[1][::2] = table[0][::2]
    columns: dict[str, Any] = {"text": table[0]} if width == 1 else dict(zip(roles_of(width), table, strict=False))
    vectors = rng.standard_normal((width, count, 40 if step.wide else WIDTH)).astype(np.float32)
    if step.data in SCORED:
        columns["score"] = [row % 4 / 4 for row in range(count)]
    return datasets.Dataset.from_dict(columns), list(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


def built(folder: Path, step: Step) -> ContrastiveModel:
    """A model whose vectors lie apart; of two encoders each has weights of its own."""
    encoder = SentenceEncoder.from_pretrained(folder, dropout=0.0, device="cpu", dtype="fp32")
    torch.manual_seed(step.seed)
    model = ContrastiveModel(encoder, "train", two_encoders=step.two_encoders)
    if step.maps:
        model.map = torch.nn.Linear(model.dimension, 40, bias=False)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.mul_(10 if weight.ndim > 1 and name != "map.weight" else 1)
            if name.startswith("second."):
                weight.mul_(1 + 0.2 * torch.randn_like(weight))
    return model.train()


@lru_cache(4)
def prepared(folder: Path, kind: Step) -> tuple[Accelerator, torch.nn.Module, ContrastiveModel]:
    """The model of some steps, as the accelerator prepares it."""
    AcceleratorState._reset_state()
    accelerator = Accelerator(cpu=True, mixed_precision=MIXED[kind.precision])
    plain = built(folder, kind)
    return accelerator, accelerator.prepare(plain), plain


def batches_of(step: Step, model: ContrastiveModel) -> Batches:
    table, vectors = rows_of(step)
    return Batches(
        table, model.encoder.tokenize(32), batch_size=step.rows, seed=step.seed, rank=rank(), world=world(),
        with_counts=True, once=step.data == "singles", teacher=[TextVectors([part]) for part in vectors],
    )  # fmt: skip


def criterion_of(step: Step, dimension: int = WIDTH) -> Criterion:
    """The loss of a run, checked as a run checks it.

    Raises:
        ConfigError: these options do not go together.
    """
    config = step.config()
    check_data(config, config.data.all_sources()[0], build_loss(config), rows_of(step)[0])
    return build_criterion(config, dimension)


def by_the_package(folder: Path, step: Step) -> Found:
    """The mean loss over the processes and each parameter's gradient, as `Trainer` computes them for its optimizer."""
    accelerator, model, plain = prepared(folder, step.model)
    batches, criterion = batches_of(step, plain), criterion_of(step, plain.dimension)
    if step.queue and isinstance(criterion, ContrastiveLoss):
        queue = MomentumQueue(plain, step.queue, 0.9)
        queue.update(plain, batches.batch_of(1))
        criterion = replace(criterion, queue=queue)
    schedule = Schedule(steps=1, lr=1.0, micro_batch_size=step.micro)
    trainer = Trainer(accelerator, model, None, batches, criterion, None, None, schedule)  # type: ignore[arg-type]
    plain.zero_grad()
    loss = mean_over_processes(trainer._backward(batches.batch_of(0)))
    return float(loss), {name: w.grad.clone() for name, w in plain.named_parameters() if w.grad is not None}


class Reference:
    """Some steps' texts by Hugging Face's model in float64, for the formulas of `naive`."""

    def __init__(self, folder: Path, step: Step) -> None:
        model = built(folder, step.model)
        batches = batches_of(step, model)
        self.batch, self.earlier = batches.batch_of(0), batches.batch_of(1)
        self.weights = {name: w.detach().double().requires_grad_() for name, w in model.named_parameters()}
        self.bert = BertModel(BertConfig.from_pretrained(folder), add_pooling_layer=False).double().eval()
        first, *others = self.vectors(self.batch, "")
        if step.two_encoders:
            others = self.vectors(self.batch, "second.")[1:]
        self.views = torch.stack([first, *others])  # (V, B, D)
        if step.maps:
            unit = self.views / (self.views**2).sum(-1, keepdim=True).sqrt()
            mapped = unit @ self.weights["map.weight"].T
            self.views = torch.cat([self.views, mapped], dim=-1)  # (V, B, D + D_t)
        self.past = self.vectors(self.earlier, "")[1].detach() if step.queue else torch.empty(0)  # (B, D)

    def vectors(self, batch: Batch, prefix: str) -> Tensor:
        """(V, B, D) by the first encoder, or by the second."""
        inside, head = prefix + "encoder.backbone.", prefix + "head.linear."
        weights = {name.removeprefix(inside): w for name, w in self.weights.items() if name.startswith(inside)}
        texts = [ids.tolist() for ids in torch.split(batch.tokens.ids, batch.tokens.lengths)]
        longest = max(map(len, texts))
        ids = torch.tensor([text + [0] * (longest - len(text)) for text in texts])
        mask = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in texts])
        states = torch.func.functional_call(self.bert, weights, (ids, mask)).last_hidden_state
        vectors = torch.tanh(states[:, 0] @ self.weights[head + "weight"].T + self.weights[head + "bias"])
        return vectors.view(len(batch), batch.views, -1).transpose(0, 1)

    def gradients(self, step: Step) -> Found:
        """The loss, and each parameter's gradient."""
        loss = self.loss(step, self.views)
        found = torch.autograd.grad(loss, list(self.weights.values()), retain_graph=True, allow_unused=True)
        return float(loss.detach()), {n: g for n, g in zip(self.weights, found, strict=True) if g is not None}

    def gradients_through(self, folder: Path, step: Step) -> Found:
        """The same by vectors that the package made, and the gradient that it makes of theirs: both have a precision of
        their own."""
        _, model, plain = prepared(folder, step.model)
        plain.zero_grad()
        views = model(self.batch)  # (V, B, D)
        exact = views.detach().double().requires_grad_()
        loss = self.loss(step, exact)
        [gradient] = torch.autograd.grad(loss, exact)
        views.backward(gradient.to(views.dtype))
        return float(loss.detach()), {n: w.grad.clone() for n, w in plain.named_parameters() if w.grad is not None}

    def loss(self, step: Step, views: Tensor) -> Tensor:
        if not step.matryoshka:
            return self.loss_of(step, views)
        return naive.mean([self.loss_of(step, views[..., :size]) for size in KEPT])

    def loss_of(self, step: Step, views: Tensor) -> Tensor:
        batch, parts = self.batch, []
        teacher, own = batch.teacher.double(), views[..., :WIDTH]
        if step.data in SCORED:
            pairs = list(zip(*own, strict=True))
            parts.append(naive.scored(step.data, pairs, batch.scores.tolist(), step.temperature))
        elif step.data != "singles":
            parts.append(self.contrastive(step, own, teacher))
        if step.teacher != "none":
            compared, keys = views[..., WIDTH:] if step.maps else own, batch.keys.tolist()
            if len(views) == 1 and step.teacher in ("kl", "margin_mse"):  # each is its own positive
                compared, teacher, keys = compared.expand(2, -1, -1), teacher.expand(2, -1, -1), keys * 2
            texts, temperatures = naive.Texts(list(compared), keys=keys), (step.temperature, 0.2)
            options = (step.candidates, temperatures, step.similarity)
            parts.append(0.5 * naive.distilled(step.teacher, texts, list(teacher), *options))
        return naive.total(parts)

    def contrastive(self, step: Step, views: Tensor, teacher: Tensor) -> Tensor:
        keys, frequency, past = self.batch.keys.tolist(), self.batch.log_frequency.tolist(), ()
        if step.queue:
            past = self.past[-step.queue :]
            keys.append(self.earlier.keys[1][-step.queue :].tolist())
            frequency.append(self.earlier.log_frequency[1][-step.queue :].tolist())
        texts = naive.Texts(list(views), past, None if step.equal else keys, frequency)
        rows = naive.rows(
            texts, step.candidates, step.temperature, ALPHA, step.similarity, list(teacher), 0.0 if step.guide else None
        )
        return naive.mean([naive.OBJECTIVES[step.objective](row) for row in rows])


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def one_of_two(number: int, port: int, folder: Path, steps: Sequence[Step], out: Path) -> None:
    """What a process of a pair does: all steps, one after the other; the first writes down what was found."""
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(number), LOCAL_RANK=str(number), WORLD_SIZE="2",
        LOCAL_WORLD_SIZE="2", ACCELERATE_USE_CPU="true",
    )  # fmt: skip
    torch.set_num_threads(1)
    Accelerator(cpu=True)
    assert world() == 2
    found = {step: by_the_package(folder, step) for step in steps}
    if number == 0:
        torch.save(found, out)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    os._exit(0)  # a thread of gloo's that still runs while the interpreter ends aborts the process
