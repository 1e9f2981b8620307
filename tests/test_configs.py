"""Each shipped recipe is read as a user's would be, has the paper's figures, and trains with a tiny backbone."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from simcse.console import Parser
from simcse.encoder.model import SentenceEncoder
from simcse.training.build import build_model
from simcse.training.build_data import build_batches
from simcse.training.build_loss import build_criterion
from simcse.training.config import TrainConfig

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))

# appendix A of the paper: backbone, head, rows a step, rate, epochs
PAPER = {
    "unsup-bert-base": ("bert-base-uncased", "train", 64, 3e-5, 1),
    "unsup-bert-large": ("bert-large-uncased", "train", 64, 1e-5, 1),
    "unsup-roberta-base": ("roberta-base", "train", 512, 1e-5, 1),
    "unsup-roberta-large": ("roberta-large", "train", 512, 3e-5, 1),
    "sup-bert-base": ("bert-base-uncased", "always", 512, 5e-5, 3),
    "sup-bert-large": ("bert-large-uncased", "always", 512, 1e-5, 3),
    "sup-roberta-base": ("roberta-base", "always", 512, 5e-5, 3),
    "sup-roberta-large": ("roberta-large", "always", 512, 1e-5, 3),
}


def load(path: Path, *options: str) -> TrainConfig:
    parser = Parser()
    parser.add_class_arguments(TrainConfig)
    parser.add_argument("--config", action="config")
    values = parser.instantiate(parser.parse_args(["--config", str(path), *options]))
    del values["config"]
    return TrainConfig(**vars(values))


def names(paths: list[Path]) -> list[str]:
    return [path.stem for path in paths]


def test_the_recipes_are_there() -> None:
    minilm = {"quickstart", "quickstart-unsup", "minilm-unsup", "minilm-sup", "minilm-ct", "minilm-queue", "best-unsup"}
    others = minilm | {"small-bert-unsup", "small-bert-sup", "e5-ja"}
    assert set(names(CONFIGS)) == set(PAPER) | others


@pytest.mark.parametrize("path", CONFIGS, ids=names(CONFIGS))
def test_opens_with_its_command_and_what_to_expect(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    header = text[: text.index("\nmodel:")]
    assert all(line.startswith("#") for line in header.strip().splitlines())
    assert f"#     python train.py --config configs/{path.name}\n" in header
    assert "xpect" in header
    if "data/" in text:
        page, heading = re.findall(r'^# Files: (\S+), "([^"]+)"', header, re.MULTILINE)[0]
        assert f"## {heading}\n" in (path.parents[1] / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", CONFIGS, ids=names(CONFIGS))
def test_every_key_of_the_file_reaches_the_run(path: Path) -> None:
    """A misspelt or misplaced key would leave a default in its place; each run also has a folder of its own."""

    def compare(written: dict[str, Any], read: dict[str, Any]) -> None:
        for key, value in written.items():
            if isinstance(value, dict):
                compare(value, read[key])
            elif key == "sources":
                for one, other in zip(value, read[key], strict=True):
                    compare(one, other)
            else:
                assert read[key] == value, key

    config = load(path)
    compare(yaml.safe_load(path.read_text(encoding="utf-8")), dataclasses.asdict(config))
    assert config.output_dir == f"runs/{path.stem}"


@pytest.mark.parametrize("name", PAPER)
def test_has_the_figures_of_the_paper(name: str) -> None:
    config = load(next(path for path in CONFIGS if path.stem == name))
    found = (config.model.name, config.model.projection, config.batch_size, config.optim.lr, config.epochs)
    assert found == PAPER[name]
    common = (config.model.pooling, config.model.dropout, config.max_length, config.temperature)
    assert common == ("cls", None, 32, 0.05)
    assert (config.optim.weight_decay, config.optim.clip, config.optim.warmup) == (0.0, 1.0, 0.0)
    assert (config.eval_every, config.seed, config.hard_negative_weight) == (125, 42, 1.0)


@pytest.mark.parametrize("path", CONFIGS, ids=names(CONFIGS))
def test_an_option_overrides_the_file(path: Path) -> None:
    config = load(path, "--optim.lr", "0.5", "--batch_size", "8")
    assert (config.optim.lr, config.batch_size) == (0.5, 8)
    assert config.temperature == load(path).temperature


@pytest.mark.parametrize("path", [p for p in CONFIGS if "package:" in p.read_text()], ids=lambda path: path.stem)
def test_the_packaged_model_is_found(path: Path) -> None:
    config = load(path)
    encoder = SentenceEncoder.from_pretrained(config.model.name, pooling=config.model.pooling, device="cpu")
    assert encoder.pooling == config.model.pooling
    assert encoder.encode(["a cat"]).shape == (1, 384)


def training_file(folder: Path, config: TrainConfig, sentences: list[str]) -> Path:
    """A file of the kind that the recipe names: text, pairs or triplets."""
    header = {"nli": "sent0,sent1,hard_neg", "train.csv": "anchor,positive", "corpus.jsonl": "text"}
    source = config.data.all_sources()[0].train
    columns = next((names for key, names in header.items() if key in source), None)
    path = folder / ("train.csv" if columns else "train.txt")
    count = 1 + columns.count(",") if columns else 1
    table = [",".join(sentences[i + j] for j in range(count)) for i in range(16)]
    path.write_text("\n".join([columns, *table] if columns else table) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("path", CONFIGS, ids=names(CONFIGS))
def test_trains_a_tiny_backbone(
    path: Path, tiny_bert: Path, tiny_roberta: Path, sentences: list[str], tmp_path: Path
) -> None:
    """A step of the recipe on 8 rows: as many views as the data has, a finite loss, a gradient in every weight.

    The head belongs where the paper has it: supervised it is saved with the encoder, unsupervised it is not.
    """
    config = load(path)
    name = tiny_roberta if "roberta" in config.model.name else tiny_bert
    first = training_file(tmp_path, config, sentences)
    files = ["--data.train", str(first)]
    if config.data.sources:
        groups = tmp_path / "groups.tsv"
        groups.write_text("".join(f"{sentences[i]}\t{sentences[i + 1]}\n" for i in range(16)), encoding="utf-8")
        written = [vars(source) for source in config.data.sources]
        scored = tmp_path / "scored.csv"
        scored.write_text(
            "sentence1,sentence2,label\n" + "".join(f"{sentences[i]},{sentences[i + 1]},{i % 6}\n" for i in range(16))
        )
        of = {"any_two": groups, "roles": first, "scored": scored}
        files = ["--data.sources", json.dumps([source | {"train": str(of[source["rows"]])} for source in written])]
    files += ["--teacher.cache", str(tmp_path / "teacher")]
    config = load(path, "--model.name", str(name), *files, "--batch_size", "8")
    model = build_model(config).train()
    batch = build_batches(config, model.encoder, torch.device("cpu")).batch_of(0)
    views = 3 if "sup" in path.stem and "unsup" not in path.stem else 2
    assert batch.views == (1 if config.data.all_sources()[0].loss == "none" else views)
    assert (model.head is not None, model.encoder.projection is not None) == {
        "none": (False, False),
        "train": (True, False),
        "always": (False, True),
    }[config.model.projection]

    loss = build_criterion(config, model.dimension)(model(batch), batch)
    loss.backward()
    assert torch.isfinite(loss)
    # but for the keys' biases: they shift all scores of a query alike, so that softmax does not see them
    weights = {key: weight for key, weight in model.named_parameters() if not key.endswith("key.bias")}
    assert [key for key, weight in weights.items() if weight.grad is None or not weight.grad.any()] == []
