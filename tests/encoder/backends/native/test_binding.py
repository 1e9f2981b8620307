"""The compiled kernel as Python loads it, and what happens where there is none."""

from __future__ import annotations

import ctypes
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from simcse import SentenceEncoder
from simcse.encoder.backends.int8 import CALIBRATION
from simcse.encoder.backends.native import binding, instruction_sets
from simcse.encoder.backends.native import compile as compiling
from simcse.encoder.backends.native.binding import STRUCTS, build, load_kernel, struct_sizes
from simcse.encoder.backends.native.instruction_sets import (
    AMX,
    INSTRUCTION_SETS,
    InstructionSet,
    best_instruction_set,
)

needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A process that has compiled nothing yet, with an empty cache folder, on any CPU."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    load_kernel.cache_clear()
    yield tmp_path / "simcse"
    load_kernel.cache_clear()


OLD_COMPILER = """#!/bin/sh
echo "c++: error: unrecognized command-line option '-mavx512bf16'; did you mean '-mavx512ifma'?" >&2
exit 1
"""


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false", "old"])
def test_without_a_compiler_torch_does_the_work(
    compiler: str, fresh: Path, tmp_path: Path, minilm: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """None, one that fails, or one that does not know the instruction sets."""
    if compiler == "old":
        (tmp_path / "c++").write_text(OLD_COMPILER, encoding="utf-8")
        (tmp_path / "c++").chmod(0o700)
        compiler = str(tmp_path / "c++")
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setattr(instruction_sets, "cpu_flags", lambda: AMX.flags)
    texts = list(CALIBRATION)
    expected = SentenceEncoder.from_pretrained(minilm, device="cpu", dtype="fp32", backend="torch").to(torch.bfloat16)
    with caplog.at_level(logging.INFO, "simcse"):
        encoder = SentenceEncoder.from_pretrained(minilm, device="cpu", dtype="fp32").to(torch.bfloat16)
        for _ in range(2):
            encoder.train().eval()  # prepared weights are forgotten
            np.testing.assert_array_equal(encoder.encode(texts), expected.encode(texts))
    line, other = [record.getMessage() for record in caplog.records if "torch computes instead" in record.getMessage()]
    assert other.split("(")[0] == line.split("(")[0]  # loaded in fp32, then in bf16
    assert line.startswith(f"{compiler} cannot compile layer.cpp: torch computes instead (")
    if "c++" in compiler:
        assert line.endswith("did you mean '-mavx512ifma'?)")
    assert not list(fresh.glob("*.so"))


@needs_compiler
def test_a_cache_that_moves_to_another_processor(
    fresh: Path, minilm: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A virtual machine that was moved, or a folder shared by machines: each loads what its own instructions allow."""
    texts = list(CALIBRATION)
    built = {one.name: build(one) for one in INSTRUCTION_SETS}
    different = {(one.kernel, one.options) for one in INSTRUCTION_SETS}
    assert len({path.name for path in built.values() if path is not None}) == len(different)
    loaded: list[str] = []
    real = binding.build
    monkeypatch.setattr(binding, "build", lambda one: loaded.append(one.name) or real(one))
    monkeypatch.setattr(instruction_sets, "cpu_flags", frozenset)
    load_kernel.cache_clear()
    encoder = SentenceEncoder.from_pretrained(minilm, device="cpu", dtype="fp32").to(torch.bfloat16)
    by_torch = SentenceEncoder.from_pretrained(minilm, device="cpu", dtype="fp32", backend="torch").to(torch.bfloat16)
    np.testing.assert_array_equal(encoder.encode(texts), by_torch.encode(texts))
    assert repr(encoder).endswith("backend torch)")
    assert not loaded
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(fresh.parent))
    here = instruction_sets.best_instruction_set()
    if here is not None:  # back on this one, nothing is compiled anew
        monkeypatch.setattr(compiling, "run", lambda *arguments: pytest.fail("compiled"))
        load_kernel.cache_clear()
        assert load_kernel(best_instruction_set()) is not None
        encoder.train().eval()
        assert (encoder.encode(texts) * by_torch.encode(texts)).sum(1).min() > 0.999


def test_a_library_that_the_system_cannot_load(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What a compiler for another machine would leave."""
    compiler = tmp_path / "compiler"
    compiler.write_text('#!/bin/sh\nfor out; do :; done\nprintf "\\177ELF" > "$out"\n', encoding="utf-8")
    compiler.chmod(0o700)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setattr(instruction_sets, "cpu_flags", lambda: AMX.flags)
    with caplog.at_level(logging.INFO, "simcse"):
        assert load_kernel(best_instruction_set()) is None
    (library,) = fresh.iterdir()
    assert library.read_bytes() == b"\x7fELF"
    assert f"{library}: " in caplog.text


@needs_compiler
@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("instructions", INSTRUCTION_SETS, ids=lambda one: one.name)
def test_each_kernel_compiles_on_any_cpu(instructions: InstructionSet) -> None:
    path = build(instructions)
    assert path is not None
    library = ctypes.CDLL(str(path))
    for name in ("run_layer", "embed", "pack_weight", "added", "scratch_bytes", "allowed"):
        assert getattr(library, name)
    assert struct_sizes(library) == [ctypes.sizeof(struct) for struct in STRUCTS]


@needs_compiler
@pytest.mark.usefixtures("fresh")
def test_structs_of_another_size_are_never_passed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Longer(ctypes.Structure):
        _fields_ = (*binding.LayerFields._fields_, ("new", ctypes.c_double))

    monkeypatch.setattr(instruction_sets, "cpu_flags", lambda: AMX.flags)
    monkeypatch.setattr(binding, "STRUCTS", (*STRUCTS[:-1], Longer))
    assert load_kernel(best_instruction_set()) is None
    (line,) = [record.getMessage() for record in caplog.records]
    assert f"{ctypes.sizeof(Longer)}]; torch computes instead" in line


def test_a_cache_folder_of_somebody_else_changes_no_vector(
    fresh: Path, tmp_path: Path, minilm: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    texts = list(CALIBRATION)
    monkeypatch.setattr(instruction_sets, "cpu_flags", frozenset)  # else loading compiles the kernel into the folder
    encoder = SentenceEncoder.from_pretrained(minilm, device="cpu", dtype="fp32").to(torch.bfloat16)
    expected = encoder.encode(texts)
    load_kernel.cache_clear()
    fresh.symlink_to(tmp_path)
    monkeypatch.setattr(instruction_sets, "cpu_flags", lambda: AMX.flags)
    with caplog.at_level(logging.INFO, "simcse"):
        for _ in range(2):
            encoder.train().eval()  # prepared weights are forgotten
            np.testing.assert_array_equal(encoder.encode(texts), expected)
    (line,) = [record.getMessage() for record in caplog.records if "torch computes instead" in record.getMessage()]
    assert line.startswith(f"{fresh} is a link, so no library is loaded from it")
    assert "XDG_CACHE_HOME" in line


def test_no_kernel_on_other_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instruction_sets, "cpu_flags", frozenset)
    load_kernel.cache_clear()
    assert load_kernel(best_instruction_set()) is None
    load_kernel.cache_clear()
