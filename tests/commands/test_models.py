"""What may be called a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from simcse.commands.models import encoders_of, short_names
from simcse.errors import ModelError


def test_what_a_name_stands_for(folder: Path, tmp_path: Path) -> None:
    assert encoders_of(str(folder / "two")) == [str(folder / "two" / f"seed-{n}" / "best") for n in (1, 2)]
    assert encoders_of(str(folder / "one")) == [str(folder / "one" / "best")]
    assert encoders_of("package:name") == ["package:name"]
    (tmp_path / "log.jsonl").touch()
    with pytest.raises(ModelError, match=r"a run without best/"):
        encoders_of(str(tmp_path))
    assert short_names(["runs/a/best", "runs/b"]) == ["a", "b"]
    assert short_names(["x/a", "y/a"]) == ["x/a", "y/a"]
