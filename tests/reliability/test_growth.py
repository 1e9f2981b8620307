"""Training and encoding need no more memory, handles and threads in their last half than in their first.

Each runs in a process of its own, this file as a program: what other tests have freed would hide what it takes. Short
form: 100 steps, 20,000 texts. Long form (SIMCSE_SOAK=1): 2,000 steps, 1,000,000 sentences of Wikipedia.
"""

from __future__ import annotations

import gzip
import itertools
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from forked import ROOT
from soak import LONG
from tiny import WORDS

STEPS = (200, 2000) if LONG else (30, 100)  # to warm up, and to be measured
TEXTS = (100_000, 1_000_000) if LONG else (20_000, 20_000)
EVERY = 1000  # texts between two looks
MEBIBYTE = 2**20


class Use(NamedTuple):
    """Of a process: resident bytes, open files and sockets, threads."""

    memory: int
    handles: int
    threads: int


def use() -> Use:
    """Of this process."""
    process = psutil.Process()
    return Use(process.memory_info().rss, process.num_fds(), process.num_threads())


def trained(model: str, file: str, folder: Path, warm: int, count: int) -> list[Use]:
    """A look behind each step of a run that evaluates and saves every 50."""
    from simcse.training.build import build_accelerator, build_trainer
    from simcse.training.config import DataConfig, ModelConfig, TrainConfig

    config = TrainConfig(
        model=ModelConfig(name=model, pooling="mean"), data=DataConfig(train=file, dev=str(folder / "dev.tsv")),
        output_dir=str(folder / "run"), max_steps=warm + count, batch_size=64, eval_every=50, save_every=50,
        precision="fp32",
    )  # fmt: skip
    looks: list[Use] = []
    build_trainer(config, build_accelerator(config)).train(lambda record: looks.append(use()))
    return looks[warm:]


def encoded(model: str, file: str, folder: Path, warm: int, count: int) -> list[Use]:
    """A look behind every 1,000 texts."""
    from simcse import SentenceEncoder
    from simcse.display import progress

    progress.CHUNK_SECONDS = 60  # the largest chunks, and so the most memory, however busy the machine is just now
    encoder = SentenceEncoder.from_pretrained(model, pooling="mean", device="cpu", dtype="fp32")
    looks: list[Use] = []

    def watched(texts: Iterator[str]) -> Iterator[str]:
        for number, text in enumerate(texts):
            if number % EVERY == 0:
                looks.append(use())
            yield text
        looks.append(use())

    texts = lines(file)
    assert encoder.encode_to(folder / "first.npy", itertools.islice(texts, warm)) == warm
    assert encoder.encode_to(folder / "all.npy", watched(itertools.islice(texts, count))) == count
    return looks


def lines(file: str) -> Iterator[str]:
    """The texts of a file, again and again."""
    while True:
        with (
            gzip.open(file, "rt", encoding="utf-8")
            if file.endswith(".gz")
            else Path(file).open(encoding="utf-8") as own
        ):
            yield from (text.rstrip("\n") for text in own)


WAYS: dict[str, tuple[Callable[..., list[Use]], tuple[int, int]]] = {
    "steps": (trained, STEPS),
    "texts": (encoded, TEXTS),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_last_half_needs_no_more_than_the_first(
    request: pytest.FixtureRequest, tiny_bert: Path, tmp_path: Path, way: str
) -> None:
    rng = random.Random(0)
    if LONG:
        file = request.getfixturevalue("data_dir") / "wiki" / "enwiki2015_sents_1m.txt.gz"
    else:
        file = tmp_path / "texts.txt"
        file.write_text("".join(f"{' '.join(rng.choices(WORDS, k=rng.randint(3, 20)))}\n" for _ in range(20_000)))
    pairs = (f"{' '.join(rng.sample(WORDS, 5))}\t{' '.join(rng.sample(WORDS, 5))}\t{i % 6}\n" for i in range(100))
    (tmp_path / "dev.tsv").write_text("".join(pairs))
    started = time.monotonic()
    command = [sys.executable, __file__, way, str(tiny_bert), str(file), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    # large blocks go back to the system once they are free: what lies free between others is no growth
    environment["MALLOC_MMAP_THRESHOLD_"] = str(2**17)
    process = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=3000 if LONG else 300
    )
    assert process.returncode == 0, process.stderr
    looks = [Use(*look) for look in json.loads(process.stdout.splitlines()[-1])]
    half = len(looks) // 2
    assert half >= 10
    first, last = (Use(*map(max, zip(*some, strict=True))) for some in (looks[:half], looks[half:]))
    grown = last.memory - first.memory
    said = (
        f"{WAYS[way][1][1]:,} {way}: {first} in the first half, {last} in the last: memory {grown / first.memory:+.2%}"
    )
    print(f"\n{said}, {time.monotonic() - started:.0f} s")
    assert grown < (0.02 * first.memory if LONG else 32 * MEBIBYTE), said
    assert last.handles <= first.handles, said
    assert last.threads <= first.threads, said


if __name__ == "__main__":
    measured, (to_warm_up, to_measure) = WAYS[sys.argv[1]]
    print(json.dumps(measured(*sys.argv[2:4], Path(sys.argv[4]), to_warm_up, to_measure)))
