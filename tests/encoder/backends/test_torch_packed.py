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
from transformers import DistilBertConfig, DistilBertModel, ElectraConfig, ElectraModel, MPNetConfig, MPNetModel

from simcse import SentenceEncoder
from simcse.encoder.backbone import own_states, token_states
from simcse.encoder.backends.packed_attention import PackedAttention
from simcse.encoder.backends.torch_packed import PackedForward, pack, rounded_up
from simcse.encoder.pooling import POOLINGS
from simcse.tokens.batch import TokenBatch

LAYERS = ((-1,), (0, 1, -1), (-2, -1))


def load(folder: Path, dtype: str = "fp32", pooling: str = "mean") -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(folder, pooling=pooling, device="cpu", dtype=dtype)


def batch_of(lengths: list[int], vocabulary: int, *, lowest: int = 5) -> TokenBatch:
    rng = random.Random(0)
    return TokenBatch.from_lists([[rng.randrange(lowest, vocabulary) for _ in range(length)] for length in lengths])


def forwards(backbone: nn.Module) -> list[PackedForward]:
    found = [pack(backbone), pack(backbone, prepack=64)]
    assert all(forward is not None for forward in found)
    return [forward for forward in found if forward is not None]


@pytest.mark.parametrize("cls_only", [False, True])
@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("fixture", ["tiny_bert", "tiny_roberta"])
def test_equal_to_the_backbones_own_in_fp32(
    fixture: str, layers: tuple[int, ...], cls_only: bool, request: pytest.FixtureRequest
) -> None:
    backbone = load(request.getfixturevalue(fixture)).backbone
    for lengths in ([7], [3, 3, 3], [12, 12, 5, 5, 5, 31, 1], [60, 2]):
        batch = batch_of(lengths, backbone.config.vocab_size, lowest=0)  # 0 is padding: RoBERTa counts it not
        with torch.no_grad():
            expected = own_states(backbone, batch, layers, cls_only=cls_only)
            for compute in (*forwards(backbone), lambda *a, **k: token_states(backbone, *a, **k)):
                got = compute(batch, layers, cls_only=cls_only)
                torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_padding_tokens_inside_a_text(tiny_bert: Path) -> None:
    backbone = load(tiny_bert).backbone
    batch = TokenBatch.from_lists([[2, 9, 0, 0, 11, 3], [2, 0, 3]])
    with torch.no_grad():
        expected = own_states(backbone, batch, (-1,))
        torch.testing.assert_close(forwards(backbone)[0](batch, (-1,)), expected, atol=1e-5, rtol=1e-5)


def test_minilm_in_bf16_is_close_for_each_sentence(minilm: Path, sentences: list[str]) -> None:
    exact = load(minilm).encode(sentences)
    fast = load(minilm, "bf16").encode(sentences)
    assert (exact * fast).sum(axis=1).min() >= 0.9998


def test_minilm_in_fp32_is_its_own_forward(minilm: Path) -> None:
    backbone = load(minilm).backbone
    batch = batch_of([150, 129, 128, 40, 40, 29, 3, 3, 3], backbone.config.vocab_size, lowest=1000)
    with torch.no_grad():
        expected = own_states(backbone, batch, (-1,))
        for forward in forwards(backbone):
            torch.testing.assert_close(forward(batch, (-1,)), expected, atol=2e-5, rtol=1e-4)


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
def test_scores_beyond_the_range_of_exp_take_the_careful_way(tiny_bert: Path, dtype: str) -> None:
    """Queries 3,000 times as long give scores of hundreds: exp overflows in one row, vanishes in another."""
    encoder = load(tiny_bert, dtype)
    with torch.no_grad():
        for layer in encoder.backbone.encoder.layer:
            layer.attention.self.query.weight *= 3000
    batch = batch_of([9, 9, 4], encoder.backbone.config.vocab_size)
    with torch.no_grad():
        expected = own_states(encoder.backbone, batch, (-1,))[0].float()
        got = token_states(encoder.backbone, batch, (-1,))[0].float()
    assert torch.isfinite(got).all()
    if dtype == "fp32":  # such scores are steps: rounding to bf16 tips them
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_sums_out_of_range_are_noticed() -> None:
    query = torch.zeros(4, 8)
    for size, sound in ((0.0, True), (200.0, False), (-200.0, False)):
        attend = PackedAttention((2, 2), 2, query)
        attend(torch.cat([torch.full_like(query, size), torch.ones(4, 16)], dim=1), torch.empty(4, 8))
        assert attend.sums_in_range() is sound


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_weights_laid_out_in_any_dtype(tiny_bert: Path, dtype: torch.dtype) -> None:
    """oneDNN lays some types out only, and bf16 on some CPUs only."""
    backbone = load(tiny_bert).backbone.to(dtype)
    batch = TokenBatch.from_lists([[2, *range(50, 70), 3]] * 20)
    free, laid_out = (pack(backbone, prepack=rows) for rows in (None, 440))
    assert free is not None
    assert laid_out is not None
    torch.testing.assert_close(laid_out(batch, (-1,))[0], free(batch, (-1,))[0], atol=0.05, rtol=0.05)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_held_weights_give_the_same_vectors(tiny_bert: Path, sentences: list[str], dtype: str) -> None:
    encoder = load(tiny_bert, dtype)
    for texts in (sentences[:1], sentences * 40):
        expected = encoder.encode(texts)
        np.testing.assert_allclose(encoder.hold().encode(texts), expected, atol=1e-5 if dtype == "fp32" else 2e-2)
        encoder.held = None


def test_held_weights_are_let_go_before_they_change(tiny_bert: Path, sentences: list[str]) -> None:
    encoder = load(tiny_bert).hold()
    assert encoder.held is not None
    first = encoder.encode(sentences)
    assert encoder.held is not None  # encoding itself keeps them
    encoder.train()
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    encoder.eval()
    assert np.abs(encoder.encode(sentences) - first).max() > 1e-3
    encoder.hold().to(torch.float64)
    assert encoder.held is None


def test_weights_changed_after_encoding_are_seen(tiny_bert: Path, sentences: list[str]) -> None:
    """By an optimizer, through `.data`, by loading a state, by a change of dtype: each way of changing weights."""
    encoder, many = load(tiny_bert), sentences * 40  # enough for weights to be laid out anew
    first = encoder.encode(many)
    state = {key: value.clone() for key, value in encoder.state_dict().items()}

    def unlike(before: np.ndarray) -> np.ndarray:
        now = encoder.encode(many)
        assert np.abs(now - before).max() > 1e-3
        alone = np.stack([encoder.encode(text) for text in sentences[:4]])
        np.testing.assert_allclose(alone, now[:4], atol=1e-5)
        return now

    encoder.train()
    encoder(TokenBatch.from_lists(encoder.tokenize()(sentences)[0])).pow(3).sum().backward()
    torch.optim.SGD(encoder.parameters(), lr=1e-3).step()  # a larger one drowns the changes below
    encoder.eval()
    now = unlike(first)
    encoder.backbone.encoder.layer[0].output.dense.weight.data.mul_(-3)
    now = unlike(now)
    encoder.backbone.encoder.layer[1].attention.self.value.weight.data = torch.randn(32, 32)
    unlike(now)
    encoder.load_state_dict(state)
    np.testing.assert_allclose(encoder.encode(many), first, atol=1e-6)
    half = encoder.to(torch.bfloat16).encode(many)
    assert 0 < np.abs(half - first).max() < 0.05


@pytest.mark.parametrize("kind", ["distilbert", "electra", "mpnet"])
def test_other_architectures_take_their_own_forward(kind: str, tiny_bert: Path, sentences: list[str]) -> None:
    shape = {"vocab_size": 200, "max_position_embeddings": 64}
    bert = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    backbone = {
        "distilbert": lambda: DistilBertModel(DistilBertConfig(dim=32, n_layers=2, n_heads=4, hidden_dim=64, **shape)),
        "electra": lambda: ElectraModel(ElectraConfig(embedding_size=32, **bert, **shape)),
        "mpnet": lambda: MPNetModel(MPNetConfig(**bert, **shape)),
    }[kind]()
    backbone.eval()
    assert pack(backbone) is None
    for pooling in POOLINGS:
        encoder = SentenceEncoder(backbone, load(tiny_bert).tokenizer, pooling=pooling, max_length=60).eval()
        together = encoder.encode(sentences[:20])
        alone = np.stack([encoder.encode(text) for text in sentences[:20]])
        np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("change", ["activation", "hook", "adapter"])
def test_an_altered_backbone_takes_its_own_forward(tiny_bert: Path, change: str) -> None:
    backbone = load(tiny_bert).backbone
    layer = backbone.encoder.layer[0]
    if change == "activation":
        backbone.config.hidden_act = "relu"
    elif change == "hook":
        layer.register_forward_hook(lambda module, inputs, output: output)
    else:
        layer.output.dense = nn.Sequential(layer.output.dense, nn.Identity())
    assert pack(backbone) is None


def test_gradients_are_not_lost_in_evaluation_mode(tiny_bert: Path) -> None:
    encoder = load(tiny_bert)
    encoder(batch_of([5, 4], encoder.backbone.config.vocab_size)).sum().backward()
    grad = encoder.backbone.encoder.layer[0].output.dense.weight.grad
    assert grad is not None
    assert grad.abs().sum() > 0


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 100_000))
def test_rows_come_in_few_numbers(tokens: int) -> None:
    rows = rounded_up(tokens)
    assert tokens <= rows <= max(tokens * 1.25, tokens + 15)
    assert rows % 16 == 0


def test_few_numbers_of_rows_up_to_a_batch() -> None:
    assert len({rounded_up(tokens) for tokens in range(1, 2049)}) <= 40
