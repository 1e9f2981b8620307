"""What config.json, weights and tokenizer say is compared before it is believed."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import build_encoder

from simcse import ConfigError, ModelError, SentenceEncoder
from simcse.encoder.loading import left_over

Change = Callable[[Path], None]


def load(folder: Path, **options: Any) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(folder, device="cpu", dtype="fp32", **options)


@pytest.fixture
def folder(tiny_bert: Path, tmp_path: Path) -> Path:
    """A plain Hugging Face folder of one's own: nothing says which files belong to it."""
    return Path(shutil.copytree(tiny_bert, tmp_path / "model"))


def change(file: Path, **entries: object) -> None:
    """Set entries of a JSON file; Ellipsis takes one away."""
    content = json.loads(file.read_text()) | entries
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def change_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_fewer_layers_than_the_weights_have(folder: Path) -> None:
    change(folder / "config.json", num_hidden_layers=1)
    with pytest.raises(ModelError, match=r"16 weights have no place .*bert, 1 layers.*'encoder\.layer\.1\.attention"):
        load(folder)


def test_weights_that_belong_to_nothing(folder: Path) -> None:
    change_weights(folder, lambda weights: weights.update({"adapter.weight": torch.zeros(2, 2)}))
    with pytest.raises(ModelError, match=r"1 weights have no place .*'adapter\.weight'"):
        load(folder)


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_heads_of_other_tasks_are_left_alone(folder: Path, prefix: str, sentences: list[str]) -> None:
    expected = load(folder).encode(sentences)
    names = ["cls.predictions.bias", "classifier.weight", "lm_head.bias", "mlp.dense.weight", f"{prefix}pooler.x"]
    weights = {f"{prefix}{key}": value for key, value in load_file(folder / "model.safetensors").items()}
    weights |= {name: torch.zeros(3) for name in names}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    np.testing.assert_array_equal(load(folder).encode(sentences), expected)


def test_buffers_that_were_saved_once_are_no_weights(folder: Path) -> None:
    """As checkpoints of years ago have them; some versions of transformers report them, others do not."""
    backbone = load(folder).backbone
    found = left_over(backbone, ["embeddings.position_ids", "cls.predictions.bias", "embeddings.other.weight"])
    assert found == ["embeddings.other.weight"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers(folder: Path, value: float) -> None:
    def edit(weights: dict[str, torch.Tensor]) -> None:
        weights["encoder.layer.1.output.dense.weight"][3, 4] = value

    change_weights(folder, edit)
    name = r"encoder\.layer\.1\.output\.dense\.weight"
    with pytest.raises(ModelError, match=rf"1 of 2048 numbers of {name} are NaN or infinite"):
        load(folder)


def test_large_weights_whose_sum_overflows_are_numbers(folder: Path) -> None:
    change_weights(folder, lambda weights: weights["embeddings.position_embeddings.weight"].fill_(3e38))
    load(folder)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"num_hidden_layers": 10**6}, r"'num_hidden_layers' is 1000000, expected at most 1000"),
        ({"num_hidden_layers": 0}, r"'num_hidden_layers' is 0, expected at least 1"),
        ({"num_hidden_layers": -1}, r"'num_hidden_layers' is -1, expected at least 1"),
        ({"num_attention_heads": -1}, r"'num_attention_heads' is -1, expected at least 1"),
        ({"num_attention_heads": 0}, r"'num_attention_heads' is 0"),
        ({"hidden_size": 10**9}, r"config\.json"),
        ({"hidden_size": 10**5}, r"config\.json describes [\d,]{14,} of them, their files hold [\d,]+ bytes"),
        ({"hidden_size": 0}, r"'hidden_size' is 0"),
        ({"intermediate_size": 10**9}, r"config\.json describes"),
        ({"intermediate_size": -1}, r"config\.json: describes no model"),
        ({"max_position_embeddings": 10**9}, r"config\.json describes"),
        ({"vocab_size": 10**9}, r"config\.json describes"),
        ({"vocab_size": 10}, r"weights cannot be loaded"),
        ({"hidden_size": "32"}, r"config\.json: not a model configuration"),
        ({"model_type": ...}, r"config\.json: 'model_type' is missing, expected a text"),
        ({"model_type": "nonsense"}, r"config\.json: not a model configuration"),
        ({"hidden_dropout_prob": 5}, r"config\.json: describes no model"),
        ({"quantization_config": {"quant_method": "fp8"}}, r"weights are quantised"),
    ],
)
def test_sizes_are_held_against_the_weights(folder: Path, entries: dict[str, Any], message: str) -> None:
    """Before anything is built or allocated: a million layers would take hours, 10^9 features all memory."""
    change(folder / "config.json", **entries)
    with pytest.raises(ModelError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "entries",
    [
        {"_attn_implementation": "owner/kernel"},
        {"attn_implementation": "owner/kernel"},
        {"_attn_implementation_internal": "owner/kernel"},
        {"_attn_implementation": {"": "owner/kernel"}, "use_kernels": True, "kernel_config": {"a": "b/c:D"}},
        {"_experts_implementation": "owner/kernel", "allow_all_kernels": True},
        {"auto_map": {"AutoConfig": "owner/code--evil.Config", "AutoModel": "evil.Model"}, "trust_remote_code": True},
        {"transformers_weights": "../elsewhere.safetensors"},
        {"num_labels": 10**12},
        {"return_dict": False, "output_attentions": True, "dtype": "load"},
    ],
)
def test_a_configuration_has_no_say_in_whose_code_runs(
    folder: Path, sentences: list[str], entries: dict[str, Any]
) -> None:
    expected = load(folder).encode(sentences)
    (folder / "evil.py").write_text("raise SystemExit('code of a checkpoint ran')\n")
    change(folder / "config.json", **entries)
    encoder = load(folder)
    np.testing.assert_array_equal(encoder.encode(sentences), expected)
    assert encoder.backbone.config._attn_implementation in ("sdpa", "eager")
    saved = json.loads((encoder.save_pretrained(folder.parent / "saved") / "config.json").read_text())
    assert "owner" not in json.dumps(saved)
    assert "kernels" not in sys.modules


def test_a_tokenizer_of_another_checkpoint(folder: Path) -> None:
    """Its last tokens have no embedding: an IndexError, as soon as one of them comes up in a text."""
    change_weights(folder, lambda weights: weights.update(
        {"embeddings.word_embeddings.weight": weights["embeddings.word_embeddings.weight"][:100].clone()}
    ))  # fmt: skip
    change(folder / "config.json", vocab_size=100)
    with pytest.raises(ModelError, match=r"the tokenizer counts its tokens up to 144, .* embeddings up to 99"):
        load(folder)


@pytest.mark.parametrize("longest", [0, -3, "64", [64], True])
def test_a_tokenizer_that_takes_no_text(folder: Path, longest: object) -> None:
    change(folder / "tokenizer_config.json", model_max_length=longest)
    with pytest.raises(ModelError, match=r"'model_max_length' is|no usable tokenizer"):
        load(folder)


def test_the_sum_of_weights_of_roberta(tmp_path: Path, sentences: list[str]) -> None:
    """The limit on sizes must not refuse a model that shares weights or keeps them in half precision."""
    folder = build_encoder(tmp_path / "roberta", kind="roberta")
    half = {key: value.half() for key, value in load_file(folder / "model.safetensors").items()}
    save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
    assert np.isfinite(load(folder).encode(sentences)).all()


@pytest.mark.parametrize("name", [None, 3, b"bert-base-uncased"])
def test_a_name_that_is_none(name: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"name: found .*, expected a folder, a hub id, or package:NAME of an encoder"
    ):
        SentenceEncoder.from_pretrained(name)


def test_a_run_is_loaded_by_its_best(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "log.jsonl").write_text("")
    with pytest.raises(ModelError, match=r"run: a run without best/ yet; wait for its first evaluation"):
        load(run)
    shutil.copytree(folder, run / "best")
    np.testing.assert_array_equal(load(run).encode(["a man"]), load(folder).encode(["a man"]))
    assert [record.getMessage() for record in caplog.records] == [f"{run} is a run: its best/ is loaded"]
    several = tmp_path / "several"
    shutil.copytree(folder, several / "seed-42" / "best")
    with pytest.raises(ModelError, match=r"several: a run of 1 seeds, expected one encoder; name one, such as .*best"):
        load(several)
