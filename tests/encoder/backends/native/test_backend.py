"""The kernel against plain torch, on CPUs that there is a micro-kernel for."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_lists import each_kernel, each_with_integers
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from simcse import SentenceEncoder
from simcse.encoder.backends.bert_weights import BertWeights
from simcse.encoder.backends.huggingface import huggingface_states
from simcse.encoder.backends.int8 import CALIBRATION, ActivationRange, calibrate
from simcse.encoder.backends.native import instruction_sets
from simcse.encoder.backends.native.backend import NativeBackend, unfit
from simcse.encoder.backends.native.binding import load_kernel
from simcse.encoder.backends.native.instruction_sets import (
    AMX,
    AVX2,
    AVX2_VNNI,
    AVX512,
    AVX512_VNNI,
    AVX512F,
    InstructionSet,
    best_instruction_set,
)
from simcse.encoder.backends.torch_packed import TorchPackedBackend
from simcse.tokens.batch import TokenBatch

native = pytest.mark.skipif(
    load_kernel(best_instruction_set()) is None, reason="needs a CPU with AMX or AVX512-BF16, and a C++ compiler"
)


MET_DENORMAL = 2  # bit of MXCSR
SHAPES = [(64, 2, 128), (128, 2, 96), (96, 1, 800), (192, 6, 64)]  # width, heads, inner


@pytest.fixture
def any_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this CPU had the instructions: nothing is run, the weights alone are looked at."""
    monkeypatch.setattr(instruction_sets, "cpu_flags", lambda: AMX.flags)


def backbone_of(shape: tuple[int, int, int], dtype: torch.dtype = torch.bfloat16) -> BertModel:
    """Random weights, far enough from zero that each of them matters."""
    torch.manual_seed(0)
    width, heads, inner = shape
    config = BertConfig(
        vocab_size=50, hidden_size=width, num_attention_heads=heads, intermediate_size=inner, num_hidden_layers=2,
        max_position_embeddings=600, initializer_range=0.1, layer_norm_eps=0.05,
    )  # fmt: skip
    backbone = BertModel(config, add_pooling_layer=False).eval()
    for name, weight in backbone.named_parameters():
        if weight.ndim == 1:
            nn.init.normal_(weight, mean=float("LayerNorm.weight" in name), std=0.2)
    return backbone.to(dtype)


def batch_of(lengths: list[int], seed: int = 0) -> TokenBatch:
    rng = np.random.default_rng(seed)
    return TokenBatch.from_lists([rng.integers(1, 50, length).tolist() for length in lengths])


def weights_of(backbone: BertModel) -> BertWeights:
    weights = BertWeights.from_hf(backbone)
    assert weights is not None
    return weights


def by_kernel(
    backbone: BertModel, batch: TokenBatch, instructions: InstructionSet, *, cls_only: bool = False
) -> Tensor:
    return NativeBackend(weights_of(backbone), instructions=instructions)(batch, (-1,), cls_only=cls_only)[0]


def exact(backbone: BertModel, batch: TokenBatch) -> Tensor:
    """The same weights in float32, by Hugging Face's own forward pass."""
    other = BertModel(backbone.config, add_pooling_layer=False).eval()
    other.load_state_dict(backbone.state_dict())
    with torch.no_grad():
        return huggingface_states(other, batch, (-1,))[0]


@each_kernel
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("lengths", [[1], [5, 5, 5], [31, 32, 33, 1, 64, 7], [400, 20, 513, 3], [7] * 120])
def test_close_to_the_exact_states(
    instructions: InstructionSet, shape: tuple[int, int, int], lengths: list[int]
) -> None:
    backbone, batch = backbone_of(shape, instructions.dtype), batch_of(lengths)
    expected, got = exact(backbone, batch), by_kernel(backbone, batch, instructions)
    assert torch.cosine_similarity(got.float(), expected, dim=-1).min() > 0.9995
    assert torch.equal(by_kernel(backbone, batch, instructions, cls_only=True), got[batch.starts])


@each_kernel
def test_nearer_to_the_exact_states_than_torch_in_bfloat16(instructions: InstructionSet) -> None:
    backbone, batch = backbone_of((128, 4, 512), instructions.dtype), batch_of([30] * 40)
    plain = TorchPackedBackend(weights_of(backbone))
    expected = exact(backbone, batch)
    off = [
        float((states.float() - expected).norm())
        for states in (by_kernel(backbone, batch, instructions), plain(batch, (-1,))[0])
    ]
    # in bfloat16 sums stay in float32 until they are normalised
    assert off[0] <= (0.8 if instructions.dtype == torch.bfloat16 else 2.0) * off[1]


@each_kernel
@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 130), min_size=1, max_size=12), data=st.data())
def test_neighbours_change_nothing(instructions: InstructionSet, lengths: list[int], data: st.DataObject) -> None:
    backbone, batch = backbone_of((64, 2, 128), instructions.dtype), batch_of(lengths)
    one = data.draw(st.integers(0, len(lengths) - 1))
    start = int(batch.starts[one])
    together = by_kernel(backbone, batch, instructions)[start : start + lengths[one]]
    assert torch.equal(together, by_kernel(backbone, batch.select(one, one + 1), instructions))


@each_kernel
def test_states_of_all_layers(instructions: InstructionSet) -> None:
    weights, batch = weights_of(backbone_of((64, 2, 128), instructions.dtype)), batch_of([9, 4])
    forward, plain = NativeBackend(weights, instructions=instructions), TorchPackedBackend(weights)
    for layers in ((0, 1, 2), (-2, -1)):
        for got, expected in zip(forward(batch, layers), plain(batch, layers), strict=True):
            torch.testing.assert_close(got, expected, atol=0.1, rtol=0.05)


@each_kernel
def test_ids_beyond_the_table(instructions: InstructionSet) -> None:
    forward = NativeBackend(weights_of(backbone_of((64, 2, 128), instructions.dtype)), instructions=instructions)
    for ids in ([3, 50], [-1, 3], list(range(50)) * 13):
        with pytest.raises(IndexError, match="of a table of"):
            forward(TokenBatch.from_lists([ids]), (-1,))


@each_kernel
def test_scores_of_any_size(instructions: InstructionSet) -> None:
    backbone = backbone_of((64, 2, 128), instructions.dtype)
    with torch.no_grad():
        for layer in backbone.encoder.layer:
            layer.attention.self.query.weight.mul_(300)  # all weight on one key, its score in the thousands
    batch = batch_of([40, 3])
    states = by_kernel(backbone, batch, instructions)
    assert states.isfinite().all()
    cosine = torch.cosine_similarity(states.float(), exact(backbone, batch), dim=-1)
    assert cosine.median() > 0.99  # where two keys are near each other, rounding decides


@each_kernel
@pytest.mark.parametrize(
    "name", ["query.weight", "key.bias", "value.weight", "output.dense.bias", "intermediate.dense.weight"]
)
def test_a_damaged_weight_shows(instructions: InstructionSet, name: str) -> None:
    backbone = backbone_of((64, 2, 128), instructions.dtype)
    damaged = next(weight for key, weight in backbone.named_parameters() if key.endswith(name))
    with torch.no_grad():
        damaged.view(-1)[3] = float("nan")
    assert by_kernel(backbone, batch_of([12]), instructions).isnan().any()


@each_with_integers
@pytest.mark.parametrize("shape", [(64, 2, 128), (128, 2, 832)])
def test_integers_are_near(instructions: InstructionSet, shape: tuple[int, int, int]) -> None:
    backbone, batch = backbone_of(shape, instructions.dtype), batch_of([40, 33, 7])
    weights = weights_of(backbone)
    forward = NativeBackend(weights, calibrate(weights, batch), instructions)
    cosine = torch.cosine_similarity(forward(batch, (-1,))[0].float(), exact(backbone, batch), dim=-1)
    assert cosine.min() > 0.998


@each_with_integers
@pytest.mark.parametrize("lengths", [[1], [31, 32, 33, 1, 64, 7], [400, 20, 513, 3], [7] * 120])
def test_integers_in_batches_of_any_shape(instructions: InstructionSet, lengths: list[int]) -> None:
    backbone, batch = backbone_of((192, 6, 320), instructions.dtype), batch_of(lengths)
    weights = weights_of(backbone)
    forward = NativeBackend(weights, calibrate(weights, batch_of([40, 33, 7])), instructions)
    got = forward(batch, (-1,))[0]
    assert torch.cosine_similarity(got.float(), exact(backbone, batch), dim=-1).min() > 0.998
    assert torch.equal(forward(batch, (-1,), cls_only=True)[0], got[batch.starts])


@each_with_integers
@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 130), min_size=1, max_size=12), data=st.data())
def test_neighbours_change_no_integers(instructions: InstructionSet, lengths: list[int], data: st.DataObject) -> None:
    batch = batch_of(lengths)
    weights = weights_of(backbone_of((64, 2, 128), instructions.dtype))
    forward = NativeBackend(weights, calibrate(weights, batch_of([40, 33, 7])), instructions)
    one = data.draw(st.integers(0, len(lengths) - 1))
    start = int(batch.starts[one])
    together = forward(batch, (-1,))[0][start : start + lengths[one]]
    assert torch.equal(together, forward(batch.select(one, one + 1), (-1,))[0])


def meets_denormals(forward: NativeBackend, batch: TokenBatch, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a number below 1.2e-38 is computed with, where the memory that is taken is full of them."""
    empty = torch.empty

    def used(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
        found = empty(*size, dtype=dtype)
        if dtype == torch.uint8:
            found[: len(found) // 4 * 4].view(torch.int32).fill_(1)  # as a float 1.4e-45
        return found

    monkeypatch.setattr(torch, "empty", used)
    libm, environment = ctypes.CDLL(None), (ctypes.c_uint32 * 8)()  # fenv_t, whose last number is MXCSR
    libm.fegetenv(environment)
    environment[7] &= ~MET_DENORMAL
    libm.fesetenv(environment)
    forward(batch, (-1,))
    libm.fegetenv(environment)
    return bool(environment[7] & MET_DENORMAL)


@each_kernel
@pytest.mark.parametrize("length", [12, 40])
def test_no_denormal_left_over_is_computed_with(
    instructions: InstructionSet, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that fill up the last 32 read what memory held before; each denormal there costs 100 cycles."""
    weights = weights_of(backbone_of((64, 2, 128), instructions.dtype))
    assert not meets_denormals(NativeBackend(weights, instructions=instructions), batch_of([length]), monkeypatch)


@each_with_integers
@pytest.mark.parametrize("length", [12, 40])
def test_no_denormal_left_over_is_computed_with_by_integers(
    instructions: InstructionSet, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = weights_of(backbone_of((64, 2, 128), instructions.dtype))
    forward = NativeBackend(weights, calibrate(weights, batch_of([40, 33, 7])), instructions)
    assert not meets_denormals(forward, batch_of([length]), monkeypatch)


@each_with_integers
def test_integers_do_what_their_numbers_say(instructions: InstructionSet) -> None:
    """A sublayer whose numbers fit into integers exactly, so that only the activations are rounded."""
    backbone, batch = backbone_of((64, 2, 128), instructions.dtype), batch_of([20])
    weights, ranges = weights_of(backbone), []
    for layer in weights.layers:
        for linear in (layer.query, layer.key, layer.value, layer.attention_out, layer.up, layer.down):
            whole = torch.randint(-127, 128, linear.weight.shape)
            whole[:, 0] = 127  # the largest of each row
            with torch.no_grad():
                linear.weight.copy_(whole / 512)
        ones = torch.full((64,), 127 / 512)  # as large as the weights' columns, nearly: no smoothing to speak of
        ranges.append(ActivationRange(ones, ones, ones))
    got = NativeBackend(weights, ranges, instructions)(batch, (-1,))[0].float()
    assert torch.cosine_similarity(got, exact(backbone, batch), dim=-1).min() > 0.998


def test_not_for_every_type() -> None:
    weights = weights_of(backbone_of((64, 2, 128), torch.float16))
    assert unfit(weights) == "there is no kernel for float16"


def test_each_type_has_its_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instruction_sets, "cpu_flags", lambda: AVX2.flags | AVX512.flags)
    assert best_instruction_set(torch.float32) == AVX512F
    assert best_instruction_set(torch.float32, int8=True) == AVX512_VNNI
    assert best_instruction_set(torch.bfloat16) == best_instruction_set(torch.bfloat16, int8=True) == AVX512
    monkeypatch.setattr(instruction_sets, "cpu_flags", lambda: AVX2.flags | AVX512F.flags)  # Skylake: without VNNI
    assert best_instruction_set(torch.float32) == AVX512F
    assert best_instruction_set(torch.float32, int8=True) == AVX2
    monkeypatch.setattr(instruction_sets, "cpu_flags", lambda: AVX2_VNNI.flags)
    assert best_instruction_set(torch.float32) == AVX2
    assert best_instruction_set(torch.float32, int8=True) == AVX2_VNNI
    monkeypatch.setattr(instruction_sets, "cpu_flags", lambda: AVX2.flags)
    assert best_instruction_set(torch.float32) == best_instruction_set(torch.float32, int8=True) == AVX2
    monkeypatch.setattr(instruction_sets, "cpu_flags", lambda: frozenset({"avx2"}))
    weights = weights_of(backbone_of((64, 2, 128), torch.float32))
    assert unfit(weights) == "this CPU has none of the instruction sets for float32: avx512f, avx2"
    assert unfit(weights, int8=True) == (
        "this CPU has none of the instruction sets for float32: avx512_vnni, avx2_vnni, avx2"
    )


@pytest.mark.usefixtures("any_cpu")
@pytest.mark.parametrize("shape", [(64, 4, 128), (64, 2, 100), (80, 1, 128)])
def test_only_for_widths_that_fit(shape: tuple[int, int, int]) -> None:
    assert "is no multiple of 32" in str(unfit(weights_of(backbone_of(shape))))


@pytest.mark.usefixtures("any_cpu")
def test_integers_need_multiples_of_64() -> None:
    weights = weights_of(backbone_of((96, 1, 800)))
    assert "multiple" not in str(unfit(weights))
    assert "is no multiple of 64" in str(unfit(weights, int8=True))


@pytest.mark.usefixtures("any_cpu")
@pytest.mark.parametrize(
    "change",
    [
        lambda backbone: backbone.embeddings.word_embeddings.float(),
        lambda backbone: backbone.encoder.layer[1].output.dense.float(),
        lambda backbone: setattr(backbone.encoder.layer[1].output.LayerNorm, "bias", None),
        lambda backbone: setattr(backbone.encoder.layer[1].attention.self, "key", nn.Linear(64, 32).bfloat16()),
    ],
    ids=["table in fp32", "layer in fp32", "norm without bias", "narrow keys"],
)
def test_only_for_weights_that_are_what_they_should_be(change: Callable[[BertModel], object]) -> None:
    backbone = backbone_of((64, 2, 128))
    change(backbone)
    assert unfit(weights_of(backbone)) is not None


@native
def test_encoding_takes_it(minilm: Path) -> None:
    encoder = SentenceEncoder.from_pretrained(minilm, device="cpu", dtype="bf16")
    assert repr(encoder).endswith("backend native)")
    vectors = encoder.encode(list(CALIBRATION))
    np.testing.assert_array_equal(encoder.encode(list(CALIBRATION)), vectors)
    forced = SentenceEncoder.from_pretrained(minilm, device="cpu", dtype="bf16", backend="native")
    np.testing.assert_array_equal(forced.encode(list(CALIBRATION)), vectors)
