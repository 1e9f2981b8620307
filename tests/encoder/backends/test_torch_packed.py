"""The forward pass written out here against Hugging Face's own, and never a stale weight."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from simcse import SentenceEncoder
from simcse.encoder.backends import torch_packed
from simcse.encoder.backends.bert_weights import BertWeights
from simcse.encoder.backends.huggingface import huggingface_states
from simcse.encoder.backends.packed_attention import PackedAttention
from simcse.encoder.backends.torch_packed import TorchPackedBackend, rounded_up
from simcse.encoder.pooling import POOLINGS
from simcse.tokens.batch import TokenBatch

LAYERS = ((-1,), (0, 1, -1), (-2, -1))


def load(folder: Path, dtype: str = "fp32", pooling: str = "mean") -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(folder, pooling=pooling, device="cpu", dtype=dtype)


def batch_of(lengths: list[int], vocabulary: int, *, lowest: int = 5) -> TokenBatch:
    rng = random.Random(0)
    return TokenBatch.from_lists([[rng.randrange(lowest, vocabulary) for _ in range(length)] for length in lengths])


def packed(backbone: nn.Module) -> TorchPackedBackend:
    weights = BertWeights.from_hf(backbone)
    assert weights is not None
    return TorchPackedBackend(weights)


@pytest.fixture(params=["torch", "oneDNN"])
def products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whose matrix products: each is right on any CPU, whichever is the faster there."""
    by_onednn = request.param == "oneDNN"
    monkeypatch.setattr(torch_packed, "onednn_is_faster", lambda dtype: by_onednn and dtype == torch.float32)
    return str(request.param)


@pytest.mark.parametrize("cls_only", [False, True])
@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("fixture", ["tiny_bert", "tiny_roberta"])
def test_equal_to_the_backbones_own_in_fp32(
    fixture: str, layers: tuple[int, ...], cls_only: bool, products: str, request: pytest.FixtureRequest
) -> None:
    backbone = load(request.getfixturevalue(fixture)).backbone
    for lengths in ([7], [3, 3, 3], [12, 12, 5, 5, 5, 31, 1], [60, 2]):
        batch = batch_of(lengths, backbone.config.vocab_size, lowest=0)  # 0 is padding: RoBERTa counts it not
        with torch.no_grad():
            expected = huggingface_states(backbone, batch, layers, cls_only=cls_only)
            got = packed(backbone)(batch, layers, cls_only=cls_only)
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_padding_tokens_inside_a_text(tiny_bert: Path) -> None:
    backbone = load(tiny_bert).backbone
    batch = TokenBatch.from_lists([[2, 9, 0, 0, 11, 3], [2, 0, 3]])
    with torch.no_grad():
        expected = huggingface_states(backbone, batch, (-1,))
        torch.testing.assert_close(packed(backbone)(batch, (-1,)), expected, atol=1e-5, rtol=1e-5)


def test_minilm_in_bf16_is_close_for_each_sentence(minilm: Path, sentences: list[str]) -> None:
    exact = load(minilm).encode(sentences)
    fast = load(minilm).to(torch.bfloat16).encode(sentences)  # where bf16 is slow, it is refused by name
    assert (exact * fast).sum(axis=1).min() >= 0.9998


def test_minilm_in_fp32_is_its_own_forward(minilm: Path, products: str) -> None:
    backbone = load(minilm).backbone
    batch = batch_of([150, 129, 128, 40, 40, 29, 3, 3, 3], backbone.config.vocab_size, lowest=1000)
    with torch.no_grad():
        expected = huggingface_states(backbone, batch, (-1,))
        torch.testing.assert_close(packed(backbone)(batch, (-1,)), expected, atol=2e-5, rtol=1e-4)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_order_neighbours_and_batch_size_change_nothing(
    tiny_bert: Path, sentences: list[str], data: st.DataObject
) -> None:
    encoder = load(tiny_bert, pooling=data.draw(st.sampled_from(sorted(POOLINGS))))
    rows = data.draw(st.lists(st.integers(0, len(sentences) - 1), min_size=1, max_size=40))
    size = data.draw(st.none() | st.integers(1, 9))
    together = encoder.encode([sentences[row] for row in rows], batch_size=size, normalize=False)
    place = data.draw(st.integers(0, len(rows) - 1))
    np.testing.assert_allclose(together[place], encoder.encode(sentences[rows[place]], normalize=False), atol=1e-5)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_scores_beyond_the_range_of_exp_take_the_stable_softmax(tiny_bert: Path, dtype: str) -> None:
    """Queries 3,000 times as long give scores of hundreds: exp overflows in one row, vanishes in another."""
    encoder = load(tiny_bert, dtype)
    with torch.no_grad():
        for layer in encoder.backbone.encoder.layer:
            layer.attention.self.query.weight *= 3000
    batch = batch_of([9, 9, 4], encoder.backbone.config.vocab_size)
    with torch.no_grad():
        expected = huggingface_states(encoder.backbone, batch, (-1,))[0].float()
        got = packed(encoder.backbone)(batch, (-1,))[0].float()
    assert torch.isfinite(got).all()
    if dtype == "fp32":  # such scores are steps: rounding to bf16 tips them
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_denominators_out_of_range_are_noticed() -> None:
    query = torch.zeros(4, 8)
    for size, sound in ((0.0, True), (200.0, False), (-200.0, False)):
        attend = PackedAttention((2, 2), 2, query)
        attend(torch.cat([torch.full_like(query, size), torch.ones(4, 16)], dim=1), torch.empty(4, 8))
        assert attend.denominators_finite() is sound


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_weights_prepared_in_any_dtype(tiny_bert: Path, dtype: torch.dtype) -> None:
    """oneDNN packs some types only, and bf16 on some CPUs only."""
    exact = load(tiny_bert).backbone
    batch = TokenBatch.from_lists([[2, *range(50, 70), 3]] * 20)
    expected = packed(exact)(batch, (-1,))[0]
    torch.testing.assert_close(packed(exact.to(dtype))(batch, (-1,))[0].float(), expected, atol=0.05, rtol=0.05)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 100_000))
def test_rows_come_in_few_numbers(tokens: int) -> None:
    rows = rounded_up(tokens)
    assert tokens <= rows <= max(tokens * 1.25, tokens + 15)
    assert rows % 16 == 0


def test_few_numbers_of_rows_up_to_a_batch() -> None:
    assert len({rounded_up(tokens) for tokens in range(1, 2049)}) <= 40
