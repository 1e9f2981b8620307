"""Each compiled pass between products against torch: any rows and threads, both types, widths that do not fit."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from simcse.encoder.backends.cpu_training import dropout, passes
from simcse.encoder.backends.cpu_training.dropout import keep_mask
from simcse.encoder.backends.native.instruction_sets import best_instruction_set

BOTH = (torch.float32, torch.bfloat16)
ANY = {
    "rows": st.integers(1, 40),
    "width": st.sampled_from([32, 96, 384, 8, 33]),
    "dtype": st.sampled_from(BOTH),
    "threads": st.integers(1, 3),
    "seed": st.integers(0, 99),
}


@contextmanager
def on(threads: int) -> Iterator[None]:
    """With so many threads of torch's."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def drawn(seed: int, dtype: torch.dtype, *shapes: tuple[int, ...], scale: float = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).mul(scale).to(dtype) for shape in shapes]


def close(found: Tensor, expected: Tensor, dtype: torch.dtype, share: float = 1) -> None:
    """To the rounding of a type; sums of many to a share of their size."""
    tolerance = share * (2e-2 if dtype == torch.bfloat16 else 2e-5)
    torch.testing.assert_close(found.double(), expected.double(), rtol=tolerance, atol=tolerance)


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("dtype", BOTH)
def test_where_there_is_a_kernel_there_are_passes(dtype: torch.dtype) -> None:
    assert (passes.passes_for(dtype) is None) == (best_instruction_set(dtype) is None)
    assert passes.passes_for(torch.float64) is None


@settings(max_examples=60, deadline=None)
@given(**ANY, scale=st.sampled_from([0.1, 1, 4, 40]))
def test_gelu(rows: int, width: int, dtype: torch.dtype, threads: int, seed: int, scale: float) -> None:
    x, grad = drawn(seed, dtype, (rows, width), (rows, width), scale=scale)
    [bias] = drawn(seed + 100, torch.float32, (width,))
    total = (x.double() + bias).requires_grad_()
    expected = F.gelu(total)
    [expected_grad] = torch.autograd.grad(expected, total, grad.double())
    with on(threads):
        found = passes.gelu(x, bias)
        found_grad, sums = passes.gelu_backward(grad.clone(), x, bias)
    close(found, expected.detach(), dtype)
    close(found_grad / scale, expected_grad / scale, dtype)
    close(sums / (scale * rows), expected_grad.sum(0) / (scale * rows), dtype)


@settings(max_examples=60, deadline=None)
@given(**ANY, masked=st.booleans())
def test_norm_of_a_sum(rows: int, width: int, dtype: torch.dtype, threads: int, seed: int, masked: bool) -> None:
    x, update, grad = drawn(seed, dtype, *[(rows, width)] * 3)
    bias, gamma, beta = drawn(seed + 100, torch.float32, *[(width,)] * 3)
    keep = keep_mask(x.shape, 0.3, dtype) if masked else None
    leaves = [tensor.double().requires_grad_() for tensor in (x, update, gamma, beta)]
    total = leaves[0] + (leaves[1] + bias) * (1 if keep is None else keep.double())
    expected = F.layer_norm(total, (width,), *leaves[2:], 1e-5)
    expected_grads = torch.autograd.grad(expected, leaves, grad.double())
    with on(threads):
        found, *saved = passes.add_norm(x, update, bias, keep, gamma, beta, 1e-5)
        *grads, sums = passes.add_norm_backward(grad, saved, keep, gamma, beta)
    close(found, expected.detach(), dtype, share=3)
    deviation = float(saved[2].max())  # gradients are of this size
    for mine, plain in zip(
        [*grads[:2], sums / rows], [*expected_grads[:2], expected_grads[1].sum(0) / rows], strict=True
    ):
        close(mine / deviation, plain / deviation, dtype, share=3)
    for mine, plain in zip(grads[2:], expected_grads[2:], strict=True):
        close(mine / rows, plain / rows, dtype, share=3)


@pytest.mark.parametrize("dtype", BOTH)
@pytest.mark.parametrize("compiled", [True, False])
def test_norm_of_many_rows(dtype: torch.dtype, compiled: bool) -> None:
    """Gradients of gamma and beta are sums over rows; torch's own are kept in bf16 and lose a sixth of 2,000 rows."""
    x, grad = drawn(0, dtype, (4000, 32), (4000, 32))
    grad = grad + 0.3 * (1 + x)
    leaves = [
        torch.ones(32, dtype=torch.float64).requires_grad_(),
        torch.zeros(32, dtype=torch.float64).requires_grad_(),
    ]
    expected = torch.autograd.grad(F.layer_norm(2 * x.double(), (32,), *leaves, 1e-5), leaves, grad.double())
    with patch.object(passes, "passes_for", passes.passes_for if compiled else lambda _: None):
        _, *saved = passes.add_norm(x, x, torch.zeros(32), None, torch.ones(32), torch.zeros(32), 1e-5)
        found = passes.add_norm_backward(grad, saved, None, torch.ones(32), torch.zeros(32))
    for mine, plain in zip(found[2:4], expected, strict=True):
        close(mine / 4000, plain / 4000, dtype, share=0.2)


@settings(max_examples=40, deadline=None)
@given(**ANY)
def test_sums_and_rows(rows: int, width: int, dtype: torch.dtype, threads: int, seed: int) -> None:
    [x] = drawn(seed, dtype, (rows, width))
    ids = torch.randint(0, rows, (57,), generator=torch.Generator().manual_seed(seed))
    with on(threads):
        close(passes.column_sums(x) / rows, x.double().sum(0) / rows, dtype)
        assert torch.equal(passes.gather(x, ids), x[ids])
        assert torch.equal(passes.transposed(x), x.t())
        assert passes.transposed(x).is_contiguous()


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 2000), dtype=st.sampled_from(BOTH), rate=st.sampled_from([0.1, 0.5, 0.9]), seed=ANY["seed"])
def test_a_mask_is_that_of_its_seed_alone(count: int, dtype: torch.dtype, rate: float, seed: int) -> None:
    """Neither the number of threads nor what follows changes it."""
    masks: list[Any] = []
    for threads, size in ((1, count), (2, count), (3, count + 5)):
        torch.manual_seed(seed)
        with on(threads):
            mask = keep_mask((size,), rate, dtype)
        assert mask is not None
        masks.append(mask[:count])
    assert torch.equal(masks[0], masks[1])
    if passes.passes_for(dtype) is not None:
        assert torch.equal(masks[0], masks[2])


def test_without_a_compiler_masks_are_torchs() -> None:
    with patch.object(dropout, "passes_for", lambda _: None):
        torch.manual_seed(0)
        masks = [keep_mask((40_001,), 0.25, dtype) for dtype in BOTH]
    for mask in masks:
        assert mask is not None
        assert abs(float(mask.float().mean()) - 0.75) < 0.02
    assert masks[0] is not None
    assert masks[1] is not None
    assert not torch.equal(masks[0], masks[1].float())


@pytest.mark.parametrize("dtype", BOTH)
def test_nan_stays_nan(dtype: torch.dtype) -> None:
    x = torch.full((3, 32), float("nan"), dtype=dtype)
    zeros = torch.zeros(32)
    assert passes.gelu(x, zeros).isnan().all()
    assert passes.gelu_backward(torch.ones_like(x), x, zeros)[0].isnan().all()
    assert passes.add_norm(x, x, zeros, None, zeros + 1, zeros, 1e-5)[0].isnan().all()
