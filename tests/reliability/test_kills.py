"""A run killed at random moments, by SIGTERM and SIGKILL, ends as the run that nobody disturbed, to the bit.

Each way to train is killed, goes on, is killed again, until it comes to its end; then another begins, until there were
as many kills as wanted: 2 of each way in the short form, 30 in the long one (SIMCSE_SOAK=1).
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from forked import ROOT, Run, Runs, run_server, start_group
from soak import LONG, SECONDS, SEED
from tiny import WORDS, build_encoder

from simcse import SentenceEncoder

KILLS = 30 if LONG else 2
STEPS = 24
SIGNALS = (signal.SIGTERM, signal.SIGKILL)
PATIENCE = 30.0  # seconds that a launcher gives to the others of a group, as torchrun does
WAYS = ["plain", "gradcache", "queue", "seeds", "two processes", "mixed sources", "distillation"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    with run_server(tmp_path_factory.mktemp("printed")) as server:
        yield server


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training rows of each kind, and scored pairs to evaluate by."""
    folder, rng = tmp_path_factory.mktemp("data"), random.Random(0)

    def rows(count: int, columns: int, *scores: int) -> str:
        texts = ([" ".join(rng.sample(WORDS, 6)) for _ in range(columns)] for _ in range(count))
        return "".join("\t".join([*row, *(str(i % score) for score in scores)]) + "\n" for i, row in enumerate(texts))

    (folder / "text.txt").write_text(rows(256, 1))
    (folder / "triplets.tsv").write_text("sent0\tsent1\thard_neg\n" + rows(96, 3))
    (folder / "groups.tsv").write_text("a\tb\tc\n" + rows(64, 3))
    (folder / "scored.tsv").write_text(rows(64, 2, 6))
    (folder / "dev.tsv").write_text(rows(40, 2, 6))
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_encoder(tmp_path_factory.mktemp("models") / "teacher", seed=7, hidden=48)


def options_of(way: str, model: Path, teacher: Path, files: Path) -> dict[str, Any]:
    """A run with an evaluation every 7 and a save every 5 steps, dropout on."""
    sources = [
        {"train": str(files / "triplets.tsv")},
        {"train": str(files / "groups.tsv"), "rows": "any_two", "weight": 0.5},
        {"train": str(files / "text.txt")},
        {"train": str(files / "scored.tsv"), "rows": "scored"},
    ]
    own: dict[str, dict[str, Any]] = {
        "plain": {},
        "gradcache": {"micro_batch_size": 4},
        "queue": {"model.queue_size": 40},
        "seeds": {"seeds": 2, "max_steps": STEPS // 2},
        "two processes": {},
        "mixed sources": {"data.sources": json.dumps(sources)},
        "distillation": {"teacher.name": json.dumps([str(teacher)]), "teacher.weight": 2.0, "optim.ema_decay": 0.9},
    }
    data = {} if way == "mixed sources" else {"data.train": files / "text.txt"}
    return {
        "model.name": model, "model.pooling": "mean", **data, "data.dev": files / "dev.tsv", "batch_size": 16,
        "max_steps": STEPS, "eval_every": 7, "save_every": 5, "log_every": 1, "optim.lr": 1e-3, "precision": "fp32",
        "resume": "auto", **own[way],
    }  # fmt: skip


def begin(runs: Runs, way: str, options: dict[str, Any], folder: Path) -> list[Run]:
    """The processes of a run."""
    options = options | {"output_dir": folder / "run", "teacher.cache": folder / "cache"}
    return start_group(runs, options) if way == "two processes" else [runs.start(options)]


def kill(group: list[Run], sent: signal.Signals, rng: random.Random) -> list[int | None]:
    """Kill one process, and end the others as a launcher does: SIGTERM, then SIGKILL. The statuses, of that one first.

    The others of a run that was told to stop are not told by us: it is the run that has to stop whole.
    """
    struck = rng.choice(group)
    others = [run for run in group if run is not struck]
    struck.kill(sent)
    statuses = [struck.status()]
    if sent == signal.SIGKILL or statuses == [None]:
        for run in others:
            run.kill(signal.SIGTERM)
    for run in others:
        until = time.monotonic() + PATIENCE
        while not run.ended and time.monotonic() < until:
            time.sleep(0.01)
        run.kill(signal.SIGKILL)
        statuses.append(run.status())
    return statuses


def kept(folder: Path) -> dict[str, Any]:
    """What a run has left, but for where it lies and how long it took."""
    found: dict[str, Any] = {"names": sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix in (".safetensors", ".npy"):  # weights, vectors of a teacher
            found[name] = path.read_bytes()
        elif path.name == "trainer.pt":
            found[name] = to_bits(torch.load(path, weights_only=True))
        elif path.name == "log.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{key: value for key, value in line.items() if key != "rows_per_second"} for line in lines]
        elif path.name == "report.json":
            found[name] = json.loads(path.read_text())["tasks"]
    return found


def to_bits(state: object) -> object:
    """The same, with the bytes of each tensor in its place."""
    if isinstance(state, dict):
        return {key: to_bits(value) for key, value in state.items()}
    if isinstance(state, list):
        return [to_bits(value) for value in state]
    return state.numpy().tobytes() if isinstance(state, torch.Tensor) else state


def check_whole(folder: Path) -> None:
    """Whatever was saved before a kill can be loaded."""
    for saved in [*folder.glob("**/best"), *folder.glob("**/last")]:
        SentenceEncoder.from_pretrained(saved, device="cpu", dtype="fp32")


@pytest.mark.parametrize("way", WAYS)
def test_killed_runs_end_as_undisturbed_ones(
    runs: Runs, files: Path, tiny_bert: Path, teacher: Path, tmp_path: Path, way: str
) -> None:
    options = options_of(way, tiny_bert, teacher, files)
    started = time.monotonic()
    group = begin(runs, way, options, tmp_path / "whole")
    assert [run.status() for run in group] == [0] * len(group), [run.printed for run in group]
    seconds = time.monotonic() - started
    expected = kept(tmp_path / "whole")
    assert [name for name in expected if name.endswith("trainer.pt")], expected["names"]
    rng = random.Random(f"{SEED} {way}")
    until = started + SECONDS / 3 / len(WAYS)
    kills: list[signal.Signals] = []
    number = 0
    while len(kills) < KILLS and (not LONG or time.monotonic() < until):
        number += 1
        folder = tmp_path / f"killed-{number}"
        case = f"SOAK_SEED={SEED}, {way}, run {number}:"
        while True:
            group = begin(runs, way, options, folder)
            moment = rng.uniform(0.0, 0.8) * seconds
            time.sleep(moment)
            if len(kills) == KILLS or group[0].ended:
                break
            kills.append(SIGNALS[len(kills) % 2])
            case += f" {kills[-1].name} after {moment:.3f} s,"
            statuses = kill(group, kills[-1], rng)
            printed = [run.printed for run in group]
            assert statuses[0] in ((None, 0) if kills[-1] == signal.SIGKILL else (None, 0, 143)), (case, printed)
            if 143 in statuses[:1]:
                assert statuses == [143] * len(group), (case, printed)
                assert "--resume auto" in printed[0], (case, printed)
            check_whole(folder)
        assert [run.status() for run in group] == [0] * len(group), (case, [run.printed for run in group])
        found = kept(folder)
        assert found["names"] == expected["names"], case
        assert found.keys() == expected.keys(), case
        assert not [name for name in expected if found[name] != expected[name]], case
    if LONG:
        counts = ", ".join(f"{kills.count(sent)} {sent.name}" for sent in SIGNALS)
        took = time.monotonic() - started
        print(f"\n{way}: {counts} in {number} runs, {took:.0f} s; each ended as the undisturbed one")


def launch(options: dict[str, Any], folder: Path) -> subprocess.Popen[bytes]:
    """torchrun with two processes, in a group of their own."""
    options = options | {"output_dir": folder / "run", "teacher.cache": folder / "cache"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", "train.py"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
    folder.mkdir(exist_ok=True)
    with (folder.with_suffix(".txt")).open("ab") as printed:
        return subprocess.Popen(
            [*command, *(f"--{name}={value}" for name, value in options.items())], cwd=ROOT, env=environment,
            stdout=printed, stderr=printed, start_new_session=True,
        )  # fmt: skip


def strike(launcher: subprocess.Popen[bytes], kind: str, rng: random.Random) -> None:
    """Stop it as a scheduler does, kill a process as a kernel without memory does, or all as a reboot does."""
    processes = psutil.Process(launcher.pid).children(recursive=True)
    match kind:
        case "SIGTERM to torchrun":
            launcher.terminate()
        case "SIGKILL to one process":
            rng.choice(processes or [launcher]).kill()
        case "SIGKILL to all":
            launcher.kill()
            for process in processes:
                process.kill()
            psutil.wait_procs(processes, 30)
    launcher.wait(PATIENCE + 90)


@pytest.mark.skipif(not LONG, reason="long form: make soak; each process of torchrun imports torch anew")
def test_runs_of_torchrun_end_as_undisturbed_ones(files: Path, tiny_bert: Path, teacher: Path, tmp_path: Path) -> None:
    options = options_of("two processes", tiny_bert, teacher, files) | {"max_steps": 4 * STEPS, "epochs": 10}
    kinds = ["SIGTERM to torchrun", "SIGKILL to one process", "SIGKILL to all"]
    started = time.monotonic()
    assert launch(options, tmp_path / "whole").wait(300) == 0, (tmp_path / "whole.txt").read_text()
    seconds = time.monotonic() - started
    expected = kept(tmp_path / "whole")
    rng, kills, number = random.Random(f"{SEED} torchrun"), 0, 0
    while kills < KILLS and time.monotonic() < started + SECONDS / 8:
        number += 1
        folder = tmp_path / f"killed-{number}"
        while True:
            launcher = launch(options, folder)
            try:
                launcher.wait(rng.uniform(0.2, 1.1) * seconds)
                break
            except subprocess.TimeoutExpired:
                strike(launcher, kinds[kills % len(kinds)], rng)
                kills += 1
                check_whole(folder)
        case = f"SOAK_SEED={SEED}, torchrun, run {number}:"
        assert launcher.returncode == 0, (case, folder.with_suffix(".txt").read_text()[-4000:])
        found = kept(folder)
        assert found.keys() == expected.keys(), case
        assert not [name for name in expected if found[name] != expected[name]], case
    took = time.monotonic() - started
    print(f"\ntorchrun: {kills} kills in {number} runs, {took:.0f} s; each ended as the undisturbed one")
