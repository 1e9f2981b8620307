"""The kernel for AMX against plain torch, and what happens where it cannot be had."""

from __future__ import annotations

import ctypes
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from simcse import SentenceEncoder
from simcse.encoder.backbone import own_states
from simcse.encoder.backends.bert_weights import read_parts
from simcse.encoder.backends.int8 import CALIBRATION, quantized
from simcse.encoder.backends.native import binding as amx
from simcse.encoder.backends.native.binding import AmxLayers, Integers, amx_layers
from simcse.encoder.backends.native.compile import compiled
from simcse.encoder.backends.torch_packed import pack
from simcse.tokens.batch import TokenBatch

tiles = pytest.mark.skipif(amx.kernel() is None, reason="needs a CPU with AMX and a C++ compiler")
needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
SHAPES = [(64, 2, 128), (128, 2, 96), (96, 1, 800), (192, 6, 64)]  # width, heads, inner


def backbone_of(shape: tuple[int, int, int]) -> BertModel:
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
    return backbone.to(torch.bfloat16)


def batch_of(lengths: list[int], seed: int = 0) -> TokenBatch:
    rng = np.random.default_rng(seed)
    return TokenBatch.from_lists([rng.integers(1, 50, length).tolist() for length in lengths])


def by_kernel(backbone: BertModel, batch: TokenBatch, *, cls_only: bool = False) -> Tensor:
    forward = pack(backbone, tiles=True)
    assert forward is not None
    assert forward.kernel is not None
    return forward(batch, (-1,), cls_only=cls_only)[0]


def exact(backbone: BertModel, batch: TokenBatch) -> Tensor:
    """The same weights in float32, by Hugging Face's own forward pass."""
    other = BertModel(backbone.config, add_pooling_layer=False).eval()
    other.load_state_dict(backbone.state_dict())
    with torch.no_grad():
        return own_states(other, batch, (-1,))[0]


@tiles
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("lengths", [[1], [5, 5, 5], [31, 32, 33, 1, 64, 7], [400, 20, 513, 3], [7] * 120])
def test_close_to_the_exact_states(shape: tuple[int, int, int], lengths: list[int]) -> None:
    backbone, batch = backbone_of(shape), batch_of(lengths)
    expected, got = exact(backbone, batch), by_kernel(backbone, batch)
    assert torch.cosine_similarity(got.float(), expected, dim=-1).min() > 0.9995
    assert torch.equal(by_kernel(backbone, batch, cls_only=True), got[batch.starts])


@tiles
def test_nearer_to_the_exact_states_than_torch_in_bfloat16() -> None:
    backbone, batch = backbone_of((128, 4, 512)), batch_of([30] * 40)
    plain = pack(backbone)
    assert plain is not None
    expected = exact(backbone, batch)
    off = [float((states.float() - expected).norm()) for states in (by_kernel(backbone, batch), plain(batch, (-1,))[0])]
    assert off[0] <= 0.8 * off[1]  # sums stay in float32 until they are normalised


@tiles
@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 130), min_size=1, max_size=12), data=st.data())
def test_neighbours_change_nothing(lengths: list[int], data: st.DataObject) -> None:
    backbone, batch = backbone_of((64, 2, 128)), batch_of(lengths)
    one = data.draw(st.integers(0, len(lengths) - 1))
    start = int(batch.starts[one])
    together = by_kernel(backbone, batch)[start : start + lengths[one]]
    assert torch.equal(together, by_kernel(backbone, batch.select(one, one + 1)))


@tiles
def test_all_layers_are_to_be_had() -> None:
    backbone, batch = backbone_of((64, 2, 128)), batch_of([9, 4])
    forward, plain = pack(backbone, tiles=True), pack(backbone)
    assert forward is not None
    assert plain is not None
    for layers in ((0, 1, 2), (-2, -1)):
        for got, expected in zip(forward(batch, layers), plain(batch, layers), strict=True):
            torch.testing.assert_close(got, expected, atol=0.1, rtol=0.05)


@tiles
def test_ids_beyond_the_table() -> None:
    forward = pack(backbone_of((64, 2, 128)), tiles=True)
    assert forward is not None
    for ids in ([3, 50], [-1, 3], list(range(50)) * 13):
        with pytest.raises(IndexError, match="of a table of"):
            forward(TokenBatch.from_lists([ids]), (-1,))


@tiles
def test_scores_of_any_size() -> None:
    backbone = backbone_of((64, 2, 128))
    with torch.no_grad():
        for layer in backbone.encoder.layer:
            layer.attention.self.query.weight.mul_(300)  # all weight on one key, its score in the thousands
    batch = batch_of([40, 3])
    states = by_kernel(backbone, batch)
    assert states.isfinite().all()
    cosine = torch.cosine_similarity(states.float(), exact(backbone, batch), dim=-1)
    assert cosine.median() > 0.99  # where two keys are near each other, rounding decides


@tiles
@pytest.mark.parametrize(
    "name", ["query.weight", "key.bias", "value.weight", "output.dense.bias", "intermediate.dense.weight"]
)
def test_a_damaged_weight_shows(name: str) -> None:
    backbone = backbone_of((64, 2, 128))
    damaged = next(weight for key, weight in backbone.named_parameters() if key.endswith(name))
    with torch.no_grad():
        damaged.view(-1)[3] = float("nan")
    assert by_kernel(backbone, batch_of([12])).isnan().any()


@tiles
@pytest.mark.parametrize("shape", [(64, 2, 128), (128, 2, 832)])
def test_integers_are_near(shape: tuple[int, int, int]) -> None:
    backbone, batch = backbone_of(shape), batch_of([40, 33, 7])
    forward = quantized(backbone, batch, 64)
    assert forward is not None
    assert forward.kernel is not None
    assert not forward.layers
    cosine = torch.cosine_similarity(forward(batch, (-1,))[0].float(), exact(backbone, batch), dim=-1)
    assert cosine.min() > 0.998


@tiles
def test_integers_do_what_their_numbers_say() -> None:
    """A half whose numbers fit into integers exactly, so that only the activations are rounded."""
    backbone, batch = backbone_of((64, 2, 128)), batch_of([20])
    parts = read_parts(backbone)
    assert parts is not None
    halves = []
    for block in parts.blocks:
        up, down = torch.randint(-127, 128, (128, 64)), torch.randint(-127, 128, (64, 128))
        scale, zero = 255 / 8, 6.0
        bias = down.float().sum(1) * -zero / (scale * 1000)
        halves.append(
            Integers(torch.ones(64), up.to(torch.int8), torch.full((128,), 1 / 500), (scale, zero), down.to(torch.int8),
                     torch.full((64,), 1 / (scale * 1000)), block.down.bias.float() + bias)
        )  # fmt: skip
        with torch.no_grad():
            block.up.weight.copy_(up / 500)
            block.down.weight.copy_(down / 1000)
    layers = amx_layers(parts, halves)
    assert layers is not None
    got = layers(batch)[-1].float()
    assert torch.cosine_similarity(got, exact(backbone, batch), dim=-1).min() > 0.998


@tiles
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_only_for_bfloat16(dtype: torch.dtype) -> None:
    parts = read_parts(backbone_of((64, 2, 128)).to(dtype))
    assert parts is not None
    assert amx_layers(parts) is None


@tiles
@pytest.mark.parametrize("shape", [(64, 4, 128), (64, 2, 100), (80, 1, 128)])
def test_only_for_widths_that_fit(shape: tuple[int, int, int]) -> None:
    parts = read_parts(backbone_of(shape))
    assert parts is not None
    assert amx_layers(parts) is None


@tiles
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
    parts = read_parts(backbone)
    assert parts is not None
    assert amx_layers(parts) is None


@tiles
def test_encoding_takes_it(minilm: Path, sentences: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = SentenceEncoder.from_pretrained(minilm, device="cpu", dtype="bf16")
    runs: list[int] = []
    run = AmxLayers.__call__

    def counted(self: AmxLayers, *args: object, **options: object) -> list[Tensor]:
        runs.append(1)
        return run(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(AmxLayers, "__call__", counted)
    free = encoder.encode(list(CALIBRATION))
    held = encoder.hold().encode(list(CALIBRATION))
    assert len(runs) >= 2
    np.testing.assert_array_equal(free, held)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A process that has compiled nothing yet, with an empty cache folder, on any CPU."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    amx.kernel.cache_clear()
    yield tmp_path / "simcse"
    amx.kernel.cache_clear()


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_without_a_compiler_torch_does_the_work(
    compiler: str, fresh: Path, minilm: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setattr(amx, "cpu_flags", lambda: amx.NEEDED)
    with caplog.at_level(logging.INFO, "simcse"):
        vectors = SentenceEncoder.from_pretrained(minilm, device="cpu", dtype="bf16").encode(["a", "b"] * 100)
    assert vectors.shape == (200, 384)
    assert f"{compiler} cannot compile layer.cpp: encoding by torch alone" in caplog.text
    assert not list(fresh.iterdir())


def test_a_library_that_the_system_cannot_load(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What a compiler for another machine would leave."""
    compiler = tmp_path / "compiler"
    compiler.write_text('#!/bin/sh\nfor out; do :; done\nprintf "\\177ELF" > "$out"\n', encoding="utf-8")
    compiler.chmod(0o700)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setattr(amx, "cpu_flags", lambda: amx.NEEDED)
    with caplog.at_level(logging.INFO, "simcse"):
        assert amx.kernel() is None
    (library,) = fresh.iterdir()
    assert library.read_bytes() == b"\x7fELF"
    assert f"{library}: " in caplog.text


@needs_compiler
def test_the_kernel_compiles_on_any_cpu(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = compiled(amx.SOURCES, amx.OPTIONS)
    assert path is not None
    library = ctypes.CDLL(str(path))
    for name in ("run_layer", "embed", "pack_weight", "scratch_bytes", "allow_tiles"):
        assert getattr(library, name)


def test_a_cache_folder_of_somebody_else_changes_no_vector(
    fresh: Path, tmp_path: Path, minilm: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = SentenceEncoder.from_pretrained(minilm, device="cpu", dtype="bf16")
    texts = list(CALIBRATION)
    monkeypatch.setattr(amx, "cpu_flags", frozenset)
    expected = encoder.encode(texts)
    amx.kernel.cache_clear()
    fresh.symlink_to(tmp_path)
    monkeypatch.setattr(amx, "cpu_flags", lambda: amx.NEEDED)
    with caplog.at_level(logging.INFO, "simcse"):
        np.testing.assert_array_equal(encoder.encode(texts), expected)
        np.testing.assert_array_equal(encoder.encode(texts), expected)
    (line,) = [record.getMessage() for record in caplog.records if "torch alone" in record.getMessage()]
    assert line.startswith(f"{fresh} is a link, so no library is loaded from it")
    assert "XDG_CACHE_HOME" in line


def test_no_kernel_on_other_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amx, "cpu_flags", frozenset)
    amx.kernel.cache_clear()
    assert amx.kernel() is None
    amx.kernel.cache_clear()
