"""A BERT-like checkpoint loads without transformers; its model is made of the same modules once it is asked for."""

from __future__ import annotations

import copy
import gc
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from simcse import ModelError, SentenceEncoder
from simcse.encoder.backends.bert_modules import BertModules
from simcse.encoder.backends.bert_weights import KINDS
from simcse.encoder.configuration import PlainConfig
from simcse.encoder.loading import load_backbone, load_modules
from simcse.encoder.on_demand import whole_backbone
from simcse.tokens.on_demand import TokenizerOnDemand

SHAPE = {
    "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 40, "type_vocab_size": 2, "layer_norm_eps": 1e-6, "hidden_dropout_prob": 0.2,
    "attention_probs_dropout_prob": 0.3, "classifier_dropout": 0.4,
}  # fmt: skip
DISTILBERT = {
    "vocab_size": 50, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 40,
    "dropout": 0.2, "attention_dropout": 0.3, "qa_dropout": 0.4,
}  # fmt: skip
CONFIGS: list[tuple[str, dict[str, Any]]] = [
    ("bert", SHAPE),
    ("bert", SHAPE | {"pad_token_id": 7, "type_vocab_size": 3}),
    ("camembert", SHAPE),
    ("data2vec-text", SHAPE),
    ("distilbert", DISTILBERT),
    ("distilbert", DISTILBERT | {"sinusoidal_pos_embds": True, "layer_norm_eps": 1e-3}),
    ("electra", SHAPE | {"embedding_size": 16}),
    ("electra", SHAPE | {"embedding_size": 32}),
    ("ernie", SHAPE),
    ("mpnet", SHAPE | {"pad_token_id": 5}),
    ("roberta", SHAPE | {"pad_token_id": 1, "type_vocab_size": 1}),
    ("xlm-roberta", SHAPE | {"pad_token_id": 3}),
]


def save(folder: Path, kind: str = "bert", options: dict[str, Any] = SHAPE) -> Path:
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.for_model(kind, **options)).save_pretrained(folder)
    return folder


def loaded(folder: Path, **options: Any) -> BertModules:
    modules = load_modules(folder, **options)
    assert modules is not None
    return modules


def load(folder: Path, **options: Any) -> SentenceEncoder:
    encoder = SentenceEncoder.from_pretrained(folder, **{"pooling": "mean", "device": "cpu", "dtype": "fp32"} | options)
    assert isinstance(encoder.loaded, BertModules)
    return encoder


@pytest.fixture
def folder(tiny_bert: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bert, tmp_path / "model"))


def test_every_kind_is_tried() -> None:
    assert {kind for kind, _ in CONFIGS} == KINDS.keys()


@pytest.mark.parametrize("dropout", [None, 0.0])
@pytest.mark.parametrize(("kind", "options"), CONFIGS)
def test_the_backbone_is_the_one_that_transformers_loads(
    kind: str, options: dict[str, Any], dropout: float | None, tmp_path: Path
) -> None:
    save(tmp_path, kind, options)
    modules, expected = loaded(tmp_path, dropout=dropout), load_backbone(tmp_path, dropout=dropout)
    weights = dict(modules.named_parameters())
    assert list(modules.state_dict()) == list(expected.state_dict())  # fingerprints are made of them in this order
    whole = whole_backbone(modules)
    assert type(whole) is type(expected)
    assert repr(whole) == repr(expected)  # sizes, padding, eps and rates of each module
    assert whole.config.to_dict() == expected.config.to_dict()
    assert whole.name_or_path == expected.name_or_path
    assert not whole.training
    for found, right in (
        (whole.named_parameters(), expected.named_parameters()),
        (whole.named_buffers(), expected.named_buffers()),
    ):
        pairs = list(zip(found, right, strict=True))
        assert all(a == b and torch.equal(x, y) and x.requires_grad == y.requires_grad for (a, x), (b, y) in pairs)
    assert all(weight is weights[name] for name, weight in whole.named_parameters())
    ids = torch.tensor([[2, 9, 11, 30, 3], [2, 17, 3, 49, 0]])
    with torch.no_grad():
        torch.testing.assert_close(whole(ids).last_hidden_state, expected(ids).last_hidden_state, atol=0, rtol=0)


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_what_heads_and_old_files_hold_is_left_alone(tmp_path: Path) -> None:
    save(tmp_path)
    expected = loaded(tmp_path).state_dict()
    more = {"embeddings.position_ids": torch.arange(40)[None], "cls.predictions.bias": torch.zeros(50)}
    change(tmp_path, lambda weights: weights.update(more))
    found = loaded(tmp_path).state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def test_weights_in_half_precision_are_loaded_in_float32(tmp_path: Path) -> None:
    save(tmp_path)
    change(tmp_path, lambda weights: weights.update({name: weight.bfloat16() for name, weight in weights.items()}))
    found, expected = loaded(tmp_path).state_dict(), load_backbone(tmp_path).state_dict()
    assert all(found[name].dtype == torch.float32 and torch.equal(found[name], expected[name]) for name in expected)


def shard(folder: Path) -> None:
    AutoModel.from_pretrained(folder).save_pretrained(folder, max_shard_size="10KB")
    (folder / "model.safetensors").unlink(missing_ok=True)


def as_bin(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def configure(folder: Path, **entries: object) -> None:
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | entries))


def below_a_prefix(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    below = {f"bert.{name}": weight for name, weight in weights.items()}
    save_file(below, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    "edit",
    [
        shard,
        as_bin,
        below_a_prefix,
        lambda folder: configure(folder, hidden_act="relu"),
        lambda folder: configure(folder, is_decoder=True),
    ],
)
def test_what_transformers_alone_can_load(folder: Path, edit: Callable[[Path], None], sentences: list[str]) -> None:
    edit(folder)
    assert load_modules(folder) is None
    encoder = SentenceEncoder.from_pretrained(folder, pooling="mean", device="cpu", dtype="fp32")
    assert isinstance(encoder.loaded, PreTrainedModel)
    assert encoder.encode(sentences[:2]).shape == (2, encoder.dimension)


def test_what_is_wrong_is_left_to_transformers(folder: Path) -> None:
    """Which says it: `test_loading.py` and `test_formats.py` hold its errors."""
    whole = load_file(folder / "model.safetensors")
    for edit in (
        lambda weights: weights.pop("encoder.layer.1.output.dense.bias"),
        lambda weights: weights.update({"adapter.weight": torch.zeros(2)}),
        lambda weights: weights.update({"embeddings.LayerNorm.bias": torch.full((32,), torch.nan)}),
        lambda weights: weights.update({"embeddings.LayerNorm.bias": torch.zeros(31)}),
    ):
        save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
        assert load_modules(folder) is not None
        change(folder, edit)
        assert load_modules(folder) is None
    save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text("{}")
    assert load_modules(folder) is None


def test_the_same_vectors_and_fingerprint_with_and_without(folder: Path, sentences: list[str]) -> None:
    encoder, exact = load(folder), SentenceEncoder.from_pretrained(
        folder, pooling="mean", device="cpu", dtype="fp32", backend="huggingface"
    )  # fmt: skip
    assert isinstance(exact.loaded, PreTrainedModel)
    before, fingerprint, backend = encoder.encode(sentences), encoder.fingerprint, encoder.backend
    assert isinstance(encoder.loaded, BertModules)
    np.testing.assert_allclose(before, exact.encode(sentences), atol=2e-6)
    assert fingerprint == exact.fingerprint
    assert isinstance(encoder.backbone, PreTrainedModel)
    assert encoder.backbone is encoder.backbone is encoder.loaded
    assert (encoder.fingerprint, encoder.backend) == (fingerprint, backend)
    np.testing.assert_array_equal(encoder.encode(sentences), before)


def test_copies_and_pickles(folder: Path, sentences: list[str]) -> None:
    encoder = load(folder)
    expected = encoder.encode(sentences)
    for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert isinstance(other.loaded, BertModules)
        assert isinstance(other.loaded.config, PlainConfig)
        assert isinstance(other.loaded_tokenizer, TokenizerOnDemand)
        np.testing.assert_array_equal(other.encode(sentences), expected)
        assert other.backbone is not encoder.backbone
        assert other.config is not encoder.config
        assert other.tokenizer is not encoder.tokenizer
        np.testing.assert_array_equal(other.encode(sentences), expected)


def test_the_configuration_and_the_tokenizer_are_those_of_transformers_once_they_are_asked_for(folder: Path) -> None:
    encoder = load(folder)
    assert isinstance(encoder.loaded.config, PlainConfig)
    assert isinstance(encoder.config, PretrainedConfig)
    assert encoder.config is encoder.config is encoder.loaded.config
    encoder.config.simcse_note = "kept"
    assert encoder.backbone.config.simcse_note == "kept"
    assert isinstance(encoder.loaded_tokenizer, TokenizerOnDemand)
    assert isinstance(encoder.tokenizer, PreTrainedTokenizerBase)
    assert encoder.tokenizer is encoder.tokenizer is encoder.loaded_tokenizer
    encoder.tokenizer.add_tokens(["pianos"])
    assert encoder.tokenize()(["pianos"])[0] == [encoder.tokenizer("pianos")["input_ids"]]
    other = load(folder).tokenizer
    encoder.tokenizer = other
    assert encoder.tokenizer is other


def test_what_is_saved_is_the_same_with_and_without(folder: Path, tmp_path: Path) -> None:
    encoder, exact = load(folder), SentenceEncoder.from_pretrained(
        folder, pooling="mean", device="cpu", dtype="fp32", backend="huggingface"
    )  # fmt: skip
    assert isinstance(exact.loaded_tokenizer, PreTrainedTokenizerBase)
    shutil.rmtree(folder)  # what was loaded no longer needs it
    saved = [one.save_pretrained(tmp_path / name) for one, name in ((encoder, "a"), (exact, "b"))]
    names = [sorted(file.relative_to(place) for file in place.rglob("*") if file.is_file()) for place in saved]
    assert names[0] == names[1]
    for name in names[0]:
        assert (saved[0] / name).read_bytes() == (saved[1] / name).read_bytes(), name


def test_a_hook_on_a_module_counts_before_the_backbone_is_there(folder: Path, sentences: list[str]) -> None:
    encoder, called = load(folder), []
    name = "backbone.encoder.layer.1.output.dense"
    expected = encoder.encode(sentences)
    encoder.get_submodule(name).register_forward_hook(lambda *_: called.append(name))
    assert encoder.backend == "huggingface"
    np.testing.assert_allclose(encoder.encode(sentences), expected, atol=2e-6)
    assert called
    called.clear()
    encoder.backbone(torch.tensor([[2, 9, 3]]))
    assert called == [name]


def test_training_reads_the_same_weights(folder: Path, sentences: list[str]) -> None:
    encoder, exact = load(folder, dropout=0.0), load(folder, dropout=0.0)
    assert isinstance(exact.backbone, PreTrainedModel)
    before = encoder.encode(sentences)
    losses = []
    for one in (encoder, exact):
        optimizer = torch.optim.SGD(one.parameters(), lr=0.1)  # made before the backbone is
        one.train()
        for _ in range(2):
            loss = one(calibration(one)).pow(2).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(float(loss.detach()))
        one.eval()
    assert losses[0] == losses[1]
    assert np.abs(encoder.encode(sentences) - before).max() > 1e-3
    np.testing.assert_array_equal(encoder.encode(sentences), exact.encode(sentences))


def calibration(encoder: SentenceEncoder) -> Any:
    from simcse.encoder.backends.int8 import calibration_batch

    return calibration_batch(encoder.tokenize())


def test_a_file_that_changes_later_changes_nothing(folder: Path, sentences: list[str]) -> None:
    encoder, weights = load(folder), folder / "model.safetensors"
    expected = encoder.encode(sentences)
    with weights.open("r+b") as file:
        file.write(bytes(weights.stat().st_size))
    encoder.train().eval()  # prepares them anew
    np.testing.assert_array_equal(encoder.encode(sentences), expected)


def test_loading_draws_no_random_numbers(folder: Path) -> None:
    """Heads that are drawn afterwards are the same for a seed, whichever way the backbone came."""
    state = torch.get_rng_state()
    assert isinstance(load(folder).backbone, nn.Module)
    assert torch.equal(torch.get_rng_state(), state)


SLOW = (
    "transformers", "huggingface_hub", "httpx", "torch._dynamo", "torch.distributed.tensor", "accelerate", "sympy",
    "scipy", "faiss", "datasets", "onnxruntime",
)  # fmt: skip
FIRST_VECTOR = "from simcse import SentenceEncoder; SentenceEncoder.from_pretrained({0!r}).encode('A first text.')"
COMMAND = "from simcse.cli import main; assert main(['encode', '--model', {0!r}, '--device', 'cpu']) == 0"


@pytest.mark.parametrize("code", [FIRST_VECTOR, COMMAND])
def test_the_first_vector_needs_no_slow_import(minilm: Path, code: str) -> None:
    code = f"{code.format(str(minilm))}; import sys; print([m for m in {SLOW} if m in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], input=b"A first text.\n", capture_output=True, check=True)
    assert done.stderr.decode().splitlines()[-1] == "[]"


@pytest.mark.parametrize("collects", [True, False])
def test_loading_leaves_the_collector_of_garbage_as_it_was(folder: Path, collects: bool) -> None:
    (gc.enable if collects else gc.disable)()
    try:
        load(folder)
        assert gc.isenabled() == collects
        (folder / "model.safetensors").write_bytes(b"")
        with pytest.raises(ModelError):
            load(folder)
        assert gc.isenabled() == collects
    finally:
        gc.enable()
