"""The fused training pass against Hugging Face's forward (no dropout) and against plain autograd (same masks)."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from simcse.encoder.backends.cpu_training import attention as attention_module
from simcse.encoder.backends.cpu_training.attention import attention_layout
from simcse.encoder.backends.cpu_training.dropout import keep_mask, keep_scale
from simcse.encoder.backends.cpu_training.forward import rounded_up, training_states, why_not_fused
from simcse.encoder.backends.cpu_training.sublayers import AttentionSublayer, FeedForwardSublayer
from simcse.encoder.backends.huggingface import huggingface_states
from simcse.encoder.backends.select import training_pass
from simcse.encoder.loading import load_backbone
from simcse.tokens.batch import TokenBatch

EVERY_LAYER = (0, 1, -1)


def batch_of(*lengths: int, views: int = 1, seed: int = 0) -> TokenBatch:
    """Random tokens behind the special ones."""
    generator = torch.Generator().manual_seed(seed)
    sequences = [torch.randint(5, 90, (length,), generator=generator).tolist() for length in lengths]
    return TokenBatch.from_lists(sequences * views)


def load(folder: Path, dropout: float = 0.0) -> Any:
    """A backbone in training mode."""
    return load_backbone(folder, dropout=dropout).train()


def pass_through(backbone: Any, states: Any, batch: TokenBatch, layers: tuple[int, ...], **options: Any) -> Any:
    """States of one pass, and the gradients of a fixed random projection of them."""
    backbone.zero_grad()
    out = states(backbone, batch, layers, **options)
    generator = torch.Generator().manual_seed(1)
    sum((x.float() * torch.randn(x.shape, generator=generator)).sum() for x in out).backward()
    grads = {name: p.grad for name, p in backbone.named_parameters() if p.grad is not None}
    return [x.detach() for x in out], grads


def assert_close(mine: dict[str, Tensor], plain: dict[str, Tensor], tolerance: float) -> None:
    """Each gradient to a share of its own norm, or, where it is all but 0 (key biases), of the largest norm."""
    assert mine.keys() == plain.keys()
    largest = max(float(grad.norm()) for grad in plain.values())
    for name, grad in plain.items():
        assert mine[name].dtype == grad.dtype
        assert float((mine[name] - grad).norm()) <= tolerance * max(float(grad.norm()), 1e-2 * largest), name


@pytest.mark.parametrize("model", ["tiny_bert", "tiny_roberta"])
@pytest.mark.parametrize("lengths", [(3, 12, 7, 1), (8, 8, 8), (40, 5, 33, 2, 60)])
@pytest.mark.parametrize("views", [1, 2])
def test_without_dropout_it_is_the_own_forward(
    model: str, lengths: tuple[int, ...], views: int, request: pytest.FixtureRequest
) -> None:
    backbone = load(request.getfixturevalue(model))
    assert why_not_fused(backbone) is None
    batch = batch_of(*lengths, views=views)
    states, grads = pass_through(backbone, training_states, batch, EVERY_LAYER)
    expected, expected_grads = pass_through(backbone, huggingface_states, batch, EVERY_LAYER)
    for mine, plain in zip(states, expected, strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-5, atol=1e-5)
    assert_close(grads, expected_grads, 1e-5)


@pytest.mark.parametrize("layers", [(-1,), (1, -1), (2,), (0,), (1,)])
def test_any_choice_of_layers(tiny_bert: Path, layers: tuple[int, ...]) -> None:
    backbone, batch = load(tiny_bert), batch_of(4, 9, 2)
    states, grads = pass_through(backbone, training_states, batch, layers)
    expected, expected_grads = pass_through(backbone, huggingface_states, batch, layers)
    for mine, plain in zip(states, expected, strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-5, atol=1e-5)
    # a layer above the last one asked for has gradients 0 by its own forward, none here
    expected_grads = {name: grad for name, grad in expected_grads.items() if name in grads or grad.any()}
    assert_close(grads, expected_grads, 1e-5)


def test_first_tokens_alone(tiny_bert: Path) -> None:
    backbone, batch = load(tiny_bert), batch_of(4, 9, 2, 33, views=2)
    states, grads = pass_through(backbone, training_states, batch, (-1,), cls_only=True)
    expected, expected_grads = pass_through(backbone, huggingface_states, batch, (-1,), cls_only=True)
    assert states[0].shape == (8, 32)
    torch.testing.assert_close(states[0], expected[0], rtol=1e-5, atol=1e-5)
    assert_close(grads, expected_grads, 1e-5)


def test_packaged_minilm(minilm: Path) -> None:
    backbone, batch = load(minilm), batch_of(7, 32, 19, views=2)
    states, grads = pass_through(backbone, training_states, batch, (1, -1))
    expected, expected_grads = pass_through(backbone, huggingface_states, batch, (1, -1))
    for mine, plain in zip(states, expected, strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-4)
    assert_close(grads, expected_grads, 2e-5)


def test_bf16_autocast_is_close_and_grads_are_float32(minilm: Path) -> None:
    backbone, batch = load(minilm), batch_of(7, 32, 19, views=2)
    expected, expected_grads = pass_through(backbone, training_states, batch, (-1,))
    with torch.autocast("cpu", torch.bfloat16):
        states, grads = pass_through(backbone, training_states, batch, (-1,))
    assert states[0].dtype == torch.bfloat16
    assert F.cosine_similarity(states[0].float(), expected[0]).min() > 0.999
    assert_close(grads, expected_grads, 0.05)


# --- with dropout -----------------------------------------------------------------------------------------------------


def plain_states(backbone: Any, batch: TokenBatch, masks: list[Tensor]) -> Tensor:
    """The last layer by plain autograd, sequence by sequence, with given masks: embedding, then three a layer.

    Attention masks are laid out group by group, sequences of a group in order: here all lengths share one group.
    """
    take = iter(masks)
    rate = backbone.embeddings.dropout.p
    scale = keep_scale(rate)
    tokens = len(batch.ids)
    table = backbone.embeddings
    x = (
        table.word_embeddings(batch.ids)
        + table.position_embeddings(batch.positions)
        + table.token_type_embeddings.weight[0]
    )
    x = table.LayerNorm(x) * next(take)[:tokens] * scale
    for layer in backbone.encoder.layer:
        own = layer.attention.self
        mask = next(take).view(len(batch), own.num_attention_heads, batch.longest, batch.longest)
        rows = []
        for part, keep in zip(x.split(batch.lengths), mask, strict=True):
            q, k, v = (
                linear(part).unflatten(1, (own.num_attention_heads, -1)).transpose(0, 1)
                for linear in (own.query, own.key, own.value)
            )  # (H, L, d)
            weights = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1)
            weights = weights * keep[:, : len(part), : len(part)] * scale
            rows.append((weights @ v).transpose(0, 1).flatten(1))
        out = layer.attention.output
        x = out.LayerNorm(x + out.dense(torch.cat(rows)) * next(take)[:tokens] * scale)
        hidden = F.gelu(layer.intermediate.dense(x))
        x = layer.output.LayerNorm(x + layer.output.dense(hidden) * next(take)[:tokens] * scale)
    assert next(take, None) is None
    return x


def test_with_dropout_gradients_are_autograds(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, batch = load(tiny_bert, dropout=0.3), batch_of(4, 9, 2, 17, views=2)
    masks: list[Tensor] = []

    def listening(*args: Any) -> Tensor | None:
        mask = keep_mask(*args)
        assert mask is not None
        masks.append(mask.clone())
        return mask

    for module in ("sublayers", "attention", "forward"):
        monkeypatch.setattr(f"simcse.encoder.backends.cpu_training.{module}.keep_mask", listening)
    states, grads = pass_through(backbone, training_states, batch, (-1,))
    expected, expected_grads = pass_through(backbone, lambda b, t, _: [plain_states(b, t, masks)], batch, (-1,))
    torch.testing.assert_close(states[0], expected[0], rtol=1e-5, atol=1e-5)
    assert_close(grads, expected_grads, 1e-5)


def test_gradients_by_finite_differences() -> None:
    """Both blocks in float64 with dropout, the generator rewound before each call."""
    batch = batch_of(3, 5, 1)
    torch.manual_seed(3)
    shapes = [(8, 8), (8,)] * 4 + [(8,), (8,)]
    weights = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    wide = [
        torch.randn(s, dtype=torch.float64, requires_grad=True) for s in [(12, 8), (12,), (8, 12), (8,), (8,), (8,)]
    ]
    x = torch.randn(9, 8, dtype=torch.float64, requires_grad=True)
    for first in (False, True):
        layout = attention_layout(batch, 9, 2, 4, 0.2, torch.float64, first=first)

        def attention(*tensors: Any, layout: Any = layout, queries: Any = batch.starts if first else None) -> Tensor:
            torch.manual_seed(5)
            return AttentionSublayer.apply(*tensors, 1e-5, 0.2, layout, queries)  # type: ignore[no-any-return]

        for relative in (None, torch.randn(2, 2 * 5 - 1, dtype=torch.float64, requires_grad=True)):
            assert torch.autograd.gradcheck(attention, (x, *weights, relative), fast_mode=True)

    def feed_forward(*tensors: Tensor) -> Tensor:
        torch.manual_seed(5)
        return FeedForwardSublayer.apply(*tensors, 1e-5, 0.2)  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(feed_forward, (x, *wide), fast_mode=True)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("cls_only", [False, True])
def test_the_same_state_of_the_generator_gives_the_same_pass(tiny_bert: Path, bf16: bool, cls_only: bool) -> None:
    """With and without gradients, as the two passes of GradCache need it; another state gives another one."""
    backbone, batch = load(tiny_bert, dropout=0.1), batch_of(4, 9, 2, 40, views=2)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        [with_grad] = training_pass(backbone)(batch, (-1,), cls_only=cls_only)
        [other] = training_pass(backbone)(batch, (-1,), cls_only=cls_only)
        torch.set_rng_state(state)
        with torch.no_grad():
            [without] = training_pass(backbone)(batch, (-1,), cls_only=cls_only)
    assert with_grad.requires_grad
    assert not without.requires_grad
    assert torch.equal(with_grad, without)
    assert not torch.equal(with_grad, other)


def test_views_and_layers_differ(tiny_bert: Path) -> None:
    backbone, batch = load(tiny_bert, dropout=0.1), batch_of(6, 9, views=2)
    for state in training_states(backbone, batch, EVERY_LAYER):
        first, second = state.chunk(2)
        assert not torch.equal(first, second)
    masks = [keep_mask((64, 64), 0.5, torch.float32) for _ in range(6)]
    for one, other in itertools.combinations(masks, 2):
        assert one is not None
        assert other is not None
        assert abs(float((one == other).float().mean()) - 0.5) < 0.05


def test_expectation_is_that_of_no_dropout(tiny_bert: Path) -> None:
    """The mean embedding output over many draws is the one without dropout, to five standard errors."""
    backbone, batch = load(tiny_bert, dropout=0.4), batch_of(6, 9)
    torch.manual_seed(0)
    with torch.no_grad():
        draws = torch.stack([training_states(backbone, batch, (0,))[0] for _ in range(500)])
        backbone.eval()
        [expected] = huggingface_states(backbone, batch, (0,))
    error = draws.std(0) / 500**0.5
    assert ((draws.mean(0) - expected).abs() < 5 * error + 1e-6).all()


@settings(max_examples=20, deadline=None)
@given(rate=st.floats(0.001, 0.95), seed=st.integers(0, 1000), bf16=st.booleans())
def test_rate_and_scale_of_masks(rate: float, seed: int, bf16: bool) -> None:
    """200,001 elements: the share of kept ones to six standard errors, P(keep) x scale = 1, ones and zeros alone."""
    torch.manual_seed(seed)
    dtype = torch.bfloat16 if bf16 else torch.float32
    mask = keep_mask((200_001,), rate, dtype)
    assert mask is not None
    assert mask.dtype == dtype
    assert set(mask.unique().tolist()) <= {0.0, 1.0}
    share = float(mask.float().mean())
    assert abs(share - (1 - rate)) < 6 * (rate * (1 - rate) / 200_001) ** 0.5 + 1 / 131_072
    assert abs(1 / keep_scale(rate) - (1 - rate)) <= 1 / 131_072


def test_lanes_of_one_draw_are_independent() -> None:
    """Neighbours at distance 1 to 8, and all 4 lanes of a draw alone: no correlation, the same rate."""
    torch.manual_seed(0)
    mask = keep_mask((400_000,), 0.1, torch.float32)
    assert mask is not None
    for lane in mask.view(-1, 4).unbind(1):
        assert abs(float(lane.mean()) - 0.9) < 6 * (0.09 / 100_000) ** 0.5
    centred = mask - mask.mean()
    for distance in range(1, 9):
        correlation = float((centred[distance:] * centred[:-distance]).mean() / centred.square().mean())
        assert abs(correlation) < 6 / 400_000**0.5


def test_no_rate_draws_nothing() -> None:
    state = torch.get_rng_state()
    assert keep_mask((5, 5), 0.0, torch.float32) is None
    assert torch.equal(state, torch.get_rng_state())
    assert keep_scale(0.0) == 1.0


# --- in the company of autograd ---------------------------------------------------------------------------------------


def test_twice_in_one_graph_and_accumulated(tiny_bert: Path) -> None:
    """Two passes joined in one loss, or backward one after another: the sum of both gradients."""
    backbone, batches = load(tiny_bert), (batch_of(4, 9), batch_of(3, 3, 8, seed=7))

    def loss(batch: TokenBatch) -> Tensor:
        return training_states(backbone, batch, (-1,))[0].square().mul(torch.arange(32.0)).sum()

    def grads() -> dict[str, Tensor]:
        found = {name: p.grad.clone() for name, p in backbone.named_parameters() if p.grad is not None}
        backbone.zero_grad()
        return found

    (loss(batches[0]) + loss(batches[1])).backward()
    joined = grads()
    for batch in batches:
        loss(batch).backward()
    accumulated = grads()
    singles = []
    for batch in batches:
        loss(batch).backward()
        singles.append(grads())
    expected = {name: singles[0][name] + singles[1][name] for name in singles[0]}
    assert_close(joined, expected, 1e-5)
    assert_close(accumulated, expected, 1e-5)


def test_frozen_weights_stay_without_gradients(tiny_bert: Path) -> None:
    backbone, batch = load(tiny_bert), batch_of(4, 9, 2)
    backbone.embeddings.requires_grad_(False)
    backbone.encoder.layer[0].requires_grad_(False)
    backbone.encoder.layer[1].attention.self.value.weight.requires_grad_(False)
    backbone.encoder.layer[1].output.dense.bias.requires_grad_(False)
    _, grads = pass_through(backbone, training_states, batch, (-1,))
    _, expected = pass_through(backbone, huggingface_states, batch, (-1,))
    assert set(grads) == {name for name, p in backbone.named_parameters() if p.requires_grad and "pooler" not in name}
    assert_close(grads, expected, 1e-5)


def test_dropout_switched_off_in_parts(tiny_bert: Path) -> None:
    backbone, batch = load(tiny_bert, dropout=0.5), batch_of(4, 9, 2)
    for module in backbone.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    [mine], [plain] = (states(backbone, batch, (0,)) for states in (training_states, huggingface_states))
    torch.testing.assert_close(mine, plain, rtol=1e-5, atol=1e-5)


def test_others_take_their_own_forward(tiny_bert: Path) -> None:
    backbone = load(tiny_bert)
    backbone.encoder.layer[0].attention.self.query = nn.Sequential(backbone.encoder.layer[0].attention.self.query)
    assert why_not_fused(backbone) == "this bert has a Sequential in place of a Linear"
    backbone = load(tiny_bert)
    backbone.encoder.layer[0].gradient_checkpointing = True  # what enabling checkpoints sets, in every version
    assert why_not_fused(backbone) == "gradient checkpointing is on"
    backbone = load(tiny_bert)
    with torch.autocast("cpu", torch.float16):
        assert why_not_fused(backbone) == "it computes in float16, not in float32 or bfloat16"
    assert why_not_fused(backbone) is None
    assert why_not_fused(backbone.to("meta")) == "the weights are on meta, not on the CPU"


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 100), min_size=1, max_size=8),
    heads=st.integers(1, 3),
    first=st.booleans(),
    most=st.sampled_from([1, 50_000, attention_module.GROUP_BYTES]),
)
def test_plan_visits_each_token_once(lengths: list[int], heads: int, first: bool, most: int) -> None:
    """Going out and coming back is the identity on tokens, and zero behind them."""
    batch = batch_of(*lengths)
    rows = rounded_up(len(batch.ids))
    with patch.object(attention_module, "GROUP_BYTES", most):
        layout = attention_layout(batch, rows, heads, 2, 0.0, torch.float32, first=first)
    for group in layout.groups:
        matrices, length, _ = group.key_shape
        assert matrices == heads or matrices * length**2 * 4 <= most
    count = len(batch) if first else rows
    query, key = torch.randn(count * heads, 2), torch.randn(rows * 2 * heads, 2)
    for x, out, back in ((query, layout.query_rows, layout.query_back), (key, layout.key_rows, layout.key_back)):
        gathered = attention_module.rows_and_zero(x, len(out))
        gathered[:-1] = x[out]
        real = len(x) if x is query and first else len(x) // rows * len(batch.ids)
        assert torch.equal(gathered[back][:real], x[:real])
        assert not gathered[back][real:].any()
    assert all(group.key_shape[1] <= 32 * -(-min(lengths) // 32) or len(layout.groups) > 1 for group in layout.groups)


@given(st.integers(1, 100_000))
def test_rounding_is_small_and_rare(tokens: int) -> None:
    rounded = rounded_up(tokens)
    assert tokens <= rounded < tokens + max(16, tokens / 16 + 1)
    assert rounded_up(rounded) == rounded
