"""The encoding benchmark says of each contestant how fast it is, or why it is out, and waits for none without end."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest


def test_out_are_the_slow_and_the_impossible(
    tiny_bert: Path, sentences: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import encode

    try:
        monkeypatch.setattr(encode, "gemm_rate", lambda dtype: 1e9)
        contestants = [
            encode.Apart("ours", "simcse", str(tiny_bert), "fp32", 300),
            encode.Apart("impossible", "simcse", str(tiny_bert), "fp99", 300),
            encode.Apart("slow", "simcse", str(tiny_bert), "fp32", 0.01),
        ]
        seconds, vectors, _ = encode.race(contestants, sentences, 2)
    finally:
        for name in ("encode", "machine"):
            sys.modules.pop(name, None)
    lines = capsys.readouterr().out.splitlines()
    # the slow one may have loaded before anyone waits for it, and is cut off later then
    assert "slow: cut off: needs more than 0.01 s; --limit sets how many it has" in lines
    others = [line for line in lines if not line.startswith("slow")]
    assert [line.split(":")[0] for line in others] == ["ours", "impossible", "ours", "ours"]
    assert others[1].startswith("impossible: left out: dtype 'fp99' is not one of")
    assert others[3].endswith("sentences/s (part 2 of 2)")
    assert list(seconds) == ["ours"]
    assert vectors["ours"].shape == (len(sentences), 32)
    assert np.isfinite(vectors["ours"]).all()
