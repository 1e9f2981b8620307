"""A run from start to report: judge, train, judge again; and several of them, one a seed."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from simcse.encoder.model import SentenceEncoder
from simcse.errors import ConfigError
from simcse.evaluation.report import versions
from simcse.evaluation.statistics import mean_interval
from simcse.evaluation.sts import SEVEN
from simcse.evaluation.suite import evaluate
from simcse.files import replaced_file
from simcse.training.bar import training_bar
from simcse.training.build import build_accelerator, build_trainer
from simcse.training.config import TrainConfig
from simcse.training.distributed import world
from simcse.training.trainer import Trainer

__all__ = ["train"]

GEOMETRY = ("alignment", "uniformity")


def train(config: TrainConfig) -> dict[str, Any]:
    """Train as the config says: once, or once a seed.

    Returns:
        What report.json holds; an empty dict on all processes but the first.

    Raises:
        ConfigError, DataError, ModelError: something is wrong with options, files or weights.
    """
    accelerator = build_accelerator(config)
    return train_one(config, accelerator) if config.seeds == 1 else train_seeds(config, accelerator)


def train_one(config: TrainConfig, accelerator: Accelerator) -> dict[str, Any]:
    """One run with one seed."""
    trainer = build_trainer(config, accelerator)
    if config.trackers:
        accelerator.init_trackers("simcse", config={key: str(value) for key, value in config.as_dict().items()})
    if trainer.step == 0:
        trainer.evaluate()  # what training must beat
    started, first = time.perf_counter(), trainer.step
    with training_bar(trainer.schedule.steps, trainer.step, accelerator.is_main_process) as show:
        trainer.train(show)
    if config.trackers:
        accelerator.end_training()
    if not accelerator.is_main_process:
        return {}
    speed = {
        "seconds": round(time.perf_counter() - started, 1),
        "steps": trainer.step,
        "first_step": first + 1,
        "processes": world(),
    }
    report = make_report(config, trainer) | {"training": speed}
    trainer.run.write_report(report)
    return report


def make_report(config: TrainConfig, trainer: Trainer) -> dict[str, Any]:
    """What report.json holds: the best encoder's scores on dev, and on the test tasks if there are any."""
    best = {key: value for key, value in trainer.best.items() if key != "step"}
    report: dict[str, Any] = {
        "model": str(trainer.run.best),
        "protocol": {"selection": "the last step, as there is no --data.dev"},
        "tasks": {},
        "geometry": {key: best[key] for key in GEOMETRY if key in best},
        "versions": versions() | {"accelerate": version("accelerate")},
    }
    if trainer.judge:
        scores = {key: value for key, value in best.items() if key not in GEOMETRY}
        report["dev"] = Path(str(config.data.dev)).name
        report["tasks"][report["dev"]] = {**scores, "n": trainer.judge.n}
        report["protocol"] = {"selection": f"best of every {config.eval_every} steps, by {trainer.judge.metric} on dev"}
        report |= {"before": trainer.run.first_judgement(), "best_step": trainer.best.get("step")}
    if config.data.test:
        encoder = SentenceEncoder.from_pretrained(trainer.run.best, dtype="fp32")
        tested = evaluate(encoder.encode, SEVEN, config.data.test).to_dict()
        report["tasks"] |= tested["tasks"]
        report["protocol"] |= tested["protocol"]
        report["average"] = tested["average"]
    return report


def train_seeds(config: TrainConfig, accelerator: Accelerator) -> dict[str, Any]:
    """Runs with consecutive seeds in OUTPUT_DIR/seed-N; a finished one is not run again under --resume auto."""
    if config.resume not in ("never", "auto"):
        raise ConfigError(
            f"--resume {config.resume} names one run, but --seeds {config.seeds} asks for several; say auto"
        )
    reports = []
    for seed in range(config.seed, config.seed + config.seeds):
        folder = Path(config.output_dir) / f"seed-{seed}"
        done = folder / "report.json"
        if config.resume == "auto" and done.is_file():
            reports.append(json.loads(done.read_text(encoding="utf-8")))
            continue
        reports.append(train_one(replace(config, seed=seed, seeds=1, output_dir=str(folder)), accelerator))
        accelerator.free_memory()
    if not accelerator.is_main_process:
        return {}
    summary = summarize(config, reports)
    with replaced_file(Path(config.output_dir) / "report.json") as new:
        new.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary


def summarize(config: TrainConfig, reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean, sample standard deviation, least and greatest of each score over the seeds."""
    tasks: dict[str, Any] = {}
    for task, scores in reports[0]["tasks"].items():
        tasks[task] = {"n": scores["n"]}
        for metric in (name for name, value in scores.items() if isinstance(value, float)):
            tasks[task][metric] = spread_of([report["tasks"][task][metric] for report in reports])
    averages = [report["average"] for report in reports if "average" in report]
    return {
        "model": str(Path(config.output_dir)),
        "protocol": reports[0]["protocol"] | {"seeds": [config.seed + i for i in range(len(reports))]},
        "tasks": tasks,
        **({"average": spread_of(averages)} if averages else {}),
        "seeds": {f"seed-{config.seed + i}": report["tasks"] for i, report in enumerate(reports)},
        "versions": reports[0]["versions"],
    }


def spread_of(values: list[float]) -> dict[str, float]:
    """Mean, sample deviation, least and greatest, and the mean's 95 % interval (Student's t) from low to high."""
    found = mean_interval(values)
    ends = {"low": found.low, "high": found.high, "min": found.least, "max": found.greatest}
    return {"mean": found.mean, "std": found.std, **ends}
