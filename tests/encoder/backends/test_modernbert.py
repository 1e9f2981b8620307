"""ModernBERT without padding against Hugging Face's own forward pass."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn
from transformers import ModernBertConfig, ModernBertModel

from simcse import ConfigError
from simcse.encoder.backends.huggingface import huggingface_states
from simcse.encoder.backends.modernbert import ModernBertBackend, ModernBertWeights, why_not_modernbert
from simcse.encoder.backends.select import choose_backend, prepared_backend
from simcse.encoder.pooling import POOLINGS, pool
from simcse.tokens.batch import TokenBatch

WORDS = 300


def build(**options: Any) -> ModernBertModel:
    """A small one, four layers of which two see all; weights far enough from 0 that each token matters."""
    config = ModernBertConfig(
        vocab_size=WORDS, hidden_size=64, num_hidden_layers=4, num_attention_heads=2, intermediate_size=96,
        max_position_embeddings=512, local_attention=16, global_attn_every_n_layers=3, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, cls_token_id=1, sep_token_id=2, **options,
    )  # fmt: skip
    torch.manual_seed(0)
    backbone = ModernBertModel(config).eval()
    with torch.no_grad():
        for weight in backbone.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return backbone


def batch_of(lengths: Sequence[int]) -> TokenBatch:
    rng = random.Random(0)
    return TokenBatch.from_lists([[rng.randrange(WORDS) for _ in range(length)] for length in lengths])


@pytest.mark.parametrize("cls_only", [False, True])
@pytest.mark.parametrize("layers", [(-1,), (0, 1, 2, 3, 4), (-2, -1)])
@pytest.mark.parametrize("biases", [False, True])
def test_packed_is_its_own_forward(biases: bool, layers: tuple[int, ...], cls_only: bool) -> None:
    """Within the window, beyond it, and beyond where attention goes by blocks."""
    backbone = build(attention_bias=biases, mlp_bias=biases, norm_bias=biases)
    weights = ModernBertWeights.from_hf(backbone)
    assert weights is not None
    packed = ModernBertBackend(weights)
    with torch.no_grad():
        for lengths in ([7], [3, 3, 3], [12, 12, 5, 5, 31, 1], [60, 2, 128, 129], [300, 17]):
            batch = batch_of(lengths)
            expected = huggingface_states(backbone, batch, layers, cls_only=cls_only)
            torch.testing.assert_close(packed(batch, layers, cls_only=cls_only), expected, atol=5e-5, rtol=1e-4)


def test_scores_out_of_range_take_the_stable_softmax() -> None:
    backbone = build()
    with torch.no_grad():
        for layer in backbone.layers:
            layer.attn.Wqkv.weight[:128] *= 20
        batch = batch_of([9, 40, 4])
        expected = huggingface_states(backbone, batch, (1,))
        got = prepared_backend(backbone, "torch", lambda: batch)(batch, (1,))
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-3)


def test_bf16_is_near() -> None:
    backbone, batch = build(), batch_of([9, 4, 4, 33, 140, 1])
    with torch.no_grad():
        [expected] = huggingface_states(backbone, batch, (-1,))
        [got] = prepared_backend(backbone.to(torch.bfloat16), "auto", lambda: batch)(batch, (-1,))
    assert torch.cosine_similarity(got.float(), expected, dim=-1).min() > 0.998


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_text_alone_is_as_in_a_batch(pooling: str) -> None:
    backbone, batch = build(), batch_of([9, 4, 4, 33, 1, 150])
    assert choose_backend(backbone) == "torch"
    backend = prepared_backend(backbone, "auto", lambda: batch)
    together = pool(pooling, backend, batch)
    rows = [TokenBatch(ids, (len(ids),)) for ids in batch.ids.split(batch.lengths)]
    alone = torch.cat([pool(pooling, backend, row) for row in rows])
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("activation", "the activation of this modernbert is relu, not gelu"),
        ("rope", "the rotary positions of this modernbert are scaled"),
        ("hook", "this modernbert has a hook on layers.0"),
        ("adapter", "this modernbert has a Sequential in place of a Linear with a weight"),
        ("names", "this modernbert is not as transformers builds it ('ModernBertEncoderLayer' object has no"),
    ],
)
def test_why_not(change: str, reason: str) -> None:
    backbone: Any = build()
    layer = backbone.layers[0]
    if change == "activation":
        backbone.config.hidden_activation = "relu"
    elif change == "rope":
        backbone.config.rope_parameters["full_attention"]["rope_type"] = "linear"
    elif change == "hook":
        layer.register_forward_hook(lambda module, inputs, output: output)
    elif change == "adapter":
        layer.attn.Wo = nn.Sequential(layer.attn.Wo, nn.Identity())
    else:
        del layer.mlp
    assert choose_backend(backbone) == "huggingface"
    assert str(why_not_modernbert(backbone)).startswith(reason)
    with pytest.raises(ConfigError) as error:
        choose_backend(backbone, "torch")
    assert str(error.value).startswith(f"backend is torch, but {reason}")


@pytest.mark.parametrize("backend", ["native", "int8"])
def test_other_backends_have_no_pass_for_it(backend: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"^backend is {backend}, but it has no pass for modernbert, only for bert, "
    ):
        choose_backend(build(), backend)
