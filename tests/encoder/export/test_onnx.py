"""The graph gives the encoder's vectors, or the export stops with a line; test_loading_page runs each format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from kinds import build

from simcse import ModelError, SentenceEncoder
from simcse.cli import main
from simcse.encoder.export.onnx import PADDED, export_onnx, least_cosine, run_by_onnxruntime
from simcse.encoder.pooling import POOLINGS
from simcse.encoder.projection import Projection


def load(folder: Path, **options: str) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(folder, device="cpu", dtype="fp32", **options)


def test_minilm(minilm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Words of the readme, 1 to 400 of them, in one batch."""
    assert main(["export", str(minilm), "--format", "onnx", "--output", str(tmp_path / "out")]) == 0
    assert "onnx: cosine with the encoder's own vectors at least 0.9999" in capsys.readouterr().err.replace(
        "1.0", "0.9999"
    )
    words = (Path(__file__).parents[3] / "README.md").read_text().split()
    texts = [" ".join(words[start : start + length]) for start, length in enumerate((1, 2, 5, 9, 20, 50, 150, 400))]
    encoder = load(minilm)
    tokens = encoder.tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="np")
    session = onnxruntime.InferenceSession(tmp_path / "out/onnx/model.onnx")
    [vectors] = session.run(["sentence_embedding"], dict(tokens))
    assert (vectors * encoder.encode(texts)).sum(1).min() >= 0.9999
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_inputs_and_outputs(tiny_bert: Path, tmp_path: Path) -> None:
    encoder = load(tiny_bert, pooling="first_last_mean")
    encoder.projection, encoder.truncate_dim, encoder.include_prompt = Projection(32, 16), 10, False
    export_onnx(encoder, encoder.save_pretrained(tmp_path / "out"))
    session = onnxruntime.InferenceSession(tmp_path / "out/onnx/model.onnx")
    assert {given.name: given.shape for given in session.get_inputs()} == {
        "input_ids": ["batch", "sequence"],
        "attention_mask": ["batch", "sequence"],
        "token_type_ids": ["batch", "sequence"],
        "prompt_length": [],
    }
    assert {given.name: given.shape for given in session.get_outputs()} == {
        "hidden_state_1": ["batch", "sequence", 32],
        "last_hidden_state": ["batch", "sequence", 32],
        "sentence_embedding": ["batch", 10],
    }


def test_an_architecture_without_a_counterpart(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    build(tmp_path / "plain", "fnet")
    capfd.readouterr()
    assert main(["export", str(tmp_path / "plain"), "--format", "onnx", "--output", str(tmp_path / "out")]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    last = err.strip().splitlines()[-1]
    assert "a fnet cannot be written as an ONNX graph (" in last
    assert "fft" in last
    assert last.endswith("take --format safetensors")
    assert {path.name for path in tmp_path.iterdir()} == {"plain"}


def test_other_vectors_are_refused(tiny_bert: Path, tmp_path: Path) -> None:
    encoder = load(tiny_bert, pooling="mean")
    export_onnx(encoder, encoder.save_pretrained(tmp_path / "out"))
    file = tmp_path / "out/onnx/model.onnx"
    with torch.no_grad():
        encoder.backbone.embeddings.word_embeddings.weight.add_(torch.randn(32))
    with pytest.raises(ModelError, match=r"model.onnx gives other vectors .* a cosine of .*, expected at least 0.9999"):
        least_cosine(encoder, run_by_onnxruntime(file), file)


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_precisions(tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    command = ["export", str(tiny_bert), "--format", kind, "--output", str(tmp_path / "out")]
    assert main([*command, "--dtype", "bf16"]) == 2
    assert capsys.readouterr().err == f"error: --dtype bf16: --format {kind} is written in fp32; leave --dtype out\n"
    assert not (tmp_path / "out").exists()


def test_each_pooling_has_its_padded_form() -> None:
    assert {pooling.reduce for pooling in POOLINGS.values()} == PADDED.keys()
