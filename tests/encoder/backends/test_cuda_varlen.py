"""The pass for CUDA, run on the CPU: torch's fused attention has no kernel there, so a plain one stands in its place.

It is registered with torch's dispatcher under the operation's own name, forward and backward, so that all else is what
runs on a device: the signature, the derivative, the random state. What only a device can tell is in test_gpu.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch._dynamo
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from transformers import BertConfig, BertModel

from simcse import ConfigError, SentenceEncoder
from simcse.encoder.backends import cuda_varlen, select
from simcse.encoder.backends.bert_weights import BertWeights
from simcse.encoder.backends.cuda_varlen import CudaVarlenBackend, layer_forward, packed_layout, varlen_states
from simcse.encoder.backends.huggingface import huggingface_states
from simcse.tokens.batch import TokenBatch
from simcse.training.large_batch import random_states, restore


def pieces(
    query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, rate: float, state: Tensor
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor, Tensor, Tensor]]:
    """Of each sequence: rows, queries, keys and values (H, L, d), attention weights, and what dropout multiplies."""
    generator = torch.Generator().manual_seed(int(state[0]))
    for first, last in pairwise(bounds.tolist()):
        q, k, v = (x[first:last].transpose(0, 1).float() for x in (query, key, value))
        weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
        keep = (torch.rand(weights.shape, generator=generator) >= rate) / (1 - rate)
        yield slice(first, last), q, k, v, weights, keep


def forward(
    query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, key_bounds: Tensor, max_q: int, max_k: int, rate: float,
    is_causal: bool, return_debug_mask: bool, **options: object,
) -> tuple[Tensor, ...]:  # fmt: skip
    assert not is_causal
    assert bounds.dtype == torch.int32
    assert torch.equal(bounds, key_bounds)
    assert 0 <= int(bounds.diff().min()) <= int(bounds.diff().max()) <= min(max_q, max_k)
    assert int(bounds[-1]) == len(query)
    state = torch.randint(1 << 30, (2,)) if rate else torch.zeros(2, dtype=torch.int64)  # as philox's on a device
    out = torch.empty(query.shape, dtype=query.dtype)
    for rows, _, _, v, weights, keep in pieces(query, key, value, bounds, rate, state):
        out[rows] = (weights * keep @ v).transpose(0, 1).to(out.dtype)
    return out, query.new_zeros(query.shape[1], len(query)), state, query.new_empty(()), query.new_empty(0)


def backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, sums: Tensor, bounds: Tensor,
    key_bounds: Tensor, max_q: int, max_k: int, rate: float, is_causal: bool, state: Tensor, unused: Tensor,
    **options: object,
) -> tuple[Tensor, ...]:  # fmt: skip
    grads = [torch.empty(x.shape, dtype=x.dtype) for x in (query, key, value)]
    for rows, q, k, v, weights, keep in pieces(query, key, value, bounds, rate, state):
        g, scale = grad[rows].transpose(0, 1).float(), q.shape[-1] ** -0.5
        of_weights = g @ v.mT * keep
        of_scores = weights * (of_weights - (of_weights * weights).sum(-1, keepdim=True)) * scale
        for into, found in zip(grads, (of_scores @ k, of_scores.mT @ q, (weights * keep).mT @ g), strict=True):
            into[rows] = found.transpose(0, 1).to(into.dtype)
    return tuple(grads)


@pytest.fixture(autouse=True, scope="module")
def on_the_cpu() -> Iterator[None]:
    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("_flash_attention_forward", forward, "CPU")
        library.impl("_flash_attention_backward", backward, "CPU")
        yield


def backbone_of(dropout: float = 0.0, **options: object) -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=64, num_attention_heads=4, intermediate_size=96, num_hidden_layers=2,
        max_position_embeddings=600, initializer_range=0.1, hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout, **options,
    )  # fmt: skip
    return BertModel(config, add_pooling_layer=False).eval()


def weights_of(backbone: BertModel) -> BertWeights:
    weights = BertWeights.from_hf(backbone)
    assert weights is not None
    return weights


def batch_of(lengths: list[int]) -> TokenBatch:
    generator = torch.Generator().manual_seed(sum(lengths))
    return TokenBatch.from_lists([torch.randint(1, 50, (n,), generator=generator).tolist() for n in lengths])


@pytest.mark.parametrize("lengths", [[1], [31, 32, 33, 1, 64, 7], [400, 20, 257, 3], [7] * 120])
@pytest.mark.parametrize("layers", [(-1,), (0, 1, 2), (-2, -1)])
def test_the_states_are_the_backbones_own(lengths: list[int], layers: tuple[int, ...]) -> None:
    backbone, batch = backbone_of(), batch_of(lengths)
    run = CudaVarlenBackend(weights_of(backbone))
    with torch.no_grad():
        expected = huggingface_states(backbone, batch, layers)
        torch.testing.assert_close(run(batch, layers), expected, atol=1e-5, rtol=1e-5)
        first = run(batch, layers, cls_only=True)[-1]
    torch.testing.assert_close(first, expected[-1][batch.starts], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cls_only", [False, True])
def test_the_gradients_are_the_backbones_own(cls_only: bool) -> None:
    """What fills the bucket adds nothing, the rows of the tables for padding included."""
    backbone, batch = backbone_of(), batch_of([5, 31, 5, 64, 2])
    grads = []
    for states in (
        huggingface_states(backbone, batch, (-1,), cls_only=cls_only),
        varlen_states(weights_of(backbone), batch, (-1,), cls_only=cls_only),
    ):
        backbone.zero_grad()
        states[0].pow(3).sum().backward()
        grads.append({name: weight.grad for name, weight in backbone.named_parameters()})
    for name, expected in grads[0].items():
        torch.testing.assert_close(grads[1][name], expected, atol=2e-4, rtol=2e-4, msg=name)


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(1, 130), min_size=1, max_size=12), data=st.data())
def test_neighbours_change_nothing(lengths: list[int], data: st.DataObject) -> None:
    run, batch = CudaVarlenBackend(weights_of(backbone_of())), batch_of(lengths)
    one = data.draw(st.integers(0, len(lengths) - 1))
    start = int(batch.starts[one])
    together = run(batch, (-1,))[0][start : start + lengths[one]]
    torch.testing.assert_close(together, run(batch.select(one, one + 1), (-1,))[0], atol=1e-5, rtol=1e-5)


def test_dropout_is_replayed_under_the_same_state() -> None:
    """As GradCache asks it: with and without gradients the same masks, others after them."""
    backbone, batch = backbone_of(dropout=0.3).train(), batch_of([9, 30])
    weights, device = weights_of(backbone), torch.device("cpu")
    state = random_states(device)
    with torch.no_grad():
        first = varlen_states(weights, batch, (-1,))[0]
    other = varlen_states(weights, batch, (-1,))[0]
    restore(device, state)
    again = varlen_states(weights, batch, (-1,))[0]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    again.sum().backward()
    assert backbone.encoder.layer[0].attention.self.query.weight.grad.isfinite().all()


def test_autocast_chooses_the_precision_of_products() -> None:
    backbone, batch = backbone_of(), batch_of([9, 30])
    expected = varlen_states(weights_of(backbone), batch, (-1,))[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert cuda_varlen.unfit_shape(weights_of(backbone)) is None
        got = varlen_states(weights_of(backbone), batch, (-1,))[0]
    assert 0 < (got.float() - expected).abs().max() < 0.1


def test_few_shapes_and_little_filling() -> None:
    weights = weights_of(backbone_of())
    shapes, generator = set(), torch.Generator().manual_seed(0)
    for _ in range(200):
        lengths = torch.randint(4, 33, (128,), generator=generator).tolist()
        layout = packed_layout(weights, TokenBatch.from_lists([[1] * n for n in lengths]))
        shapes.add((len(layout.ids), len(layout.bounds), layout.longest))
        assert sum(lengths) <= len(layout.ids) <= sum(lengths) * 1.13
    assert len(shapes) <= 6


def test_a_layer_compiles_whole_and_once_a_bucket() -> None:
    weights, counter = weights_of(backbone_of()), CompileCounter()
    torch._dynamo.reset()
    compiled = torch.compile(layer_forward, backend=counter, fullgraph=True, dynamic=False)
    layer = weights.layers[0]
    for lengths, graphs in (([30] * 8, 1), ([31, 29] * 4, 1), ([25] * 9, 1), ([30] * 9 + [3], 2)):
        layout = packed_layout(weights, batch_of(lengths))
        x = torch.randn(len(layout.ids), 64)
        with torch.no_grad():
            got = compiled(layer, x, layout.bounds, layout.longest, weights.heads)
            torch.testing.assert_close(got, layer_forward(layer, x, layout.bounds, layout.longest, weights.heads))
        assert counter.frame_count == graphs, lengths


def test_where_it_cannot_compute(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ConfigError, match=r"^backend is cuda_varlen, but it runs on CUDA alone, and the weights are on"
    ):
        SentenceEncoder.from_pretrained(tiny_bert, device="cpu", backend="cuda_varlen")
    encoder = SentenceEncoder.from_pretrained(tiny_bert, device="cpu")
    encoder.asked_backend = "cuda_varlen"
    with pytest.raises(ConfigError, match="it runs on CUDA alone"):
        encoder(batch_of([3]))  # in training, too: no other pass takes its place
    weights = weights_of(backbone_of())
    assert cuda_varlen.unfit_shape(weights) == "it computes in bf16 and fp16, not in float32"
    half = weights_of(backbone_of().half())
    assert cuda_varlen.unfit_shape(half) is None
    narrow = BertModel(BertConfig(hidden_size=40, num_attention_heads=10, intermediate_size=64, num_hidden_layers=1))
    assert cuda_varlen.unfit_shape(weights_of(narrow.half())) == (
        "heads are 4 wide, expected a multiple of 8 up to 256"
    )


def test_it_is_prepared_and_trains_by_its_name(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the check of the device, as on one."""
    monkeypatch.setattr(select, "unfit_for_varlen", lambda weights: None)
    encoder = SentenceEncoder.from_pretrained(tiny_bert, pooling="mean", device="cpu", dtype="fp32")
    expected = encoder.encode(["a dog", "the red house"])
    encoder.asked_backend = "cuda_varlen"
    torch.testing.assert_close(
        torch.from_numpy(encoder.encode(["a dog", "the red house"])), torch.from_numpy(expected), atol=1e-5, rtol=1e-5
    )
    encoder(TokenBatch.from_lists([[2, 9, 11, 3], [2, 8, 3]])).sum().backward()
    assert encoder.backbone.encoder.layer[0].output.dense.weight.grad.abs().sum() > 0
