"""Biases by distance against Hugging Face's matrices of them."""

from __future__ import annotations

import pytest
import torch
from transformers import MPNetConfig, MPNetModel

from simcse.encoder.backends.relative_bias import bias_by_distance, bias_matrix


@pytest.mark.parametrize("length", [1, 2, 17, 129, 600])
def test_mpnets_buckets(length: int) -> None:
    torch.manual_seed(0)
    encoder = MPNetModel(MPNetConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=4, vocab_size=9)).encoder
    with torch.no_grad():
        encoder.relative_attention_bias.weight.normal_()
        expected = encoder.compute_position_bias(torch.empty(1, length, 8))[0]
        bias = bias_by_distance(encoder.relative_attention_bias, 600)
    assert torch.equal(bias_matrix(bias, length, length), expected)
    assert torch.equal(bias_matrix(bias, 1, length), expected[:, :1])
