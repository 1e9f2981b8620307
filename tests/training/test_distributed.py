"""Two processes compute what one does: losses and gradients, with and without hard negatives."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import torch.multiprocessing as multiprocessing
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from simcse import SentenceEncoder
from simcse.data.collate import Batches, TextVectors
from simcse.data.columns import roles_of
from simcse.objectives import CANDIDATES, SoftmaxCrossEntropy, build_candidates
from simcse.objectives.scored import cosent
from simcse.training.distributed import rank, world
from simcse.training.large_batch import cached_backward
from simcse.training.loss import ContrastiveLoss, DistillationLoss, MixedLoss, ScoredPairsLoss
from simcse.training.model import ContrastiveModel

ROWS = 8


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def criterion_of(loss: str, dimension: int) -> ContrastiveLoss | MixedLoss:
    """A candidate set with softmax, scored pairs, or a teacher's loss beside softmax."""
    candidates = build_candidates(loss if loss in CANDIDATES else "in_batch", hard_negative_weight=2.0)
    contrastive = ContrastiveLoss(candidates, SoftmaxCrossEntropy(), mask_margin=0.0 if loss == "guide" else None)
    if loss in CANDIDATES or loss == "guide":
        return contrastive
    if loss == "cosent":
        return MixedLoss([ScoredPairsLoss(cosent, 0.05)], [1.0], None, 1.0, dimension)
    return MixedLoss([contrastive], [1.0], DistillationLoss(loss, candidates, 0.1), 1.0, dimension)


def gradients_of_one_step(
    folder: Path, columns: dict[str, list[str]], micro: int | None, loss: str = "in_batch"
) -> tuple[float, dict[str, torch.Tensor]]:
    """The mean loss over processes and every parameter's gradient after one backward pass."""
    accelerator = Accelerator(cpu=True)
    encoder = SentenceEncoder.from_pretrained(folder, dropout=0.0, device="cpu", dtype="fp32")
    with torch.no_grad():  # the fixture's small random weights put all vectors in one place, where gradients vanish
        for weight in encoder.parameters():
            weight.mul_(10 if weight.ndim > 1 else 1)
    torch.manual_seed(0)
    plain = ContrastiveModel(encoder, "train").train()
    width, draw = plain.dimension, np.random.default_rng(0)
    vectors = draw.standard_normal((len(columns), ROWS, width)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    scores = {"score": [row / ROWS for row in range(ROWS)]} if loss == "cosent" else {}
    batches = Batches(
        datasets.Dataset.from_dict(columns | scores),
        encoder.tokenize(32),
        batch_size=ROWS,
        seed=0,
        rank=rank(),
        world=world(),
        teacher=[TextVectors([part]) for part in vectors],
    )
    model = accelerator.prepare(plain)
    batch = batches.batch_of(0)
    total = cached_backward(accelerator, model, batch, criterion_of(loss, width), micro or ROWS).clone()
    if world() > 1:
        torch.distributed.all_reduce(total)
    found = {key: weight.grad.clone() for key, weight in plain.named_parameters() if weight.grad is not None}
    return float(total) / world(), found


def one_of_two(
    number: int, port: int, folder: Path, columns: dict[str, list[str]], micro: int | None, loss: str, out: Path
) -> None:
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(number), LOCAL_RANK=str(number), WORLD_SIZE="2",
        LOCAL_WORLD_SIZE="2", ACCELERATE_USE_CPU="true",
    )  # fmt: skip
    torch.set_num_threads(1)
    result = gradients_of_one_step(folder, columns, micro, loss)
    assert world() == 2
    if number == 0:
        torch.save(result, out)
    torch.distributed.destroy_process_group()
    os._exit(0)  # a thread of gloo's that still runs while the interpreter ends aborts the process


@pytest.mark.parametrize(
    ("views", "micro", "kind"),
    [
        (2, None, "in_batch"), (3, None, "in_batch"), (3, 2, "in_batch"), (4, 2, "in_batch"),
        (2, None, "all_views"),
        (3, None, "symmetric"), (3, None, "guide"), (2, None, "cosent"), (2, 2, "cosent"),
        (3, None, "kl"), (3, 2, "kl"), (3, None, "margin_mse"), (2, None, "l2"), (2, 2, "cosine"),
    ],
)  # fmt: skip
def test_two_processes_have_the_gradients_of_one(
    tiny_bert: Path, tmp_path: Path, sentences: list[str], views: int, micro: int | None, kind: str
) -> None:
    """To 1e-6. Two positives are equal texts, so the mask must reach across processes."""
    texts = [sentences[i * ROWS : (i + 1) * ROWS] for i in range(views)]
    texts[1][3] = texts[1][5]
    columns = dict(zip(roles_of(views), texts, strict=True))
    AcceleratorState._reset_state(True)
    loss, expected = gradients_of_one_step(tiny_bert, columns, None, kind)
    arguments = (free_port(), tiny_bert, columns, micro, kind, tmp_path / "grads.pt")
    multiprocessing.spawn(one_of_two, arguments, nprocs=2)  # type: ignore[no-untyped-call]
    found_loss, found = torch.load(tmp_path / "grads.pt")
    assert found_loss == pytest.approx(loss, abs=1e-6)
    assert found.keys() == expected.keys()
    assert max(float(gradient.abs().max()) for gradient in expected.values()) > 1e-2  # there is something to compare
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient, atol=1e-6, rtol=1e-5, msg=key)
