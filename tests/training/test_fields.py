"""Wrong fields and types of the config dataclasses are told as the command line tells wrong options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from simcse import ConfigError
from simcse.training.config import DataConfig, ModelConfig, OptimConfig, TrainConfig


@pytest.mark.parametrize(
    ("kind", "given", "told"),
    [
        (TrainConfig, {"lr": 1}, "TrainConfig has no field lr=1; here it is optim=OptimConfig(lr=...)"),
        (TrainConfig, {"learning_rate": 1}, "here it is optim=OptimConfig(lr=...)"),
        (TrainConfig, {"train_file": "f"}, "no field train_file='f'; here it is data=DataConfig(train=...)"),
        (TrainConfig, {"per_device_train_batch_size": 2}, "; here it is batch_size=..., the rows of all"),
        (TrainConfig, {"gradient_accumulation_steps": 2}, "; accumulating adds no negatives: batch_size is the whole"),
        (TrainConfig, {"batchsize": 2}, "; did you mean batch_size=...?"),
        (TrainConfig, {"zzz": 2}, "; it has model, data, teacher, optim, "),
        (TrainConfig, {"optim": {"lrr": 1}}, "OptimConfig has no field lrr=1; did you mean lr=...?"),
        (TrainConfig, {"data": {1: "f"}}, "DataConfig has no field 1='f'; it has train, "),
        (OptimConfig, {"learning_rate": 1}, "OptimConfig has no field learning_rate=1; here it is lr=..."),
        (OptimConfig, {"lr": "1e-5"}, "OptimConfig(lr='1e-5'): expected float"),
        (TrainConfig, {"batch_size": "64"}, "TrainConfig(batch_size='64'): expected int"),
        (TrainConfig, {"batch_size": True}, "TrainConfig(batch_size=True): expected int"),
        (TrainConfig, {"max_steps": 1.5}, "TrainConfig(max_steps=1.5): expected int or None"),
        (TrainConfig, {"trackers": "wandb"}, "TrainConfig(trackers='wandb'): expected list[str]"),
        (TrainConfig, {"precision": "bf-16"}, ": expected one of auto, fp32, bf16, fp16; did you mean 'bf16'?"),
        (ModelConfig, {"pooling": "avg"}, ": expected one of cls, mean, last_token, first_last_mean, top2_"),
        (DataConfig, {"columns": ["a", 1]}, "DataConfig(columns=['a', 1]): expected list[str] or None"),
        (DataConfig, {"prompts": "query: "}, "DataConfig(prompts='query: '): expected dict[str, str]"),
    ],
)
def test_wrong_fields_are_told(kind: Any, given: dict[Any, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        kind(**given)
    assert told in str(caught.value)


def test_values_that_stand_for_others() -> None:
    config = TrainConfig(
        data=DataConfig(columns=("a", "b")),  # type: ignore[arg-type]
        optim=OptimConfig(np.float64(1e-4), clip=1),  # type: ignore[arg-type]
        output_dir=Path("runs/x"),  # type: ignore[arg-type]
        seed=np.int64(3),  # type: ignore[arg-type]
    )
    assert (config.data.columns, config.optim.lr, config.output_dir, config.seed) == (["a", "b"], 1e-4, "runs/x", 3)
    assert yaml.safe_load(yaml.safe_dump(config.as_dict()))["seed"] == 3
    assert ModelConfig("a-name").name == "a-name"
