"""Which backend computes, each of them forced, and weights that are prepared once until one changes."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AlbertConfig, AlbertModel, RoFormerConfig, RoFormerModel

from simcse import ConfigError, SentenceEncoder
from simcse.encoder.backends.base import Backend
from simcse.encoder.backends.cpu_features import INT8_PRODUCTS, has_int8_products
from simcse.encoder.backends.native import binding
from simcse.encoder.backends.native.instruction_sets import best_instruction_set
from simcse.encoder.backends.select import BACKENDS, choose_backend, prepared_backend, training_pass
from simcse.encoder.export.onnx import export_onnx
from simcse.encoder.pooling import POOLINGS
from simcse.tokens.batch import TokenBatch


def load(folder: Path, **options: str) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(folder, pooling="mean", device="cpu", **{"dtype": "fp32", **options})


def prepared(encoder: SentenceEncoder) -> Backend:
    calibration = TokenBatch.from_lists([[2, 9, 11, 3]])
    return prepared_backend(encoder.backbone, encoder.asked_backend, lambda: calibration)


def missing(backend: str, fixture: str) -> str | None:
    """What this machine lacks for a backend of a model."""
    kernel = fixture == "minilm" and binding.load_kernel(best_instruction_set(torch.float32, int8=True)) is not None
    if backend == "int8" and not has_int8_products() and not kernel:  # whose blocks divide no other's widths
        return f"int8 needs a CPU with one of {', '.join(sorted(INT8_PRODUCTS))}"
    if backend == "cuda_varlen":
        return "cuda_varlen needs a CUDA device; test_cuda_varlen.py runs it on the CPU"
    if backend == "native" and binding.load_kernel(best_instruction_set()) is None:
        return "native needs a CPU with AMX or AVX512-BF16, and a C++ compiler"
    return None


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("fixture", ["tiny_bert", "tiny_roberta", "minilm"])
def test_each_backend_forced_gives_the_vectors_of_the_backbones_own(
    backend: str, fixture: str, sentences: list[str], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if reason := missing(backend, fixture):
        pytest.skip(reason)
    if backend == "native" and fixture != "minilm":  # the kernel's blocks divide the widths of MiniLM alone
        return
    folder = request.getfixturevalue(fixture)
    exact = load(folder, backend="huggingface")
    if backend == "onnx":
        folder = exact.save_pretrained(tmp_path / "exported")
        export_onnx(exact, folder)
    encoder = load(folder, backend=backend, dtype="bf16" if backend == "native" else "fp32")
    assert isinstance(prepared(encoder).name, str)
    cosines = (exact.encode(sentences) * encoder.encode(sentences)).sum(1)
    assert cosines.min() > {"native": 0.999, "int8": 0.98}.get(backend, 0.99999)


def test_one_that_cannot_compute_the_model_is_an_error(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ConfigError, match=r"^backend 'cuda' is not one of auto, huggingface, torch, native, int8, onnx, cuda_varlen$"
    ):
        load(tiny_bert, backend="cuda")
    with pytest.raises(ConfigError, match=r"^backend is native, but there is no kernel for float16; take backend auto"):
        load(tiny_bert, backend="native", dtype="fp16")
    monkeypatch.setattr("simcse.encoder.backends.native.instruction_sets.cpu_flags", frozenset)
    with pytest.raises(ConfigError, match=r"^backend is native, but this CPU has none of the instruction sets for"):
        load(tiny_bert, backend="native", dtype="bf16")
    backbone = load(tiny_bert).backbone
    backbone.encoder.layer[0].register_forward_hook(lambda module, inputs, output: output)
    with pytest.raises(
        ConfigError, match=r"^backend is torch, but this bert has a hook on encoder.layer.0; take backend auto$"
    ):
        choose_backend(backbone, "torch")


def test_the_name_of_an_encoder_says_what_computes(tiny_bert: Path) -> None:
    text = repr(load(tiny_bert, backend="huggingface"))
    assert text.startswith(f"SentenceEncoder({str(tiny_bert)!r}, dimension 32, pooling mean, max_length 64, ")
    assert text.endswith("float32 on cpu, backend huggingface)")
    encoder = load(tiny_bert)
    assert repr(encoder).endswith("backend torch)")
    assert (encoder.asked_backend, encoder.backend) == ("auto", "torch")
    encoder.asked_backend = "native"  # for which the weights are too small, or fp32 has no kernel
    assert repr(encoder).endswith("backend native, which cannot compute it here)")
    with pytest.raises(ConfigError, match="backend is native, but "):
        encoder.backend  # noqa: B018


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_weights_are_prepared_once(tiny_bert: Path, sentences: list[str], dtype: str) -> None:
    encoder = load(tiny_bert, dtype=dtype)
    first = encoder.encode(sentences)
    backend = prepared(encoder)
    assert prepared(encoder) is backend
    np.testing.assert_array_equal(encoder.encode(sentences), first)
    assert prepared(encoder.to("cpu")) is backend
    encoder.asked_backend = "huggingface"
    assert prepared(encoder).name == "huggingface"


def test_threads_share_what_one_of_them_prepares(tiny_bert: Path) -> None:
    encoder, found = load(tiny_bert), []
    threads = [threading.Thread(target=lambda: found.append(prepared(encoder))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(map(id, found))) == 1


def test_a_weight_at_the_address_of_an_old_one_is_another(tiny_bert: Path, sentences: list[str]) -> None:
    """Through bf16 and back: the allocator likes to hand out the addresses that were just freed."""
    encoder = load(tiny_bert)
    addresses = {weight.data_ptr() for weight in encoder.backbone.parameters()}
    first = encoder.encode(sentences)
    encoder.backbone.to(torch.bfloat16).to(torch.float32)  # behind the encoder's back
    assert not addresses & {weight.data_ptr() for weight in encoder.backbone.parameters()}
    assert 0 < np.abs(encoder.encode(sentences) - first).max() < 0.05


def test_prepared_weights_are_freed(tiny_bert: Path, sentences: list[str]) -> None:
    for end in ("train", "to", "copy and delete"):
        encoder = load(tiny_bert)
        encoder.encode(sentences[:2])
        backend = weakref.ref(prepared(encoder))
        if end == "train":
            encoder.train()
        elif end == "to":
            encoder.to(torch.float64)
        else:
            other = copy.deepcopy(encoder)  # which ctypes structs and locks would forbid
            other.encode(sentences[:2])
            del encoder
        gc.collect()
        assert backend() is None, end


def test_changed_weights_are_seen(tiny_bert: Path, sentences: list[str]) -> None:
    """By an optimizer, in place, by new storage, a new parameter, a loaded state, another dtype, another module."""
    encoder, many = load(tiny_bert), sentences * 40
    first = encoder.encode(many)
    state = {key: value.clone() for key, value in encoder.state_dict().items()}

    def unlike(before: np.ndarray) -> np.ndarray:
        now = encoder.encode(many)
        assert np.abs(now - before).max() > 1e-3
        alone = np.stack([encoder.encode(text) for text in sentences[:4]])
        np.testing.assert_allclose(alone, now[:4], atol=1e-5)
        return now

    encoder(TokenBatch.from_lists(encoder.tokenize()(sentences)[0])).pow(3).sum().backward()
    torch.optim.SGD(encoder.parameters(), lr=1e-3).step()  # a larger one drowns the changes below
    now = unlike(first)
    layers = encoder.backbone.encoder.layer
    with torch.no_grad():
        layers[0].output.dense.weight.mul_(-3)
    now = unlike(now)
    layers[1].attention.self.value.weight.data = torch.randn(32, 32)
    now = unlike(now)
    layers[1].output.LayerNorm.weight = nn.Parameter(torch.randn(32))
    now = unlike(now)
    layers[0].register_forward_hook(lambda module, inputs, output: -output)
    now = unlike(now)
    layers[0]._forward_hooks.clear()
    encoder.load_state_dict(state)
    np.testing.assert_allclose(encoder.encode(many), first, atol=1e-6)
    half = encoder.to(torch.bfloat16).encode(many)
    assert 0 < np.abs(half - first).max() < 0.05


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("trained", ["encoder", "backbone"])
def test_steps_of_a_fused_optimizer_are_seen(tiny_bert: Path, sentences: list[str], dtype: str, trained: str) -> None:
    """They change weights and not their versions; evaluated in the middle of training, in training mode."""
    encoder = SentenceEncoder.from_pretrained(tiny_bert, device="cpu", dtype=dtype)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=0.02, fused=True)
    batch = TokenBatch.from_lists(encoder.tokenize()(sentences)[0])
    encoder.train(trained == "encoder")
    for _ in range(3):
        encoder.backbone.train()
        encoder(batch).pow(3).sum().backward()
        optimizer.step()
        expected = copy.deepcopy(encoder).eval().encode(sentences)
        np.testing.assert_array_equal(encoder.encode(sentences), expected)


def test_weights_made_in_inference_mode_have_no_version(tiny_bert: Path, sentences: list[str]) -> None:
    with torch.inference_mode():
        encoder = load(tiny_bert)
        first = encoder.encode(sentences)
        encoder.backbone.encoder.layer[0].output.dense.weight.mul_(-3)
        assert np.abs(encoder.encode(sentences) - first).max() > 1e-3


def test_evaluation_mode_while_it_encodes(tiny_bert: Path, sentences: list[str]) -> None:
    """Dropout never reaches a vector, whichever of the modules is in training mode and whatever computes."""
    for backend in ("huggingface", "torch"):
        encoder = load(tiny_bert, backend=backend)
        first = encoder.encode(sentences)
        encoder.backbone.train()
        np.testing.assert_array_equal(encoder.encode(sentences), first)
        encoder.train()
        np.testing.assert_array_equal(encoder.encode(sentences), first)
        assert encoder.training
        assert encoder.backbone.training


def test_training_takes_the_backbones_own_pass_if_it_is_told_to(tiny_bert: Path) -> None:
    backbone = load(tiny_bert).backbone.train()
    batch = TokenBatch.from_lists([[2, 9, 11, 3]])
    states = []
    for backend in ("huggingface", "auto"):
        torch.manual_seed(0)
        states.append(training_pass(backbone, backend)(batch, (-1,))[0])
    torch.manual_seed(0)
    own = backbone(input_ids=batch.ids[None]).last_hidden_state[0]
    assert torch.equal(states[0], own)
    assert not torch.equal(states[1], own)  # which draws other numbers for its masks


def test_gradients_are_not_lost_in_evaluation_mode(tiny_bert: Path) -> None:
    encoder = load(tiny_bert)
    encoder(TokenBatch.from_lists([[2, 9, 11, 7, 3], [2, 8, 12, 3]])).sum().backward()
    grad = encoder.backbone.encoder.layer[0].output.dense.weight.grad
    assert grad is not None
    assert grad.abs().sum() > 0


@pytest.mark.parametrize("kind", ["albert", "roformer"])
def test_other_architectures_take_their_own_forward(kind: str, tiny_bert: Path, sentences: list[str]) -> None:
    shape = {"vocab_size": 200, "max_position_embeddings": 64}
    bert = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    backbone = {
        "albert": lambda: AlbertModel(AlbertConfig(embedding_size=16, **bert, **shape)),
        "roformer": lambda: RoFormerModel(RoFormerConfig(**bert, **shape)),
    }[kind]()
    backbone.eval()
    assert choose_backend(backbone) == "huggingface"
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
    assert choose_backend(backbone) == "huggingface"
