"""Two processes compute what one does: losses and gradients, with and without hard negatives."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import datasets
import pytest
import torch
import torch.multiprocessing as multiprocessing
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from simcse import SentenceEncoder
from simcse.data.collate import Batches
from simcse.objectives import SoftmaxCrossEntropy, build_candidates
from simcse.training.distributed import rank, world
from simcse.training.large_batch import cached_backward
from simcse.training.loss import ContrastiveLoss
from simcse.training.model import ContrastiveModel

ROWS = 8


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def gradients_of_one_step(
    folder: Path, columns: dict[str, list[str]], micro: int | None, candidates: str = "in_batch"
) -> tuple[float, dict[str, torch.Tensor]]:
    """The mean loss over processes and every parameter's gradient after one backward pass."""
    accelerator = Accelerator(cpu=True)
    encoder = SentenceEncoder.from_pretrained(folder, dropout=0.0, device="cpu", dtype="fp32")
    with torch.no_grad():  # the fixture's small random weights put all vectors in one place, where gradients vanish
        for weight in encoder.parameters():
            weight.mul_(10 if weight.ndim > 1 else 1)
    torch.manual_seed(0)
    plain = ContrastiveModel(encoder, "train").train()
    batches = Batches(
        datasets.Dataset.from_dict(columns),
        encoder.tokenize(32),
        batch_size=ROWS,
        seed=0,
        rank=rank(),
        world=world(),
    )
    model = accelerator.prepare(plain)
    batch = batches.batch_of(0)
    criterion = ContrastiveLoss(build_candidates(candidates, hard_negative_weight=2.0), SoftmaxCrossEntropy())
    loss = cached_backward(accelerator, model, batch, criterion, micro or ROWS)
    total = loss.clone()
    if world() > 1:
        torch.distributed.all_reduce(total)
    found = {key: weight.grad.clone() for key, weight in plain.named_parameters() if weight.grad is not None}
    return float(total) / world(), found


def one_of_two(
    number: int, port: int, folder: Path, columns: dict[str, list[str]], micro: int | None, candidates: str, out: Path
) -> None:
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(number), LOCAL_RANK=str(number), WORLD_SIZE="2",
        LOCAL_WORLD_SIZE="2", ACCELERATE_USE_CPU="true",
    )  # fmt: skip
    torch.set_num_threads(1)
    result = gradients_of_one_step(folder, columns, micro, candidates)
    assert world() == 2
    if number == 0:
        torch.save(result, out)
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("views", "micro", "candidates"),
    [(2, None, "in_batch"), (3, None, "in_batch"), (3, 2, "in_batch"), (2, None, "all_views"), (3, None, "symmetric")],
    ids=["pairs", "hard negatives", "hard negatives, GradCache", "NT-Xent", "symmetric"],
)
def test_two_processes_have_the_gradients_of_one(
    tiny_bert: Path, tmp_path: Path, sentences: list[str], views: int, micro: int | None, candidates: str
) -> None:
    """To 1e-6. Two positives are equal texts, so the mask must reach across processes."""
    texts = [sentences[i * ROWS : (i + 1) * ROWS] for i in range(views)]
    texts[1][3] = texts[1][5]
    columns = dict(zip(["anchor", "positive", "hard_negative"], texts, strict=False))
    AcceleratorState._reset_state(True)
    loss, expected = gradients_of_one_step(tiny_bert, columns, None, candidates)
    arguments = (free_port(), tiny_bert, columns, micro, candidates, tmp_path / "grads.pt")
    multiprocessing.spawn(one_of_two, arguments, nprocs=2)  # type: ignore[no-untyped-call]
    found_loss, found = torch.load(tmp_path / "grads.pt")
    assert found_loss == pytest.approx(loss, abs=1e-6)
    assert found.keys() == expected.keys()
    assert max(float(gradient.abs().max()) for gradient in expected.values()) > 1e-2  # there is something to compare
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient, atol=1e-6, rtol=1e-5, msg=key)
