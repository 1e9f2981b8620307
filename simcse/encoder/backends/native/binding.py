"""The compiled kernel, and the structs that it reads, as ctypes sees them."""

from __future__ import annotations

import ctypes
import hashlib
import logging
from functools import cache
from pathlib import Path

from simcse.encoder.backends.native.compile import compiled, opened
from simcse.encoder.backends.native.instruction_sets import InstructionSet

__all__ = ["EmbeddingFields", "LayerFields", "LinearFields", "NormFields", "build", "load_kernel", "sources_digest"]

logger = logging.getLogger(__name__)

OPTIONS = ("-std=c++17", "-O3", "-w", "-shared", "-fPIC")


class NormFields(ctypes.Structure):
    """`Norm` of layer.cpp."""

    _fields_ = (("gamma", ctypes.c_void_p), ("beta", ctypes.c_void_p), ("eps", ctypes.c_float))


class LinearFields(ctypes.Structure):
    """`Linear` of layer.cpp."""

    _fields_ = (
        ("weight", ctypes.c_void_p), ("bias", ctypes.c_void_p), ("scales", ctypes.c_void_p),
        ("smoothing", ctypes.c_void_p), ("begins", ctypes.c_void_p),
    )  # fmt: skip


class EmbeddingFields(ctypes.Structure):
    """`Embedding` of layer.cpp."""

    _fields_ = (
        ("width", ctypes.c_long), ("word", ctypes.c_void_p), ("position", ctypes.c_void_p),
        ("token_type", ctypes.c_void_p), ("norm", NormFields),
    )  # fmt: skip


class LayerFields(ctypes.Structure):
    """`Layer` of layer.cpp."""

    _fields_ = (
        ("width", ctypes.c_long), ("heads", ctypes.c_long), ("inner", ctypes.c_long), ("inputs", LinearFields),
        ("out", LinearFields), ("up", LinearFields), ("down", LinearFields), ("attention_norm", NormFields),
        ("output_norm", NormFields), ("relative", ctypes.c_void_p), ("span", ctypes.c_long),
        ("least_gelu", ctypes.c_float),
    )  # fmt: skip


STRUCTS = (NormFields, LinearFields, EmbeddingFields, LayerFields)  # in the order of struct_sizes in layer.cpp


@cache
def load_kernel(instructions: InstructionSet | None) -> ctypes.CDLL | None:
    """The kernel for instructions that this CPU has; None where the system or the lack of a compiler forbids it."""
    path = None if instructions is None else build(instructions)
    library = None if path is None else opened(path)
    if library is None:
        return None
    expected, found = [ctypes.sizeof(struct) for struct in STRUCTS], struct_sizes(library)
    if found != expected:  # by a compiler with another layout of structs
        logger.warning("%s: structs of %s bytes, expected %s; torch computes instead", path, found, expected)
        return None
    library.run_layer.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_long] * 2 + [ctypes.c_int, ctypes.c_void_p]
    library.run_layer.restype = None
    library.embed.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_long] + [ctypes.c_void_p] * 2
    library.embed.restype = None
    library.pack_weight.argtypes = [ctypes.c_void_p, ctypes.c_long, ctypes.c_long, ctypes.c_void_p]
    library.pack_weight.restype = None
    library.added.argtypes, library.added.restype = [], ctypes.c_long
    library.scratch_bytes.argtypes = [ctypes.c_void_p, ctypes.c_long]
    library.scratch_bytes.restype = ctypes.c_long
    return library if library.allowed() else None


def build(instructions: InstructionSet) -> Path | None:
    """The shared library for an instruction set, from the cache folder or compiled now."""
    sources = [
        Path(__file__).with_name(name) for name in ("layer.cpp", microkernel(instructions), *instructions.headers)
    ]
    return compiled(sources, (*OPTIONS, *definitions(instructions), *instructions.options))


def microkernel(instructions: InstructionSet) -> str:
    """The file with the products of an instruction set."""
    return f"microkernel_{instructions.kernel}.hpp"


def definitions(instructions: InstructionSet) -> tuple[str, ...]:
    """What the sources are told of an instruction set."""
    return f'-DMICROKERNEL="{microkernel(instructions)}"', f"-DIN_16_BITS={instructions.in_16_bits}"


@cache
def sources_digest() -> str:
    """Of all C++ sources: changes with any kernel, which a version number does not in a checkout."""
    files = sorted(Path(__file__).parent.glob("*.[ch]pp"))
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:8]


def struct_sizes(library: ctypes.CDLL) -> list[int]:
    """Bytes of each of `STRUCTS`, as the compiler laid them out."""
    return list((ctypes.c_long * len(STRUCTS)).in_dll(library, "struct_sizes"))
