from __future__ import annotations

import torch
from torch import nn

from simcse.encoder.backends.cpu_training.embedding import look_up


def made(padding: int | None = None) -> nn.Embedding:
    torch.manual_seed(0)
    return nn.Embedding(50, 8, padding_idx=padding)


def gradient(embedding: nn.Embedding, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad((rows * weight).sum(), embedding.weight)[0]


def test_rows_and_gradient_are_those_of_the_module() -> None:
    for padding in (None, 3):
        embedding, ids, weight = made(padding), torch.tensor([3, 7, 7, 0, 49, 3]), torch.randn(6, 8)
        rows = look_up(embedding, ids)
        torch.testing.assert_close(rows, embedding(ids), rtol=0, atol=0)
        expected = gradient(embedding, embedding(ids), weight)
        torch.testing.assert_close(gradient(embedding, rows, weight), expected)


def test_gradients_add_up_over_passes() -> None:
    embedding, other = made(), made()
    for first in range(0, 40, 8):
        ids = torch.arange(first, first + 10)
        look_up(embedding, ids).square().sum().backward()
        other(ids).square().sum().backward()
    assert embedding.weight.grad is not None
    assert other.weight.grad is not None
    torch.testing.assert_close(embedding.weight.grad, other.weight.grad)


def test_a_table_may_change_its_type() -> None:
    embedding, ids = made(), torch.tensor([4, 4, 9])
    for dtype in (torch.float32, torch.bfloat16, torch.float64, torch.float32):
        embedding.to(dtype)
        embedding.weight.grad = None
        look_up(embedding, ids).sum().backward()
        assert embedding.weight.grad is not None
        assert embedding.weight.grad.dtype == dtype
        assert embedding.weight.grad.sum(1).nonzero()[:, 0].tolist() == [4, 9]


def test_memory_is_used_again_only_when_nobody_holds_the_gradient() -> None:
    embedding, ids = made(), torch.tensor([1, 2])
    look_up(embedding, ids).sum().backward()
    grad = embedding.weight.grad
    assert grad is not None
    place = grad.data_ptr()
    embedding.weight.grad = None
    look_up(embedding, ids + 5).sum().backward()
    assert embedding.weight.grad is not None
    assert embedding.weight.grad.data_ptr() != place
    assert grad[1:3].eq(1).all()  # as it was
    assert not grad[5:].any()
    del grad
    embedding.weight.grad = None
    look_up(embedding, ids + 9).sum().backward()
    assert embedding.weight.grad is not None
    assert embedding.weight.grad.nonzero()[:, 0].unique().tolist() == [10, 11]
