"""A plain config.json is taken as it is, where transformers' configuration would say the same and object to nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, PretrainedConfig

from simcse import ModelError
from simcse.encoder.backends.bert_modules import BertModules
from simcse.encoder.configuration import NEEDED, PlainConfig, read_config, whole_config

SHAPE = {
    "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 40, "type_vocab_size": 3, "layer_norm_eps": 1e-6, "hidden_dropout_prob": 0.2,
    "attention_probs_dropout_prob": 0.3, "pad_token_id": 7,
}  # fmt: skip
DISTILBERT = {
    "vocab_size": 50, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 40,
    "dropout": 0.2, "attention_dropout": 0.3, "qa_dropout": 0.4, "pad_token_id": 7,
}  # fmt: skip
OF_KIND: dict[str, dict[str, Any]] = {"distilbert": DISTILBERT, "electra": SHAPE | {"embedding_size": 16}}
MINILM = {  # as transformers 4 wrote them
    **SHAPE, "_name_or_path": "nreimers/MiniLM-L6-H384-uncased", "architectures": ["BertModel"], "hidden_act": "gelu",
    "gradient_checkpointing": False, "initializer_range": 0.02, "model_type": "bert", "torch_dtype": "float32",
    "position_embedding_type": "absolute", "transformers_version": "4.8.2", "use_cache": True,
    "classifier_dropout": None, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0},
}  # fmt: skip


def write(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    (folder / "config.json").write_text(json.dumps(settings))
    return settings


@pytest.mark.parametrize("kind", NEEDED)
def test_what_transformers_writes_is_plain(kind: str, tmp_path: Path) -> None:
    AutoConfig.for_model(kind, **OF_KIND.get(kind, SHAPE)).save_pretrained(tmp_path)
    check_plain(tmp_path)


def test_what_older_versions_wrote_is_plain(tmp_path: Path) -> None:
    write(tmp_path, MINILM)
    check_plain(tmp_path)


def check_plain(folder: Path) -> None:
    plain = read_config(folder)
    assert isinstance(plain, PlainConfig)
    whole = whole_config(plain)
    settings = json.loads((folder / "config.json").read_text())
    expected = AutoConfig.for_model(**{key: settings[key] for key in ("model_type", *plain.settings)})
    assert whole.to_dict() == expected.to_dict()
    told = {name: value for name, value in vars(plain).items() if name not in ("settings", "file")}
    assert told == {name: getattr(expected, name) for name in told}
    assert repr(BertModules(plain)) == repr(BertModules(whole))
    assert whole_config(whole) is whole


@pytest.mark.parametrize(
    "entries",
    [
        {"pad_token_id": None}, {"classifier_dropout": 0}, {"hidden_dropout_prob": 0}, {"some_entry": 1},
        {"rope_theta": 10000.0}, {"is_encoder_decoder": False}, {"model_type": "roberta"},
        {"architectures": [1]}, {"architectures": "BertModel"}, {"transformers_version": 4},
    ],
)  # fmt: skip
def test_of_all_else_transformers_makes_its_own_at_once(entries: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path, MINILM | entries)
    assert isinstance(read_config(tmp_path), PretrainedConfig)


@pytest.mark.parametrize("key", [*NEEDED["bert"]])
def test_an_entry_that_is_not_there_has_the_value_of_transformers(key: str, tmp_path: Path) -> None:
    write(tmp_path, {name: value for name, value in MINILM.items() if name != key})
    config: Any = read_config(tmp_path)
    assert isinstance(config, PretrainedConfig)
    assert getattr(config, key) is not None


@pytest.mark.parametrize(
    "entries",
    [
        {"vocab_size": 50.5}, {"vocab_size": "50"}, {"vocab_size": 0}, {"hidden_size": -32}, {"hidden_act": 1},
        {"use_cache": "yes"}, {"initializer_range": None}, {"layer_norm_eps": "1e-12"}, {"num_hidden_layers": None},
        {"hidden_dropout_prob": "0.1"}, {"bos_token_id": "1"}, {"is_decoder": 0.5},
    ],
)  # fmt: skip
def test_what_transformers_objects_to_is_still_an_error(entries: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path, MINILM | entries)
    with pytest.raises(ModelError, match=rf"config\.json: .*{next(iter(entries))}"):
        read_config(tmp_path)
