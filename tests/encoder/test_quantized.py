"""8-bit products: near the exact vectors, the same in any company, and never of old weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from simcse import ConfigError, SentenceEncoder
from simcse.encoder.quantized import FeedForward8, Linear8, Range


def test_a_product_is_that_of_the_rounded_numbers() -> None:
    """Integers times integers are exact, so only the weights' rounding is between this and float32."""
    torch.manual_seed(0)
    whole, weight, bias = torch.randint(0, 255, (40, 32), dtype=torch.uint8), torch.randn(48, 32), torch.randn(48)
    other, zero, scale = torch.randn(40, 48), 7, 0.03
    scales = weight.abs().amax(1, keepdim=True) / 127
    expected = F.linear((whole.float() - zero) * scale, (weight / scales).round() * scales, bias) + other
    linear = Linear8(weight, bias, scale, zero, 40)
    torch.testing.assert_close(linear.plus(whole, other), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_feed_forward_half_with_an_outlying_channel(dtype: torch.dtype) -> None:
    """One channel 30 times the others: without smoothing the others would have four steps each way."""
    torch.manual_seed(0)
    up, down = torch.nn.Linear(64, 256), torch.nn.Linear(256, 64)
    x = torch.randn(100, 64)
    x[:, 3] *= 30
    with torch.no_grad():
        inner = F.gelu(up(x))
        exact = down(inner)
        half = FeedForward8(up.to(dtype), down.to(dtype), Range(x.abs().amax(0), float(inner.max())), 100)
        got = half(x.to(dtype)).float() - x.to(dtype).float()
    # bf16 rounds the sum with x, whose outlier reaches 90: steps of up to 0.5
    keep = torch.arange(64) != 3
    assert ((got - exact)[:, keep].norm() / exact[:, keep].norm()) < (0.03 if dtype == torch.float32 else 0.06)


def test_near_the_exact_vectors(minilm: Path, sentences: list[str]) -> None:
    exact = SentenceEncoder.from_pretrained(minilm, device="cpu", dtype="fp32").encode(sentences)
    encoder = SentenceEncoder.from_pretrained(minilm, device="cpu", dtype="int8")
    cosines = (exact * encoder.encode(sentences)).sum(axis=1)
    assert 0.98 < cosines.min() < 0.99999


def test_the_same_vector_in_any_company(tiny_bert: Path, sentences: list[str]) -> None:
    encoder = SentenceEncoder.from_pretrained(tiny_bert, pooling="mean", device="cpu", dtype="int8")
    together = encoder.encode(sentences * 20)
    alone = np.stack([encoder.encode(text) for text in sentences[:8]])
    np.testing.assert_allclose(together[:8], alone, atol=0.02)  # bf16 attention, whose order of sums varies


def test_weights_changed_are_seen(tiny_roberta: Path, sentences: list[str]) -> None:
    encoder = SentenceEncoder.from_pretrained(tiny_roberta, pooling="mean", device="cpu", dtype="int8")
    before = encoder.encode(sentences)
    with torch.no_grad():
        encoder.backbone.encoder.layer[0].output.dense.weight *= -30
    assert np.abs(encoder.encode(sentences) - before).max() > 1e-2


def test_only_where_it_exists(tiny_bert: Path, tmp_path: Path) -> None:
    from transformers import DistilBertConfig, DistilBertModel

    DistilBertModel(DistilBertConfig(dim=32, n_layers=1, n_heads=2, hidden_dim=64, vocab_size=200)).save_pretrained(
        tmp_path
    )
    for file in tiny_bert.glob("token*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ConfigError, match="dtype is int8: for BERT and RoBERTa encoders on the CPU only"):
        SentenceEncoder.from_pretrained(tmp_path, device="cpu", dtype="int8")
