"""Products of 8-bit integers by each micro-kernel: the sums that integers of any size have, whatever their signs."""

from __future__ import annotations

import ctypes
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_lists import each_with_integers

from simcse.encoder.backends.int8 import quantize_weight
from simcse.encoder.backends.native import binding
from simcse.encoder.backends.native import compile as compiling
from simcse.encoder.backends.native.binding import OPTIONS, load_kernel
from simcse.encoder.backends.native.instruction_sets import InstructionSet

SOURCE = """
#include MICROKERNEL
extern "C" void pack(const void *weight, long rows, long width, void *panels) {
  panels_of_rows(weight, width, rows, width, panels);
}
extern "C" long sum(const uint8_t *a, long stride, long rows, const char *panels, long steps, long columns,
                    const int32_t *begins, int32_t *out) {
  if (!allow()) return 0;
  Unit unit;
  auto keep = [&](const int32_t *line, long row, long column) {
    if (row < rows) memcpy(out + row * columns + column, line, SIDE * 4);
  };
  if (begins) product<SIGNED>(a, stride, rows, panels, steps * PAIR, steps, columns, begins, keep);
  else product<UNSIGNED>(a, stride, rows, panels, steps * PAIR, steps, columns, nullptr, keep);
  return FLIPPED ? 128 : 0;
}
"""


@cache
def library_of(instructions: InstructionSet) -> ctypes.CDLL:
    """`SOURCE` with a micro-kernel."""
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "source.cpp", Path(folder) / "library.so"
        source.write_text(SOURCE, encoding="utf-8")
        name = compiling.compiler()
        assert name is not None
        headers = f"-I{Path(binding.__file__).parent}"
        options = (*OPTIONS, headers, *binding.definitions(instructions), *instructions.options)
        library.write_bytes(compiling.run([*name.split(), *options], source))
        return ctypes.CDLL(str(library))


def product(instructions: InstructionSet, inputs: np.ndarray, weight: np.ndarray, *, signed: bool) -> np.ndarray:
    """(rows, in) times (out, in), by the micro-kernel: (rows, out)."""
    library = library_of(instructions)
    (rows, width), (out, _) = inputs.shape, weight.shape
    panels, sums = np.zeros(weight.size, dtype=np.int8), np.zeros((rows, out), dtype=np.int32)
    room = np.zeros((rows + 64, width), dtype=np.uint8)
    weight = np.ascontiguousarray(weight)
    library.pack(weight.ctypes.data_as(ctypes.c_void_p), *map(ctypes.c_long, weight.shape), pointer(panels))
    added = load_kernel(instructions).added() if signed else 0
    room[:rows] = (inputs.astype(np.int64) + added).astype(np.uint8)
    begins = (-added * weight.sum(1, dtype=np.int32)).astype(np.int32)
    found = library.sum(
        pointer(room), ctypes.c_long(width), ctypes.c_long(rows), pointer(panels), ctypes.c_long(width // 64),
        ctypes.c_long(out), pointer(begins) if signed else None, pointer(sums),
    )  # fmt: skip
    assert found == load_kernel(instructions).added()
    return sums


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    return array.ctypes.data_as(ctypes.c_void_p)


def exact(inputs: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return inputs.astype(np.int64) @ weight.astype(np.int64).T


@each_with_integers
@pytest.mark.parametrize("signed", [False, True])
@settings(deadline=None)
@given(
    rows=st.integers(1, 40), steps=st.integers(1, 4), panels=st.integers(1, 3), seed=st.integers(0, 999),
    kind=st.sampled_from(["normal", "equal", "signs", "outlier"]),
)  # fmt: skip
def test_sums_of_any_shape_are_exact(
    instructions: InstructionSet, signed: bool, rows: int, steps: int, panels: int, seed: int, kind: str
) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((32 * panels, 64 * steps)).astype(np.float32)
    if kind in ("equal", "signs"):
        weight = np.ones_like(weight) if kind == "equal" else np.sign(weight)
    if kind == "outlier":
        weight[:, 3] = 100
    whole = quantize_weight(torch.from_numpy(weight), instructions.in_16_bits)[0].numpy()
    low, high = (-127, 127) if signed else (0, 255)
    inputs = rng.integers(low, high, (rows, 64 * steps), endpoint=True)
    np.testing.assert_array_equal(product(instructions, inputs, whole, signed=signed), exact(inputs, whole))


@each_with_integers
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("sign", [1, -1])
def test_nothing_saturates(instructions: InstructionSet, signed: bool, sign: int) -> None:
    """All inputs at the top, and all weights: at 127, or at the largest that an instruction set leaves room for."""
    whole = quantize_weight(torch.full((32, 384), float(sign)), instructions.in_16_bits)[0].numpy()
    assert (np.abs(whole) == (127 if instructions.in_16_bits == 0 else 128 // (2 * instructions.in_16_bits))).all()
    for inputs in (np.full((7, 384), 127 if signed else 255), np.full((7, 384), -127 if signed else 0)):
        np.testing.assert_array_equal(product(instructions, inputs, whole, signed=signed), exact(inputs, whole))
    alone = np.zeros((32, 384), dtype=np.int8)
    alone[:, 3::64] = 127 * sign  # one large weight among those whose products meet
    inputs = np.full((7, 384), 127 if signed else 255)
    np.testing.assert_array_equal(product(instructions, inputs, alone, signed=signed), exact(inputs, alone))
