"""The instruction sets that there is a micro-kernel for, and what each needs of the processor and of the compiler."""

from __future__ import annotations

from typing import NamedTuple

import torch

from simcse.encoder.backends.cpu_features import cpu_flags

__all__ = [
    "AMX",
    "AVX2",
    "AVX2_VNNI",
    "AVX512",
    "AVX512F",
    "AVX512_VNNI",
    "INSTRUCTION_SETS",
    "InstructionSet",
    "best_instruction_set",
    "why_none",
]


class InstructionSet(NamedTuple):
    """What there is a kernel for.

    Attributes:
        name: shown to people.
        dtype: of weights and states.
        kernel: `microkernel_KERNEL.hpp` holds the products.
        headers: that it includes.
        flags: that the processor must have, as Linux lists them.
        options: of the compiler.
        floats, integers: whether layers in floating point, or in 8-bit integers, are computed by it.
        in_16_bits: lines of a panel, four inputs each, whose products of integers are added in 16 bits; 0: all in 32.
    """

    name: str
    dtype: torch.dtype
    kernel: str
    headers: tuple[str, ...]
    flags: frozenset[str]
    options: tuple[str, ...]
    floats: bool = True
    integers: bool = True
    in_16_bits: int = 0


AMX = InstructionSet(
    name="amx",
    dtype=torch.bfloat16,
    kernel="amx",
    headers=("vec512.hpp", "lanes512.hpp", "functions.hpp", "panels.hpp"),
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
    kernel="avx512",
    headers=("vec512.hpp", "lanes512.hpp", "functions.hpp", "panels.hpp", "registers.hpp"),
    flags=frozenset({"avx512_bf16", "avx512_vnni", "avx512bw", "avx512dq", "avx512f", "avx512vl"}),
    options=("-mfma", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512bf16", "-mavx512vnni"),
)
AVX2 = InstructionSet(
    name="avx2",
    dtype=torch.float32,
    kernel="avx2",
    headers=("vec256.hpp", "floats256.hpp", "functions.hpp", "panels.hpp", "registers.hpp"),
    flags=frozenset({"avx2", "fma"}),
    options=("-mavx2", "-mfma"),
    in_16_bits=4,
)
AVX2_VNNI = AVX2._replace(  # processors without AVX-512
    name="avx2_vnni", kernel="avx2_vnni", flags=AVX2.flags | {"avx_vnni"}, options=(*AVX2.options, "-mavxvnni"),
    floats=False, in_16_bits=0,
)  # fmt: skip
AVX512F = InstructionSet(  # processors with AVX-512, but without its BF16
    name="avx512f",
    dtype=torch.float32,
    kernel="avx512_fp32",
    headers=("vec512_fp32.hpp", "lanes512.hpp", "functions.hpp", "panels.hpp", "registers.hpp"),
    flags=frozenset({"avx512bw", "avx512dq", "avx512f", "avx512vl"}),
    options=(  # VNNI is in the products of integers alone
        "-mfma", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni",
    ),
    integers=False,
)  # fmt: skip
AVX512_VNNI = AVX512F._replace(name="avx512_vnni", flags=AVX512F.flags | {"avx512_vnni"}, floats=False, integers=True)
INSTRUCTION_SETS = (AMX, AVX512, AVX512F, AVX512_VNNI, AVX2_VNNI, AVX2)  # the fastest of each type first


def best_instruction_set(dtype: torch.dtype = torch.bfloat16, *, int8: bool = False) -> InstructionSet | None:
    """The fastest for weights of a type that this processor has; None if it has none.

    Args:
        dtype: of the weights, and of the states.
        int8: whether the layers are in 8-bit integers.
    """
    return next((one for one in sets_for(dtype, int8) if one.flags <= cpu_flags()), None)


def sets_for(dtype: torch.dtype, int8: bool) -> list[InstructionSet]:
    """For weights of a type on any processor."""
    return [one for one in INSTRUCTION_SETS if one.dtype == dtype and (one.integers if int8 else one.floats)]


def why_none(dtype: torch.dtype, *, int8: bool = False) -> str:
    """Why `best_instruction_set` finds none."""
    name, sets = str(dtype).removeprefix("torch."), sets_for(dtype, int8)
    if not sets:
        return f"there is no kernel for {name}"
    return f"this CPU has none of the instruction sets for {name}: {', '.join(one.name for one in sets)}"
