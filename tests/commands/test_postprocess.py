"""`simcse postprocess` as a user types it, and its folder in place of a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simcse.cli import main


def simcse(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.mark.parametrize("kind", ["whitening", "flow"])
def test_a_fitted_map_is_compared_with_its_encoder(
    kind: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best, fitted = folder / "one" / "best", tmp_path / kind
    assert simcse("postprocess", folder / "texts.txt", "--model", best, "--kind", kind, "--output", fitted) == 0
    assert f"{kind}, 32 -> " in capsys.readouterr().err
    assert simcse("compare", best, fitted, "--data", folder / "pairs.tsv", "--resamples", 100, "--format", "json") == 0
    [task] = json.loads(capsys.readouterr().out)["tasks"].values()
    assert task["a"] != task["b"]
    assert simcse("postprocess", folder / "few.txt", "--model", best, "--kind", kind, "--output", tmp_path / "x") == 1
    assert "found 4 distinct texts" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
