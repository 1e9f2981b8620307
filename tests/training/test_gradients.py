"""The gradient of a training step is that of its formula, by each objective, candidate set and way to compute it.

Compared are the loss and the gradient of every parameter, with the formulas written as double loops over vectors of
Hugging Face's BERT, in float64 (`naive.py`). The long form draws steps from all options at once.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import combinations, count, islice, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
import torch.multiprocessing as multiprocessing
from gradient_steps import SCORED, Found, Reference, Step, by_the_package, criterion_of, free_port, one_of_two
from soak import LONG, SECONDS, SEED

from simcse.errors import ConfigError
from simcse.objectives import CANDIDATES, OBJECTIVES

OPTIONS: dict[str, list[Any]] = {  # beside the defaults of Step
    "objective": [name for name in OBJECTIVES if name != "softmax"],
    "candidates": [name for name in CANDIDATES if name != "in_batch"],
    "similarity": ["dot"],
    "micro": [3],
    "world": [2],
    "precision": ["bf16"],
    "queue": [3],
    "two_encoders": [True],
    "matryoshka": [True],
    "teacher": ["kl", "margin_mse", "l2", "cosine"],
    "guide": [True],
    "equal": [True],
    "wide": [True],
    "data": ["texts", "pairs", "quadruplets", "echoes", "singles", *SCORED],
}
QUEUE = ("queue", 3)
REFUSED: dict[tuple[tuple[str, Any], tuple[str, Any]], str] = {
    **{(QUEUE, ("candidates", name)): "queue_size needs candidates=in_batch" for name in OPTIONS["candidates"]},
    **{(QUEUE, ("data", name)): "queue_size goes with data.train alone" for name in ("singles", *SCORED)},
    **{(QUEUE, ("teacher", name)): f"queue_size does not go with teacher.loss={name}" for name in OPTIONS["teacher"]},
    **{(("matryoshka", True), ("teacher", name)): f"does not go with teacher.loss={name}" for name in ("l2", "cosine")},
    **{(("guide", True), ("data", name)): "mask_margin masks negatives" for name in ("singles", *SCORED)},
    (QUEUE, ("two_encoders", True)): "model.two_encoders goes neither with",
    (QUEUE, ("matryoshka", True)): "matryoshka does not go with model.queue_size",
    (("objective", "margin"), ("similarity", "dot")): "objective=margin needs angles",
    (("data", "singles"), ("two_encoders", True)): "model.two_encoders needs positives",
    (("data", "singles"), ("teacher", "none")): "loss is none, and there is no teacher",
}
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "grad_cache": {"micro": 3},
    "bf16": {"precision": "bf16"},
    "queue": {"queue": 3},
    "two_encoders": {"two_encoders": True},
    "matryoshka": {"matryoshka": True},
    "distillation": {"teacher": "kl"},
    "guide": {"guide": True},
    "two_processes": {"world": 2},
    "both": {"world": 2, "micro": 1},
}


def refused(step: Step) -> list[str]:
    """Why the options do not go together."""
    return [why for pair, why in REFUSED.items() if all(getattr(step, name) == value for name, value in pair)]


def has_no_slope(step: Step) -> bool:
    """The angle between equal vectors has no derivative: a step that asks for it has no gradient to compare with."""
    return step.objective == "margin" and step.data in ("echoes", "texts") and not step.two_encoders


def steps_of(way: str) -> list[Step]:
    """Each objective with each candidate set, as far as they go together."""
    each = [Step(objective=o, candidates=c, **WAYS[way]) for o, c in product(OBJECTIVES, CANDIDATES)]
    return [step for step in each if not refused(step)]


def drawn(draw: random.Random, world: int, rows: int = 4) -> Step:
    """A step with any options that go together."""
    while True:
        options = {name: draw.choice(values) for name, values in OPTIONS.items() if draw.random() < 0.4}
        step = Step(**options | {"world": world, "rows": rows, "seed": draw.randrange(100)})
        if not refused(step) and not has_no_slope(step):
            return step


def in_two_processes(folder: Path, steps: Iterable[Step]) -> dict[Step, Found]:
    """What two processes find, started once for all steps."""
    with TemporaryDirectory() as out:
        file = Path(out) / "found.pt"
        arguments = (free_port(), folder, list(steps), file)
        multiprocessing.spawn(one_of_two, arguments, nprocs=2)  # type: ignore[no-untyped-call]
        with torch.serialization.safe_globals([Step]):
            found: dict[Step, Found] = torch.load(file)
    return found


OTHERS = [
    Step(queue=3),
    Step(two_encoders=True, teacher="l2", wide=True),
    *(Step(candidates=c, **WAYS[way]) for way in ("two_encoders", "matryoshka", "guide") for c in CANDIDATES),
    Step(data="texts", two_encoders=True),
    Step(equal=True),
    *(Step(data=data) for data in ("texts", "pairs", "quadruplets", *SCORED)),
    *(Step(teacher=teacher, candidates=candidates) for teacher in ("kl", "margin_mse") for candidates in CANDIDATES),
    *(Step(teacher="kl", candidates=candidates, data="echoes") for candidates in CANDIDATES),
    *(Step(teacher=teacher, data="singles") for teacher in ("kl", "margin_mse", "l2", "cosine")),
    *(Step(teacher=teacher, wide=wide) for teacher in ("l2", "cosine") for wide in (False, True)),
]


def one_after_another(seed: int, world: int, rows: int = 4) -> Iterator[Step]:
    draw = random.Random(seed)
    while True:
        yield drawn(draw, world, rows)


def in_both_ways(steps: Iterable[Step]) -> list[Step]:
    """In two processes, with micro batches and without."""
    return [replace(step, world=2, micro=micro) for step in steps for micro in (None, 1)]


SHORT = [list(islice(one_after_another(SEED, world), 20)) for world in (1, 2)]


@pytest.fixture(scope="module")
def pair_found(tiny_bert: Path) -> dict[Step, Found]:
    return in_two_processes(
        tiny_bert, [*steps_of("two_processes"), *steps_of("both"), *in_both_ways(OTHERS), *SHORT[1]]
    )


@lru_cache(2)
def model_of(folder: Path, step: Step) -> Reference:
    return Reference(folder, step)


@lru_cache(400)
def gradients_of(folder: Path, step: Step) -> Found:
    own = model_of(folder, replace(step.model, data=step.data, rows=step.rows, queue=step.queue, wide=step.wide))
    return own.gradients(step) if step.precision == "fp32" else own.gradients_through(folder, step)


def expected_of(folder: Path, step: Step) -> Found:
    """The loss and the gradients that a step is to have, however it is computed."""
    return gradients_of(folder, replace(step, micro=None, world=1))


def difference(step: Step, found: Found, expected: Found) -> str:
    """What is wrong with a step, or nothing. Gradients are compared by the greatest of all parameters'."""
    loss, gradients = found
    wanted, exact = expected
    greatest = max(float(gradient.abs().max()) for gradient in exact.values())
    assert greatest > 1e-4, step  # there is something to compare
    none = torch.zeros(())
    errors = {n: float((gradients.get(n, none) - exact.get(n, none)).abs().max()) for n in {*gradients, *exact}}
    worst = max(errors, key=lambda name: errors[name])
    within = errors[worst] <= (1e-5 if step.precision == "fp32" else 1e-2) * greatest
    if within and loss == pytest.approx(wanted, rel=1e-5, abs=1e-6):
        return ""
    return f"{step}: loss {loss}, not {wanted}; {worst} is wrong by {errors[worst]:.1e} of {greatest:.1e}"


def agree(folder: Path, found: Mapping[Step, Found]) -> None:
    wrong = [difference(step, one, expected_of(folder, step)) for step, one in found.items()]
    assert not any(wrong), "\n".join(filter(None, wrong))


@pytest.mark.parametrize("way", [way for way, options in WAYS.items() if "world" not in options])
def test_one_process(way: str, tiny_bert: Path) -> None:
    agree(tiny_bert, {step: by_the_package(tiny_bert, step) for step in steps_of(way)})


@pytest.mark.parametrize("way", ["two_processes", "both"])
def test_two_processes(way: str, tiny_bert: Path, pair_found: dict[Step, Found]) -> None:
    agree(tiny_bert, {step: pair_found[step] for step in steps_of(way)})


def test_other_data_and_teachers(tiny_bert: Path, pair_found: dict[Step, Found]) -> None:
    agree(tiny_bert, {step: by_the_package(tiny_bert, step) for step in OTHERS})
    agree(tiny_bert, {step: pair_found[step] for step in in_both_ways(OTHERS)})


def test_several_options_at_once(tiny_bert: Path, pair_found: dict[Step, Found]) -> None:
    """Steps drawn from all options that go together, in one process and in two."""
    agree(tiny_bert, {step: by_the_package(tiny_bert, step) for step in SHORT[0]})
    agree(tiny_bert, {step: pair_found[step] for step in SHORT[1]})


@pytest.mark.skipif(not LONG, reason="the long form: make soak")
def test_many_options_at_once(tiny_bert: Path) -> None:
    end, done = time.monotonic() + SECONDS, 0
    for number in count():
        rows = 2 * random.Random(SEED + number).randint(2, 4)
        one, two = (list(islice(one_after_another(SEED + number, world, rows), 40)) for world in (1, 2))
        agree(tiny_bert, {step: by_the_package(tiny_bert, step) for step in one})
        agree(tiny_bert, in_two_processes(tiny_bert, two))
        done += len(one) + len(two)
        print(f"{done} steps, SOAK_SEED={SEED}", flush=True)
        if time.monotonic() > end:
            break


def test_what_does_not_go_together_is_refused() -> None:
    """Of each two options either a reason why not, by the package as here, or none."""
    values = [(name, value) for name, each in OPTIONS.items() for value in [getattr(Step(), name), *each]]
    wrong = []
    for both in combinations(values, 2):
        step = Step(**({"teacher": "kl"} if ("data", "singles") in both else {}) | dict(both))
        said, expected = "", refused(step)
        try:
            criterion_of(step)
        except ConfigError as error:
            said = str(error)
        if not any(why in said for why in expected) if expected else said:
            wrong.append(f"{step}: {said or 'is accepted'}; expected {expected or 'to be accepted'}")
    assert not wrong, "\n".join(dict.fromkeys(wrong))
