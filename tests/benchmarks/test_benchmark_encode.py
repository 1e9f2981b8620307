"""The encoding benchmark says of each contestant how fast it is, or why it is out, and waits for none without end."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

Script = Callable[[str], ModuleType]


def test_out_are_the_slow_and_the_impossible(
    script: Script,
    tiny_bert: Path,
    sentences: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    encode, harness, peers, sheet = (script(name) for name in ("encode", "harness", "peers", "sheet"))
    kit = peers.Kit(str(tiny_bert), str(tiny_bert), tmp_path, tuple(sentences))
    half = len(sentences) // 2
    parts = [sentences[:half], sentences[half:]]
    contestants = [
        harness.Apart("ours", harness.answer, (peers.Ours, kit, "fp32"), 300),
        harness.Apart("impossible", harness.answer, (peers.Ours, kit, "fp99"), 300),
        harness.Apart("slow", harness.answer, (peers.Ours, kit, "fp32"), 0.01),
        harness.Apart("missing", harness.answer, (missing, kit), 300, "a-package"),
        harness.Apart("dying", harness.answer, (dying, kit), 300),
    ]
    page = sheet.Sheet("encode", ("torch",), {"sentences": len(sentences)}, tmp_path / "results")
    done, notes, peak = encode.race(page, contestants, parts, lambda: {"fp32": 1e9})
    encode.report(page, done, notes, peak, encode.work(str(tiny_bert), parts))
    page.keep()

    assert list(done) == ["ours"]
    assert np.concatenate([vectors for _, vectors in done["ours"]]).shape == (len(sentences), 32)
    out = page.found["out"]
    assert out["slow"] == "cut off: needs more than 0.01 s; --limit sets how many it has"
    assert out["impossible"].startswith("left out: dtype 'fp99' is not one of")
    assert out["missing"] == "skipped: not_a_module_at_all is not installed; pip install a-package"
    assert out["dying"] == "left out: its process died, exit code 3"
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0].strip() for line in lines[2:8]] == [
        "ours", "impossible", "slow", "missing", "dying", "ours",
    ]  # fmt: skip
    assert lines[8].startswith("  ours: ")
    assert lines[8].endswith(" sentences/s (part 2 of 2)")

    (file,) = (tmp_path / "results").glob("*/encode.json")
    kept = json.loads(file.read_text())
    (row,) = kept["rows"]
    assert (row["name"], row["note"], row["x ours"]) == ("ours", "torch", 1)
    assert row["least cosine"] == pytest.approx(1, abs=1e-5)
    assert row["sentences/s"] > 0
    assert kept["machine"]["cores"] >= 1
    assert kept["versions"].keys() == {"Python", "torch"}


def missing(kit: object) -> None:
    import not_a_module_at_all  # noqa: F401


def dying(kit: object) -> None:
    import os

    os._exit(3)


@pytest.mark.parametrize(
    ("package", "load", "form", "least"),
    [
        ("sentence_transformers", "sentence_transformer", ("fp32",), 0.9999),
        ("onnxruntime", "onnx_runtime", ("fp32",), 0.9999),
        ("onnxruntime", "onnx_runtime", ("dynamic",), 0.8),
        ("onnxruntime", "onnx_runtime", ("static",), 0.8),
        ("openvino", "openvino", ("fp32",), 0.9999),
        ("nncf", "openvino", ("int8",), 0.8),
        ("ctranslate2", "ctranslate2", ("float32",), 0.9999),
        ("ctranslate2", "ctranslate2", ("int8",), 0.8),
        ("fastembed", "fastembed", (), 0.9999),
    ],
)
def test_peers_give_the_same_vectors(
    script: Script,
    tiny_bert: Path,
    sentences: list[str],
    tmp_path: Path,
    package: str,
    load: str,
    form: tuple[str, ...],
    least: float,
) -> None:
    """Of a model with mean pooling, each in a process of its own, as they run in the benchmark."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    from simcse import SentenceEncoder

    folder = tmp_path / "mean"
    SentenceEncoder.from_pretrained(tiny_bert, pooling="mean", device="cpu", dtype="fp32").save_pretrained(folder)
    peers, harness = script("peers"), script("harness")
    kit = peers.Kit(str(folder), str(folder), tmp_path, tuple(sentences))
    ours = peers.Ours(kit, "fp32")(sentences)
    peer = harness.Apart(load, harness.answer, (getattr(peers, load), kit, *form), 300)
    try:
        theirs = peer.ask(sentences)[0]
    finally:
        peer.close()
    assert theirs.shape == ours.shape
    assert (ours * theirs).sum(1).min() > least
