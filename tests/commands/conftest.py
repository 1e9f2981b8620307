"""Two run folders and files of texts, for commands that compare and draw."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import yaml
from tiny import WORDS, build_encoder


def sentence(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(3, 8)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two run folders, the second with two seeds, in the layout that train.py writes; scored pairs and texts."""
    root, rng = tmp_path_factory.mktemp("analysis"), random.Random(0)
    for number, run in enumerate(("one", "two/seed-1", "two/seed-2")):
        build_encoder(root / run / "best", seed=number)
        config = {"model": {"name": "bert-base-uncased", "projection": "train"}, "batch_size": 64, "max_steps": 20}
        (root / run / "config.yaml").write_text(yaml.safe_dump(config))
        with (root / run / "log.jsonl").open("w") as log:
            for step in (0, 10, 20):
                dev = {"spearman": 70.0 + step, "alignment": 0.2, "uniformity": -1.0 - step / 10}
                log.write(
                    json.dumps({"step": step, "dev": dev}) + "\n" + json.dumps({"step": step, "loss": 1.0}) + "\n"
                )
    pairs = "".join(f"{sentence(rng)}\t{sentence(rng)}\t{i % 6}\n" for i in range(40))
    (root / "pairs.tsv").write_text(pairs)
    (root / "texts.txt").write_text("".join(f"{sentence(rng)}\n" for _ in range(60)))
    (root / "few.txt").write_text("".join(f"{sentence(rng)}\n" for _ in range(4)))
    return root
