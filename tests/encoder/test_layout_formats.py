"""What a folder says about itself, entry by entry; folders of packages and of the hub."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_hub import serving_hub
from safetensors.torch import load_file
from transformers.utils import logging as transformers_logging

from simcse import ModelError, SentenceEncoder
from simcse.encoder.formats import read_layout, resolve
from simcse.encoder.loading import load_backbone
from simcse.encoder.quiet import quiet_transformers


def load(folder: str | Path, **options: Any) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(folder, device="cpu", dtype="fp32", **options)


@pytest.fixture
def ours(tiny_bert: Path, tmp_path: Path) -> Path:
    return load(tiny_bert, pooling="mean").save_pretrained(tmp_path / "ours")


def edit(file: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(file.read_text())
    file.write_text(json.dumps(change(content) or content))


OURS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "no pooling": (lambda all: all.pop("pooling"), "'pooling' is missing; the checkpoint is incomplete"),
    "no prompts": (lambda all: all.pop("prompts"), "'prompts' is missing; the checkpoint is incomplete"),
    "another pooling": (lambda all: all.update(pooling="max"), 'pooling "max" is not one of '),
    "digests of no file": (lambda all: all["sha256"].update(x=5), r"'sha256' holds \{.*, expected a sum for each file"),
    "a newer format": (lambda all: all.update(format=3), "found format version 3, this program knows 2"),
    "no format": (lambda all: all.update(format=0), "found format version 0, expected 1 to 2"),
}


@pytest.mark.parametrize("name", OURS)
def test_entries_of_our_own_file(ours: Path, name: str) -> None:
    change, told = OURS[name]
    edit(ours / "simcse.json", lambda content: change(content) and None)
    with pytest.raises(ModelError, match=rf"ours/simcse\.json: .*{told}"):
        read_layout(ours)


def test_format_1_had_fewer_entries(ours: Path) -> None:
    later = ("prompts", "default_prompt_name", "include_prompt", "truncate_dim", "sha256")
    edit(
        ours / "simcse.json", lambda content: {key: content[key] for key in content if key not in later} | {"format": 1}
    )
    layout = read_layout(ours)
    assert (layout.pooling, layout.max_length, layout.include_prompt) == ("mean", 64, True)
    assert (layout.prompts, layout.truncate_dim, layout.digests) == ({}, None, {})


THEIRS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "an object": (lambda modules: {"0": modules}, r"holds \{.*, expected a list of modules"),
    "a list of names": (lambda modules: ["Transformer", "Pooling"], r"holds \[.*, expected a list of modules"),
    "a module without type": (lambda modules: [{"path": ""}, *modules[1:]], "'type' is missing"),
    "two heads": (
        lambda modules: [*modules[:2], *[modules[0] | {"type": "a.Dense", "path": name} for name in "xy"]],
        "two Dense modules; one projection is supported",
    ),
}


@pytest.mark.parametrize("name", THEIRS)
def test_modules_of_sentence_transformers(ours: Path, name: str) -> None:
    change, told = THEIRS[name]
    (ours / "simcse.json").unlink()
    assert read_layout(ours).pooling == "mean"
    edit(ours / "modules.json", change)
    with pytest.raises(ModelError, match=rf"modules\.json: {told}"):
        read_layout(ours)


def test_a_package_may_hold_other_configurations(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one beside weights is the model's, whichever comes first."""
    package = tmp_path / "site" / "carries_a_model"
    for place in ("", "a", "b/deeper"):
        (package / place).mkdir(parents=True, exist_ok=True)
        (package / place / "config.json").write_text((tiny_bert / "config.json").read_text())
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path / "site")
    with pytest.raises(ModelError, match="the package is installed but carries no model folder"):
        resolve("package:carries_a_model")
    (package / "b" / "deeper" / "model.safetensors").write_bytes(b"")
    assert resolve("package:carries_a_model") == package / "b" / "deeper"
    assert "carries_a_model" not in sys.modules, "none of its code is run"
    with pytest.raises(ModelError, match="no such Python package"):
        resolve("package:carries-a-model")


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin", "both"])
def test_a_model_on_the_hub(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sentences: list[str], weights: str
) -> None:
    """Pickled weights are fetched where there are no others."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with serving_hub() as hub:
        hub.lead(monkeypatch)
        for file in (path for path in tiny_bert.iterdir() if path.is_file()):
            hub.files[f"me/mine/{file.name}"] = file.read_bytes()
        torch.save(load_file(tiny_bert / "model.safetensors"), tmp_path / "pytorch_model.bin")
        if weights != "model.safetensors":
            hub.files["me/mine/pytorch_model.bin"] = (tmp_path / "pytorch_model.bin").read_bytes()
        if weights == "pytorch_model.bin":
            del hub.files["me/mine/model.safetensors"]
        hub.files["me/mine/tf_model.h5"] = hub.files["me/mine/training.py"] = b"not wanted"
        found = load("me/mine").encode(sentences)
    np.testing.assert_array_equal(found, load(tiny_bert).encode(sentences))
    fetched = {path.name for path in (tmp_path / "cache").rglob("*")}
    expected = {"pytorch_model.bin"} if weights == "pytorch_model.bin" else {"model.safetensors"}
    assert fetched & {"model.safetensors", "pytorch_model.bin", "tf_model.h5", "training.py"} == expected


def test_a_backbone_by_itself(tiny_bert: Path, tmp_path: Path) -> None:
    assert load_backbone(tiny_bert).config.hidden_dropout_prob == 0.1
    backbone = load_backbone(tiny_bert, dropout=0.25)
    assert {backbone.config.hidden_dropout_prob, backbone.config.attention_probs_dropout_prob} == {0.25}
    assert {module.p for module in backbone.modules() if isinstance(module, torch.nn.Dropout)} == {0.25}
    with pytest.raises(ModelError, match=r"no config\.json, so this is no model folder"):
        load_backbone(tmp_path)


@pytest.mark.parametrize("bars", [True, False])
def test_what_transformers_shows_is_as_it_was_afterwards(bars: bool) -> None:
    before, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()

    def show(on: bool) -> None:
        (transformers_logging.enable_progress_bar if on else transformers_logging.disable_progress_bar)()

    def failing() -> None:
        with quiet_transformers():
            assert not transformers_logging.is_progress_bar_enabled()
            assert transformers_logging.get_verbosity() == transformers_logging.ERROR
            raise ZeroDivisionError

    show(bars)
    try:
        transformers_logging.set_verbosity_info()
        with pytest.raises(ZeroDivisionError):
            failing()
        assert transformers_logging.is_progress_bar_enabled() == bars
        assert transformers_logging.get_verbosity() == transformers_logging.INFO
    finally:
        show(before)
        transformers_logging.set_verbosity(level)
