"""The instruction sets that there is a micro-kernel for, and what each needs of the processor and of the compiler."""

from __future__ import annotations

from typing import NamedTuple

import torch

from simcse.encoder.backends.cpu_features import cpu_flags

__all__ = ["AMX", "AVX2", "AVX512", "INSTRUCTION_SETS", "InstructionSet", "best_instruction_set"]


class InstructionSet(NamedTuple):
    """One micro-kernel's.

    Attributes:
        name: `microkernel_NAME.hpp` holds the products.
        dtype: of weights and states.
        headers: that `microkernel_NAME.hpp` includes.
        flags: that the processor must have, as Linux lists them.
        better: a flag of processors on which torch's own products of this type are faster; None if there are none.
        options: of the compiler.
    """

    name: str
    dtype: torch.dtype
    headers: tuple[str, ...]
    flags: frozenset[str]
    options: tuple[str, ...]
    better: str | None = None


AMX = InstructionSet(
    name="amx",
    dtype=torch.bfloat16,
    headers=("vec512.hpp", "panels.hpp"),
    flags=frozenset({
        "amx_bf16", "amx_int8", "amx_tile", "avx512_bf16", "avx512bw", "avx512dq", "avx512f", "avx512vl",
    }),
    options=(
        "-mfma", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512bf16", "-mamx-tile", "-mamx-bf16",
        "-mamx-int8",
    ),
)  # fmt: skip
AVX512 = InstructionSet(
    name="avx512",
    dtype=torch.bfloat16,
    headers=("vec512.hpp", "panels.hpp", "registers.hpp"),
    flags=frozenset({"avx512_bf16", "avx512_vnni", "avx512bw", "avx512dq", "avx512f", "avx512vl"}),
    options=("-mfma", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512bf16", "-mavx512vnni"),
)
AVX2 = InstructionSet(
    name="avx2",
    dtype=torch.float32,
    headers=("vec256.hpp", "panels.hpp", "registers.hpp"),
    flags=frozenset({"avx2", "fma"}),
    options=("-mavx2", "-mfma", "-mavxvnni"),  # VNNI is in the products of integers alone
    better="avx512f",
)
INSTRUCTION_SETS = (AMX, AVX512, AVX2)  # the fastest of each dtype first


def best_instruction_set(dtype: torch.dtype = torch.bfloat16) -> InstructionSet | None:
    """The fastest for weights of a type on this processor; None where it has none, or torch is faster."""
    flags = cpu_flags()
    fit = (one for one in INSTRUCTION_SETS if one.dtype == dtype and one.flags <= flags and one.better not in flags)
    return next(fit, None)
