"""8-bit products: near the exact vectors, batch invariant, and never of old weights."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from simcse import ConfigError, SentenceEncoder, cli, console
from simcse.encoder import device
from simcse.encoder.backends import select
from simcse.encoder.backends.cpu_features import INT8_PRODUCTS, has_int8_products
from simcse.encoder.backends.int8 import ActivationRange, OnednnFeedForward, OnednnLinear, quantize_weight
from simcse.encoder.backends.native import instruction_sets
from simcse.encoder.backends.native.binding import load_kernel
from simcse.encoder.backends.native.instruction_sets import AVX2, best_instruction_set

ROOT = Path(__file__).parents[3]
NONE = f"needs a CPU with one of {', '.join(sorted(INT8_PRODUCTS))}: sums of 8-bit products overflow on this one"
exact8 = pytest.mark.skipif(not has_int8_products(), reason=NONE)
served = pytest.mark.skipif(
    not has_int8_products() and load_kernel(best_instruction_set(torch.float32, int8=True)) is None,
    reason=f"{NONE}, and the kernel needs AVX2 and a C++ compiler",
)


def thinned(weight: Tensor) -> Tensor:
    """Every second column 0: 255 x 127 fits into 16 bits and twice that does not, so no CPU's sums overflow."""
    weight = weight.clone()
    weight[:, 1::2] = 0
    return weight


@pytest.mark.parametrize("thin", [True, pytest.param(False, marks=exact8)])
def test_a_product_is_that_of_the_rounded_numbers(thin: bool) -> None:
    """Integers times integers are exact, so only the weights' rounding is between this and float32."""
    torch.manual_seed(0)
    whole, weight, bias = torch.randint(0, 255, (40, 32), dtype=torch.uint8), torch.randn(48, 32), torch.randn(48)
    weight = thinned(weight) if thin else weight
    other, zero, scale = torch.randn(40, 48), 7, 0.03
    scales = weight.abs().amax(1, keepdim=True) / 127
    expected = F.linear((whole.float() - zero) * scale, (weight / scales).round() * scales, bias) + other
    linear = OnednnLinear(weight, bias, scale, zero)
    torch.testing.assert_close(linear.plus(whole, other), expected, atol=1e-4, rtol=1e-4)


def test_a_shifted_input_gives_the_same_integers() -> None:
    """x - 0 in signed numbers and (x + 128) - 128 in unsigned ones are the same sums."""
    torch.manual_seed(0)
    signed, weight, bias = torch.randint(-127, 128, (40, 32)), thinned(torch.randn(48, 32)), torch.randn(48)
    by_sign, shifted = (OnednnLinear(weight, bias, 0.03, zero) for zero in (0, 128))
    pair = by_sign, signed.to(torch.int8)
    other = shifted, (signed + 128).to(torch.uint8)
    levels = [linear.gelu(whole, 0.02, 9) for linear, whole in (pair, other)]
    assert len(levels[0].unique()) > 100
    assert torch.equal(*levels)
    x = torch.randn(40, 48)
    assert torch.equal(*(linear.plus(whole, x) for linear, whole in (pair, other)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_the_input_is_unsigned(dtype: torch.dtype) -> None:
    """uint8, which VNNI takes: each number is the nearest to x, shifted by 128; what lies beyond ends at 1 and 255."""
    torch.manual_seed(0)
    up, down = torch.nn.Linear(32, 64).to(dtype), torch.nn.Linear(64, 32).to(dtype)
    x = torch.randn(50, 32).to(dtype)
    sublayer = OnednnFeedForward(up, down, ActivationRange(x[0], x.abs().amax(0).float(), torch.full((64,), 3.0)))
    got = sublayer.unsigned(x)
    assert got.dtype == torch.uint8
    assert torch.equal(got.int() - 128, (x * sublayer.smoothing).round().int())
    assert len(got.unique()) > 150
    assert sublayer.unsigned(x * 100).aminmax() == (1, 255)


def test_a_thin_feed_forward_sublayer() -> None:
    """On any CPU: near the exact one, and the same whichever rows lie beside."""
    torch.manual_seed(0)
    up, down, x = torch.nn.Linear(64, 256), torch.nn.Linear(256, 64), torch.randn(100, 64)
    with torch.no_grad():
        for linear in (up, down):
            linear.weight.copy_(thinned(linear.weight))
        inner = F.gelu(up(x))
        exact = x + down(inner)
        sublayer = OnednnFeedForward(up, down, ActivationRange(x[0], x.abs().amax(0), inner.amax(0)))
        got = sublayer(x)
    assert (got - exact).norm() / (exact - x).norm() < 0.03
    torch.testing.assert_close(sublayer(x[7:8]), got[7:8], atol=1e-6, rtol=0)


@exact8
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_feed_forward_sublayer_with_an_outlying_channel(dtype: torch.dtype) -> None:
    """One channel 30 times the others: without smoothing the others would have four steps each way."""
    torch.manual_seed(0)
    up, down = torch.nn.Linear(64, 256), torch.nn.Linear(256, 64)
    x = torch.randn(100, 64)
    x[:, 3] *= 30
    with torch.no_grad():
        inner = F.gelu(up(x))
        exact = down(inner)
        sublayer = OnednnFeedForward(
            up.to(dtype), down.to(dtype), ActivationRange(x[0], x.abs().amax(0), inner.amax(0))
        )
        got = sublayer(x.to(dtype)).float() - x.to(dtype).float()
    # bf16 rounds the sum with x, whose outlier reaches 90: steps of up to 0.5
    keep = torch.arange(64) != 3
    assert ((got - exact)[:, keep].norm() / exact[:, keep].norm()) < (0.03 if dtype == torch.float32 else 0.06)


@exact8
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outlying_channels_of_the_inner_width(dtype: torch.dtype) -> None:
    """Four whose gelu is 30 times that of the others: one scale for all would leave those a dozen steps."""
    torch.manual_seed(0)
    up, down, x = torch.nn.Linear(64, 256), torch.nn.Linear(256, 64), torch.randn(100, 64)
    with torch.no_grad():
        up.bias[[3, 77, 130, 255]] += 100
        inner = F.gelu(up(x))
        exact = down(inner)
        seen = ActivationRange(x[0], x.abs().amax(0), inner.amax(0))
        sublayer = OnednnFeedForward(up.to(dtype), down.to(dtype), seen)
        got = sublayer(x.to(dtype)).float() - x.to(dtype).float()
    spread = exact - exact.mean(0)  # what the constant channels do not explain
    assert (got - exact).norm() / spread.norm() < (0.04 if dtype == torch.float32 else 0.15)


@served
def test_near_the_exact_vectors(minilm: Path, sentences: list[str]) -> None:
    exact = SentenceEncoder.from_pretrained(minilm, device="cpu", dtype="fp32").encode(sentences)
    encoder = SentenceEncoder.from_pretrained(minilm, device="cpu", dtype="int8")
    cosines = (exact * encoder.encode(sentences)).sum(axis=1)
    assert 0.98 < cosines.min() < 0.99999


@pytest.mark.parametrize("fixture", [pytest.param("tiny_bert", marks=exact8), pytest.param("minilm", marks=served)])
def test_vectors_are_batch_invariant(fixture: str, sentences: list[str], request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(fixture)
    encoder = SentenceEncoder.from_pretrained(folder, pooling="mean", device="cpu", dtype="int8")
    together = encoder.encode(sentences * 20)
    alone = np.stack([encoder.encode(text) for text in sentences[:8]])
    np.testing.assert_allclose(together[:8], alone, atol=0.02)  # bf16 attention, whose order of sums varies


@pytest.mark.parametrize("fixture", [pytest.param("tiny_roberta", marks=exact8), pytest.param("minilm", marks=served)])
def test_weights_changed_are_seen(fixture: str, sentences: list[str], request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(fixture)
    encoder = SentenceEncoder.from_pretrained(folder, pooling="mean", device="cpu", dtype="int8")
    before = encoder.encode(sentences)
    with torch.no_grad():
        encoder.backbone.encoder.layer[0].output.dense.weight *= -30
    assert np.abs(encoder.encode(sentences) - before).max() > 1e-2


@settings(deadline=None)
@given(
    out=st.integers(1, 5), blocks=st.integers(1, 4), seed=st.integers(0, 999),
    kind=st.sampled_from(["normal", "equal", "one sign", "outlier", "zeros"]),
)  # fmt: skip
@pytest.mark.parametrize("lines", [1, 2, 4, 8, 16])
def test_sums_of_products_fit_into_16_bits(lines: int, out: int, blocks: int, seed: int, kind: str) -> None:
    """Of whatever inputs of 0..255: those of the largest sum have 255 for weights of one sign, and 0 for the others."""
    weight = torch.randn(out, 64 * blocks, generator=torch.Generator().manual_seed(seed))
    weight = {"normal": weight, "equal": weight.sign(), "one sign": weight.abs(), "zeros": 0 * weight}.get(kind, weight)
    if kind == "outlier":
        weight[0, 5] = 1000
    whole, scales = quantize_weight(weight, lines)
    fours = whole.long().numpy().reshape(out, -1, 4)  # of a line
    for start in range(0, fours.shape[1], lines):
        for pair in (fours[:, start : start + lines, :2], fours[:, start : start + lines, 2:]):
            assert (255 * pair.clip(min=0)).sum((1, 2)).max() < 2**15
            assert (255 * pair.clip(max=0)).sum((1, 2)).min() >= -(2**15)
    assert ((whole * scales[:, None] - weight).abs() <= 0.501 * scales[:, None]).all()
    plain = weight.abs().amax(1) / 127
    assert (scales <= plain.clamp(min=1e-12) * 1.05 * max(1, 127 * 2 * lines / 128)).all()


def test_a_row_of_large_weights_costs_the_others_nothing() -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 128)
    alone = quantize_weight(weight, 4)
    both = quantize_weight(torch.cat([weight, torch.full((1, 128), 3.0)]), 4)
    assert all(torch.equal(part[:4], whole) for part, whole in zip(both, alone, strict=True))


def test_only_where_it_exists(tiny_bert: Path, tmp_path: Path) -> None:
    from transformers import AlbertConfig, AlbertModel

    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    AlbertModel(AlbertConfig(vocab_size=200, embedding_size=16, **shape)).save_pretrained(tmp_path)
    for file in tiny_bert.glob("token*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ConfigError, match="dtype is int8, but it has no pass for albert, only for bert, camembert, "):
        SentenceEncoder.from_pretrained(tmp_path, device="cpu", dtype="int8")


REFUSED = "torch's sums of 8-bit products overflow on a CPU without amx_int8, avx512_vnni, avx_vnni, and "


def test_refused_where_sums_overflow(tiny_bert: Path, minilm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By torch, where our kernel cannot do without it: widths that it does not take, no instructions, no compiler."""
    monkeypatch.setattr(select, "has_int8_products", lambda: False)
    for module in (instruction_sets, device):
        monkeypatch.setattr(module, "cpu_flags", lambda: AVX2.flags)
    with pytest.raises(ConfigError) as error:
        SentenceEncoder.from_pretrained(tiny_bert, device="cpu", dtype="int8", backend="int8")
    reason = "the width of a head or of a layer is no multiple of 64"
    assert str(error.value) == f"backend is int8, but {REFUSED}{reason}; take backend auto"
    monkeypatch.setattr(instruction_sets, "cpu_flags", frozenset)
    with pytest.raises(ConfigError) as error:
        SentenceEncoder.from_pretrained(minilm, device="cpu", dtype="int8")
    reason = "this CPU has none of the instruction sets for float32: avx512_vnni, avx2_vnni, avx2"
    assert str(error.value) == f"dtype is int8, but {REFUSED}{reason}; take dtype auto"
    monkeypatch.setattr(instruction_sets, "cpu_flags", lambda: AVX2.flags)
    monkeypatch.setattr("simcse.encoder.backends.native.backend.load_kernel", lambda instructions: None)
    with pytest.raises(ConfigError) as error:
        SentenceEncoder.from_pretrained(minilm, device="cpu", dtype="int8")
    assert str(error.value) == (
        f"dtype is int8, but {REFUSED}there is no compiled kernel; the log says why; take dtype auto"
    )


@pytest.mark.parametrize("command", ["encode", "similarity", "evaluate.py"])
def test_refused_on_the_command_line(
    command: str, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(select, "has_int8_products", lambda: False)
    texts = tmp_path / "texts.txt"
    texts.write_text("a dog\n", encoding="utf-8")
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("a dog\ta cat\t1\na dog\ta hound\t5\n", encoding="utf-8")
    options = ["--model", str(tiny_bert), "--device", "cpu", "--dtype", "int8"]
    if command == "evaluate.py":
        status = console.run(runpy.run_path(str(ROOT / command))["main"], [*options, "--tasks", str(pairs)])
    else:
        status = cli.main([command, str(texts), *([str(texts)] if command == "similarity" else []), *options])
    lines = capsys.readouterr().err.splitlines()
    assert status == 2
    assert lines == [line for line in lines if f"dtype is int8, but {REFUSED}" in line]
    assert len(lines) == 1


@pytest.mark.parametrize("name", ["float32", "torch.float32", "bfloat16", "float16", "fp16"])
def test_types_go_by_torchs_names(tiny_bert: Path, name: str) -> None:
    encoder = SentenceEncoder.from_pretrained(tiny_bert, device="cpu", dtype=name)
    assert encoder.dtype == getattr(torch, name.removeprefix("torch.").replace("fp16", "float16"))


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, "float8"])
def test_other_types_are_named(tiny_bert: Path, dtype: torch.dtype | str) -> None:
    with pytest.raises(ConfigError, match="is not one of auto, fp32, bf16, fp16, float32, bfloat16, float16, int8"):
        SentenceEncoder.from_pretrained(tiny_bert, device="cpu", dtype=dtype)
