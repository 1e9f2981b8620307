"""A test of a micro-kernel, for each instruction set that this CPU has."""

from __future__ import annotations

import pytest

from simcse.encoder.backends.cpu_features import cpu_flags
from simcse.encoder.backends.native.binding import load_kernel
from simcse.encoder.backends.native.instruction_sets import INSTRUCTION_SETS, InstructionSet


def each(*instruction_sets: InstructionSet) -> pytest.MarkDecorator:
    """A test for every instruction set that this CPU has."""
    return pytest.mark.parametrize(
        "instructions",
        [
            pytest.param(
                one,
                id=one.name,
                marks=pytest.mark.skipif(
                    not one.flags <= cpu_flags() or load_kernel(one) is None,
                    reason=f"needs a CPU with {' '.join(sorted(one.flags))} and a C++ compiler",
                ),
            )
            for one in instruction_sets
        ],
    )


each_kernel = each(*(one for one in INSTRUCTION_SETS if one.floats))
each_with_integers = each(*(one for one in INSTRUCTION_SETS if one.integers))
