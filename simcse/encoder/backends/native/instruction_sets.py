"""The instruction sets that there is a micro-kernel for, and what each needs of the processor and of the compiler."""

from __future__ import annotations

from typing import NamedTuple

from simcse.encoder.backends.cpu_features import cpu_flags

__all__ = ["AMX", "AVX512", "INSTRUCTION_SETS", "InstructionSet", "best_instruction_set"]


class InstructionSet(NamedTuple):
    """One micro-kernel's.

    Attributes:
        name: `microkernel_NAME.hpp` holds the products.
        flags: that the processor must have, as Linux lists them.
        options: of the compiler.
    """

    name: str
    flags: frozenset[str]
    options: tuple[str, ...]


AMX = InstructionSet(
    name="amx",
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
    flags=frozenset({"avx512_bf16", "avx512_vnni", "avx512bw", "avx512dq", "avx512f", "avx512vl"}),
    options=("-mfma", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512bf16", "-mavx512vnni"),
)
INSTRUCTION_SETS = (AMX, AVX512)  # the fastest first


def best_instruction_set() -> InstructionSet | None:
    """The fastest that this processor has; None if it has none of them."""
    return next((one for one in INSTRUCTION_SETS if one.flags <= cpu_flags()), None)
