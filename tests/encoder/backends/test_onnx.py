"""A graph in place of the backbone: its vectors, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_hub import serving_hub
from kinds import build

from simcse import ConfigError, ModelError, SearchIndex, SentenceEncoder
from simcse.encoder.export.onnx import export_onnx

pytest.importorskip("onnxruntime")


def load(folder: str | Path, backend: str = "onnx", **options: str) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(folder, device="cpu", backend=backend, **options)


def exported(folder: Path, output: Path, pooling: str = "mean") -> Path:
    encoder = SentenceEncoder.from_pretrained(folder, pooling=pooling, device="cpu", dtype="fp32")
    encoder.prompts, encoder.include_prompt = {"query": "two people: "}, False
    export_onnx(encoder, encoder.save_pretrained(output))
    return output


@pytest.fixture(scope="module")
def graph(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with its graph."""
    return exported(tiny_bert, tmp_path_factory.mktemp("graph") / "exported")


@pytest.mark.parametrize("kind", ["convbert", "qwen2", "modernbert", "t5"])
def test_any_architecture(kind: str, tmp_path: Path, sentences: list[str]) -> None:
    """Its padding leaks, it is a decoder, or its tokens see their neighbours alone."""
    build(tmp_path / "plain", kind)
    folder = exported(tmp_path / "plain", tmp_path / "exported", "top2_mean")
    texts = [*sentences[:20], "", "a", "the man " * 20]
    expected = load(folder, "huggingface", dtype="fp32")
    encoder = load(folder)
    np.testing.assert_allclose(encoder.encode(texts), expected.encode(texts), atol=1e-5)
    queries = encoder.encode_query(texts[:3]), expected.encode_query(texts[:3])
    np.testing.assert_allclose(*queries, atol=1e-5)
    assert not np.allclose(queries[0], encoder.encode(texts[:3]), atol=1e-3)
    assert encoder.fingerprint == expected.fingerprint


def test_an_index_of_the_same_weights(graph: Path, tmp_path: Path, sentences: list[str]) -> None:
    SearchIndex.build(sentences, load(graph, "torch", dtype="fp32")).save(tmp_path / "index")
    [[hit]] = SearchIndex.load(tmp_path / "index", load(graph)).search([sentences[5]], top_k=1)
    assert hit.text == sentences[5]


def test_a_folder_without_a_graph(tiny_bert: Path) -> None:
    with pytest.raises(ConfigError, match=r"onnx/model\.onnx is not there; write it by simcse export .* --format onnx"):
        load(tiny_bert)


def test_another_precision(graph: Path) -> None:
    with pytest.raises(ConfigError, match=r"backend is onnx, but it computes in float32 .*, not in bfloat16 on cpu"):
        load(graph, dtype="bf16")


def test_another_pooling(graph: Path) -> None:
    assert load(graph, pooling="cls").encode("a").shape == (32,)
    with pytest.raises(ConfigError, match=r"does not give hidden_state_1, which this pooling reads"):
        load(graph, pooling="first_last_mean").encode("a")


def test_weights_that_were_trained_since(graph: Path) -> None:
    encoder = load(graph)
    encoder.encode("a")
    with torch.no_grad():
        encoder.backbone.encoder.layer[0].output.dense.bias.add_(0.1)
    with pytest.raises(ConfigError, match="was not exported from the weights as they are now"):
        encoder.encode("a")


def test_a_damaged_graph(graph: Path, tmp_path: Path) -> None:
    """A flipped bit; half of the file, with the line of its digest deleted; no other backend minds."""
    folder = Path(shutil.copytree(graph, tmp_path / "broken"))
    file, settings = folder / "onnx/model.onnx", folder / "simcse.json"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.onnx: not the file that was saved"):
        load(folder)
    load(folder, "torch", dtype="fp32")
    file.write_bytes(content[: len(content) // 2])
    said = json.loads(settings.read_text())
    del said["sha256"]["onnx/model.onnx"]
    settings.write_text(json.dumps(said))
    with pytest.raises(ModelError, match=r"model\.onnx: cannot be loaded") as caught:
        load(folder).encode("a")
    assert "\n" not in str(caught.value)


def test_a_graph_on_the_hub(graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is fetched for who asks for it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with serving_hub() as hub:
        hub.lead(monkeypatch)
        for file in (path for path in graph.rglob("*") if path.is_file()):
            hub.files[f"me/mine/{file.relative_to(graph).as_posix()}"] = file.read_bytes()
        plain = load("me/mine", "torch", dtype="fp32")
        assert not list((tmp_path / "cache").rglob("model.onnx"))
        np.testing.assert_allclose(load("me/mine").encode("a cat"), plain.encode("a cat"), atol=1e-6)
