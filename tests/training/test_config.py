"""Options that are wrong in themselves, whatever the files and the model."""

from __future__ import annotations

import pytest

from simcse import ConfigError
from simcse.training.config import DataConfig, ModelConfig, OptimConfig, TrainConfig


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, r"^temperature is 0\.0: must be above 0"),
        ({"hard_negative_weight": -1.0}, r"^hard_negative_weight is -1\.0"),
        ({"epochs": 0}, r"^epochs is 0: at least 1"),
        ({"seed": -1}, r"^seed is -1: at least 0"),
        ({"seed": 2**63}, r"^seed is 9223372036854775808: at most 9223372036854775807"),
        ({"seed": 2**63 - 1, "seeds": 2}, r"^seed is 9223372036854775807: at most 9223372036854775806 for seeds=2"),
        ({"seeds": 10**400}, r"^seed is 42: at most"),
        ({"micro_batch_size": 0}, r"^micro_batch_size is 0"),
        ({"optim": OptimConfig(lr=float("nan"))}, r"^optim\.lr is nan"),
        ({"optim": OptimConfig(warmup=1.0)}, r"^optim\.warmup is 1\.0"),
        ({"model": ModelConfig(dropout=1.0)}, r"^model\.dropout is 1\.0"),
    ],
)
def test_values_out_of_range(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**change)  # type: ignore[arg-type]


def test_options_that_do_not_go_together() -> None:
    with pytest.raises(ConfigError, match=r"^model\.queue_size needs candidates=in_batch, found 'all_views'"):
        TrainConfig(model=ModelConfig(queue_size=8), candidates="all_views")
    with pytest.raises(ConfigError, match=r"^model\.ema_decay is 1"):
        TrainConfig(model=ModelConfig(ema_decay=1.0))
    with pytest.raises(ConfigError, match=r"^data\.augment=synonym and data\.synonyms, a file, go together"):
        TrainConfig(data=DataConfig(augment="synonym"))
    with pytest.raises(ConfigError, match=r"^model\.two_encoders goes neither"):
        TrainConfig(model=ModelConfig(two_encoders=True, fixed_dropout_mask=True))


def test_a_part_may_be_a_dict_and_is_checked() -> None:
    config = TrainConfig(data={"train": "t.txt"}, optim={"lr": 1e-4})  # type: ignore[arg-type]
    assert (config.data, config.optim.lr) == (DataConfig(train="t.txt"), 1e-4)
    with pytest.raises(ConfigError, match="OptimConfig has no field learning_rate=1; here it is lr="):
        TrainConfig(optim={"learning_rate": 1})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"optim: found 3, expected OptimConfig\(...\) or a dict of its fields"):
        TrainConfig(optim=3)  # type: ignore[arg-type]
