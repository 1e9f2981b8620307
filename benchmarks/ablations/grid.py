"""Grids of training runs: a base recipe, and what each variant changes in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from simcse.console import Parser
from simcse.errors import ConfigError, did_you_mean
from simcse.training.config import TrainConfig

__all__ = ["GRIDS", "STARTS", "Grid", "Variant", "read_grid", "train_config"]

CONFIGS = Path(__file__).parents[2] / "configs"
STARTS = {"small-bert": "small BERT", "minilm": "MiniLM"}
"""Recipes START-unsup.yaml and START-sup.yaml in configs/ -> the name that tables give what they start from."""
GRIDS = tuple(sorted(path.stem for path in (CONFIGS / "ablations").glob("*.yaml")))


@dataclass(frozen=True)
class Variant:
    """One row of the table."""

    name: str
    paper: float | None
    """Spearman x 100 on STS-B's development set, BERT-base; None where the paper has no such row."""
    options: dict[str, Any]
    """Dotted option -> value; `$NAME` stands for one of the files that the command line gives."""


@dataclass(frozen=True)
class Grid:
    """One table of the paper, or a study of our own."""

    name: str
    title: str
    source: str | None
    """Where in the paper; None: not in it."""
    base: Literal["unsup", "sup", "ct"]
    """The recipe that variants change."""
    variants: list[Variant]

    @property
    def reference(self) -> Variant:
        """What the others are set against: the paper's best, or the first."""
        known = [one for one in self.variants if one.paper is not None]
        return max(known, key=lambda one: one.paper or 0.0) if known else self.variants[0]


def read_grid(name: str) -> Grid:
    """Read configs/ablations/NAME.yaml.

    Raises:
        ConfigError: no such grid.
    """
    if name not in GRIDS:
        raise ConfigError(f"found ablation {name!r}, expected one of {', '.join(GRIDS)}{did_you_mean(name, GRIDS)}")
    values = yaml.safe_load((CONFIGS / "ablations" / f"{name}.yaml").read_text(encoding="utf-8"))
    common = values.get("options", {})
    variants = [Variant(row["name"], row.get("paper"), {**common, **row["options"]}) for row in values["variants"]]
    return Grid(name, values["title"], values.get("source"), values["base"], variants)


def train_config(grid: Grid, variant: Variant, shared: Mapping[str, Any], start: str) -> TrainConfig | None:
    """The run's configuration: the base recipe, what all runs share, the variant's own options.

    Args:
        grid: names the base.
        variant: its options win.
        shared: dotted option -> value, and `$NAME` -> file or None where there is none.
        start: of STARTS.

    Returns:
        None where the variant needs a file that no option names.
    """
    parser = Parser()
    parser.add_class_arguments(TrainConfig)
    parser.add_argument("--config", action="config")
    own = {key: shared.get(value, value) if isinstance(value, str) else value for key, value in variant.options.items()}
    if None in own.values():
        return None
    plain = {key: value for key, value in shared.items() if not key.startswith("$")}
    arguments = ["--config", str(CONFIGS / f"{start}-{grid.base}.yaml")]
    for key, value in {**plain, **own}.items():
        arguments += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
    options = vars(parser.instantiate(parser.parse_args(arguments)))
    options.pop("config", None)
    return TrainConfig(**options)
