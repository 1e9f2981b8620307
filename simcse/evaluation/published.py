"""Scores to compare one's own with: the SimCSE paper's, and the spread of a re-implementation over 50 seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["RECIPES", "Recipe", "departures", "recipe_of"]


@dataclass(frozen=True)
class Recipe:
    """Spearman x 100 on the seven STS tasks, aggregation `all`, in the order of `sts.SEVEN`; and how to get there."""

    scores: tuple[float, ...]
    """Paper, table 5: one run."""
    average: float
    batch_size: int
    """Paper, table A.1, as the next two."""
    lr: float
    epochs: int
    spread: tuple[float, float] | None = None
    """Mean and standard deviation of the average over 50 seeds (hppRC/simple-simcse), where they are known."""

    @property
    def settings(self) -> dict[str, Any]:
        """What a run's config must say to be this recipe, by dotted name; the data files have names of their own."""
        return {
            "model.pooling": "cls",
            "model.dropout": None,  # the backbone's own
            "batch_size": self.batch_size,
            "optim.lr": self.lr,
            "epochs": self.epochs,
            "max_steps": None,
            "max_length": 32,
            "temperature": 0.05,
            "hard_negative_weight": 1.0,
        }


RECIPES = {
    "unsup-bert-base": Recipe(
        (68.40, 82.41, 74.38, 80.91, 78.56, 76.85, 72.23), 76.25, 64, 3e-5, 1, (75.11, 0.84)
    ),
    "unsup-bert-large": Recipe(
        (70.88, 84.16, 76.43, 84.50, 79.76, 79.26, 73.88), 78.41, 64, 1e-5, 1, (74.95, 1.74)
    ),
    "unsup-roberta-base": Recipe(
        (70.16, 81.77, 73.24, 81.36, 80.65, 80.22, 68.56), 76.57, 512, 1e-5, 1, (74.60, 0.21)
    ),
    "unsup-roberta-large": Recipe(
        (72.86, 83.99, 75.62, 84.77, 81.80, 81.98, 71.26), 78.90, 512, 3e-5, 1, (76.71, 0.50)
    ),
    "sup-bert-base": Recipe((75.30, 84.67, 80.19, 85.40, 80.82, 84.25, 80.39), 81.57, 512, 5e-5, 3),
    "sup-roberta-base": Recipe((76.53, 85.21, 80.95, 86.03, 82.57, 85.83, 80.50), 82.52, 512, 5e-5, 3),
    "sup-roberta-large": Recipe((77.46, 87.27, 82.36, 86.66, 83.93, 86.70, 81.95), 83.76, 512, 1e-5, 3),
}  # fmt: skip
BACKBONES = {"bert-base-uncased": "bert-base", "bert-large-uncased": "bert-large"}


def recipe_of(config: Mapping[str, Any]) -> str | None:
    """The recipe that a run's `config.yaml` follows by backbone and head, or None: a key of `RECIPES`."""
    model = config.get("model")
    if not isinstance(model, Mapping):
        return None
    backbone = str(model.get("name", "")).rstrip("/").rsplit("/", 1)[-1]
    kind = {"train": "unsup", "always": "sup"}.get(str(model.get("projection")))
    name = f"{kind}-{BACKBONES.get(backbone, backbone)}"
    return name if name in RECIPES else None


def departures(recipe: str, config: Mapping[str, Any]) -> list[str]:
    """Where a run's `config.yaml` says otherwise than its recipe: `batch_size 128 (paper: 64)`, ..."""
    found = []
    for name, expected in RECIPES[recipe].settings.items():
        value: Any = config
        for key in name.split("."):
            value = value.get(key, expected) if isinstance(value, Mapping) else expected
        if value != expected:
            found.append(f"{name} {value} (paper: {'unset' if expected is None else expected})")
    return found
