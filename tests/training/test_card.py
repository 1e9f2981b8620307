"""The model card: its lines run as they stand, in three libraries, with the same vectors; the hub can read its head."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tiny import build_encoder

from simcse import SentenceEncoder
from simcse.console import Parser
from simcse.encoder.projection import Projection
from simcse.files import sha256_of
from simcse.training.card import model_card, usage, with_name, with_seeds
from simcse.training.config import TrainConfig
from simcse.training.run import train


def run_block(code: str) -> np.ndarray:
    values: dict[str, Any] = {}
    exec(code, values)
    return np.asarray(values["vectors"])


@pytest.mark.parametrize(
    ("pooling", "head", "prompt", "kept", "blocks"),
    [
        ("mean", "", "", None, 3),
        ("cls", "", "the ", 8, 3),
        ("cls", "tanh", "", None, 3),
        ("mean", "tanh", "", None, 2),
        ("last_token", "", "", None, 3),
        ("first_last_mean", "", "", None, 3),
        ("top2_mean", "", "", None, 3),
    ],
)
def test_three_libraries_give_the_same_vectors(
    tmp_path: Path, pooling: str, head: str, prompt: str, kept: int | None, blocks: int
) -> None:
    plain = build_encoder(tmp_path / "plain")
    encoder = SentenceEncoder.from_pretrained(plain, pooling=pooling, device="cpu", dtype="fp32")
    encoder.projection = Projection(encoder.width, None) if head else None
    encoder.truncate_dim = kept
    if prompt:
        encoder.prompts, encoder.default_prompt_name = {"all": prompt}, "all"
    folder = encoder.save_pretrained(tmp_path / "best")
    code = re.findall(r"```python\n(.*?)```", "\n".join(usage(str(folder), encoder)), flags=re.S)
    assert len(code) == blocks
    vectors = [run_block(one) for one in code]
    assert vectors[0].shape == (2, kept or 32)
    assert not np.allclose(vectors[0][0], vectors[0][1])
    for other in vectors[1:]:
        np.testing.assert_allclose(other, vectors[0], atol=2e-2)  # ours may be bf16
        np.testing.assert_allclose(other, vectors[1], atol=1e-5)


def test_roles_with_prompts_are_named(tmp_path: Path) -> None:
    encoder = SentenceEncoder.from_pretrained(build_encoder(tmp_path / "plain"), device="cpu", dtype="fp32")
    assert "encode_query" not in "\n".join(usage("x", encoder))
    encoder.prompts = {"query": "two people "}
    assert "encode queries by `encode_query(texts)`" in "\n".join(usage("x", encoder))


def test_a_run_leaves_a_card_that_does_not_break_the_checkpoint(config: TrainConfig) -> None:
    """Front matter, counts, digests and scores are those of the run; the recipe, given as --config, is the run's."""
    train(config)
    best = Path(config.output_dir) / "best"
    card = (best / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    head = yaml.safe_load(front)
    assert (head["library_name"], head["pipeline_tag"]) == ("sentence-transformers", "sentence-similarity")
    assert "base_model" not in head  # a folder, which the hub would refuse
    assert "simcse" in head["tags"]
    report = json.loads((best.parent / "report.json").read_text())
    assert f"| dev.tsv | Spearman x 100 | 64 | {report['before']['spearman']:.2f} |" in body
    scores = report["tasks"]["dev.tsv"]
    low, high = scores["intervals"]["spearman"]
    assert low < scores["spearman"] < high
    assert f"| {scores['spearman']:.2f} | {low:.2f} to {high:.2f} |" in body
    assert "best of every 6 steps, by spearman on dev" in body
    assert f"| train | pairs.csv | 128 | {sha256_of(Path(config.data.train))} |" in body
    assert f"| dev | dev.tsv |  | {sha256_of(Path(str(config.data.dev)))} |" in body
    assert f"torch {report['versions']['torch']}" in body
    assert str(Path(config.data.train).parent) not in body  # nobody's folders are published
    (best / "recipe.yaml").write_text(re.findall(r"```yaml\n(.*?)```", body, flags=re.S)[0])
    parser = Parser()
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(TrainConfig)
    values = parser.instantiate(parser.parse_args(["--config", str(best / "recipe.yaml")]))
    again = TrainConfig(**{key: value for key, value in vars(values).items() if key != "config"})
    assert replace(again, model=config.model, data=config.data, output_dir=config.output_dir) == config
    assert again.model.pooling == "mean"
    SentenceEncoder.from_pretrained(best)
    (best / "README.md").write_text("changed")
    SentenceEncoder.from_pretrained(best)


def test_a_hub_id_is_the_base_model_and_another_name_can_be_given(config: TrainConfig) -> None:
    report = train(replace(config, max_steps=1, data=replace(config.data, dev=None)))
    encoder = SentenceEncoder.from_pretrained(report["model"])
    named = replace(config, model=replace(config.model, name="google-bert/bert-base-uncased"))
    card = model_card(report, named, encoder)
    assert yaml.safe_load(card.split("---\n")[1])["base_model"] == "google-bert/bert-base-uncased"
    assert "the last step, as there is no --data.dev" in card
    other = with_name(card, "someone/mine")
    assert other.count('("someone/mine")') == 4
    assert report["model"] not in other


def test_seeds_add_their_interval_once(config: TrainConfig) -> None:
    config = replace(config, seeds=2, max_steps=2)
    summary = train(config)
    card = (Path(config.output_dir) / "seed-43" / "best" / "README.md").read_text()
    found = summary["tasks"]["dev.tsv"]["spearman"]
    assert f"| dev.tsv | Spearman x 100 | {found['mean']:.2f} (" in card
    assert card.count("## Over 2 seeds") == 1
    assert with_seeds(card, summary) == card
