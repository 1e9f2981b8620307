"""A run from start to report: evaluate, train, evaluate again; and several of them, one a seed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

from accelerate import Accelerator

from simcse.argument_names import knows_other_names
from simcse.console import in_options
from simcse.data.lengths import cut_line, sample, token_counts
from simcse.display.progress import training_bar
from simcse.encoder.model import SentenceEncoder
from simcse.errors import ConfigError, shown
from simcse.evaluation.contamination import clean_score, overlaps
from simcse.evaluation.evaluators import Evaluator
from simcse.evaluation.items import pair_items
from simcse.evaluation.pairs import PairEvaluator
from simcse.evaluation.report import versions
from simcse.evaluation.statistics import mean_interval
from simcse.evaluation.sts import SEVEN, evaluate_sts, load_task
from simcse.evaluation.suite import evaluate
from simcse.files import replaced_file
from simcse.training.build import build_accelerator, build_trainer
from simcse.training.build_data import read_source
from simcse.training.card import model_card, with_seeds
from simcse.training.config import DataConfig, TrainConfig
from simcse.training.distributed import first_process_first, greatest, world
from simcse.training.interrupt import Interrupted, StopSignals
from simcse.training.resume import FORMAT, data_facts
from simcse.training.run_dir import RunDir
from simcse.training.trainer import Trainer
from simcse.training.ways_on import ways_on
from simcse.vectors import CachedEncoder, Encode

__all__ = ["train"]

GEOMETRY = ("alignment", "uniformity")


@knows_other_names
def train(config: TrainConfig) -> dict[str, Any]:
    """Train as the config says: once, or once a seed.

    Returns:
        What report.json holds; an empty dict on all processes but the first.

    Raises:
        ConfigError, DataError, ModelError: something is wrong with options, files or weights.
    """
    if not isinstance(config, TrainConfig):
        raise ConfigError(f"train: found {shown(config)}, expected TrainConfig(data={{'train': FILE}}, ...)")
    config = replace(config)  # checks what was set since it was made, too
    accelerator = build_accelerator(config)
    return train_one(config, accelerator) if config.seeds == 1 else train_seeds(config, accelerator)


def train_one(config: TrainConfig, accelerator: Accelerator, first_run: bool = True) -> dict[str, Any]:
    """One run with one seed; what is the same for all seeds is said in the first run."""
    with StopSignals(tells=accelerator.is_main_process) as signals:
        trainer = build_trainer(config, accelerator)
        try:
            return run_to_report(config, accelerator, trainer, signals, first_run)
        finally:
            trainer.run.close()


def run_to_report(
    config: TrainConfig, accelerator: Accelerator, trainer: Trainer, signals: StopSignals, first_run: bool
) -> dict[str, Any]:
    """Evaluate, train, evaluate, report."""
    if accelerator.is_main_process:
        if first_run:
            tell_no_dev(config.data)
        tell_start(config, trainer)
        tell_lengths(config, trainer)
    if config.trackers:
        accelerator.init_trackers("simcse", config={key: str(value) for key, value in config.as_dict().items()})
    if trainer.step == 0:
        if trainer.evaluator and accelerator.is_main_process:
            print(f"evaluating on {trainer.evaluator.name} before the first step", file=sys.stderr)
        trainer.evaluate()  # what training must beat
    started, first = time.perf_counter(), trainer.step
    with training_bar(trainer.schedule.steps, trainer.step, accelerator.is_main_process) as show:
        trainer.train(show, lambda: signals.number)
    signals.restore()  # from here on there is nothing to save
    if number := greatest(signals.number, accelerator.device):  # of any process: none goes on to report alone
        raise Interrupted(number, f"all {trainer.step} steps are done, and saved in {trainer.run.last}")
    if config.trackers:
        accelerator.end_training()
    if not accelerator.is_main_process:
        return {}
    speed = {
        "seconds": round(time.perf_counter() - started, 1),
        "steps": trainer.step,
        "first_step": first + 1,
        "processes": world(),
        "loss": trainer.run.losses(),
    }
    report = make_report(config, trainer) | {"training": speed, "data": trainer.run.data}
    report["next"] = ways_on(trainer.run.best, config.data, trainer.batches.sources[0].dataset)
    encoder = trainer.accelerator.unwrap_model(trainer.model).encoder
    trainer.run.write_card(model_card(report, config, encoder))
    trainer.run.write_report(report)  # the last: who finds it knows that the run is done
    return report


def tell_start(config: TrainConfig, trainer: Trainer) -> None:
    """Say where a run that may go on from another begins."""
    if config.resume == "never":
        return
    if trainer.run.start is None:
        said = f"nothing to resume in {trainer.run.folder}: starting at step 1"
    elif trainer.step == trainer.schedule.steps:
        said = f"nothing left to train in {trainer.run.start}: all {trainer.step} steps are done"
    else:
        said = f"resuming at step {trainer.step + 1} of {trainer.schedule.steps} from {trainer.run.start}"
    print(said, file=sys.stderr)


def tell_no_dev(data: DataConfig) -> None:
    """Say how to have the encoder evaluated, where it is not."""
    if data.dev is None and data.test is None:
        said = (
            "no evaluation data: training runs, and best/ is its last step; data.dev=FILE of (sentence, sentence, "
            "score) shows the score before, during and after"
        )
        print(in_options(said), file=sys.stderr)


def tell_lengths(config: TrainConfig, trainer: Trainer) -> None:
    """Say which share of the texts `--max_length` cuts, and how often each of several sources is the batch's."""
    encoder, batches = trainer.accelerator.unwrap_model(trainer.model).encoder, trainer.batches
    for number, source in enumerate(batches.sources):
        rows = source.dataset
        counts = token_counts(sample(rows, source.text_columns), encoder.tokenizer)
        said = cut_line(counts, config.max_length, encoder.backbone_limit, len(rows))
        if len(batches.sources) > 1:
            share = f"{100 * batches.shares[number]:.0f} % of the steps"
            said = f"{config.data.sources[number].train}, {share}: {said}"
        print(said, file=sys.stderr)


def make_report(config: TrainConfig, trainer: Trainer) -> dict[str, Any]:
    """What report.json holds: the best encoder's scores on dev, and on the test tasks if there are any."""
    best = {key: value for key, value in trainer.best.items() if key != "step"}
    report: dict[str, Any] = {
        "format": FORMAT,
        "model": str(trainer.run.best),
        "protocol": {"selection": "the last step, as there is no --data.dev"},
        "tasks": {},
        "geometry": {key: best[key] for key in GEOMETRY if key in best},
        "versions": versions() | {"accelerate": version("accelerate")},
    }
    if trainer.evaluator:
        scores = {key: value for key, value in best.items() if key not in GEOMETRY}
        report["dev"] = Path(str(config.data.dev)).name
        report["tasks"][report["dev"]] = {**scores, "n": trainer.evaluator.n}
        report["protocol"] = {
            "selection": f"best of every {config.eval_every} steps, by {trainer.evaluator.primary_metric} on dev"
        }
        report |= {"before": trainer.run.first_evaluation(), "best_step": trainer.best.get("step")}
    measurable = trainer.run.best.is_dir()  # not so where last/ alone was copied here, and nothing was left to train
    if not measurable or not (config.data.test or isinstance(trainer.evaluator, PairEvaluator)):
        return report
    encode = CachedEncoder(SentenceEncoder.from_pretrained(trainer.run.best, dtype="fp32").encode)
    if isinstance(trainer.evaluator, PairEvaluator):
        ends = pair_items(report["dev"], trainer.evaluator.pairs).interval(encode)
        report["tasks"][report["dev"]]["intervals"] = {"spearman": ends}
    if config.data.test:
        tested = evaluate(encode, SEVEN, config.data.test).to_dict()
        report["tasks"] |= tested["tasks"]
        report["protocol"] |= tested["protocol"]
        report |= {key: tested[key] for key in ("average", "average_interval")}
        tests = {task: load_task(task, config.data.test) for task in SEVEN}
        for task, found in overlaps(training_rows(trainer), tests).items():
            report["tasks"][task]["overlap"] = found.to_dict()
            report["tasks"][task]["clean"] = clean_score(encode, tests[task], found.clean, task)
    for kept in config.matryoshka:
        score = truncated_score(encode, kept, config, trainer.evaluator)
        report.setdefault("dimensions", {})[str(kept)] = score
    return report


def training_rows(trainer: Trainer) -> Iterator[Sequence[str]]:
    """The texts of each training row, of all sources."""
    for source in trainer.batches.sources:
        for table in source.dataset.iter(1000):
            yield from zip(*(table[name] for name in source.text_columns), strict=True)


def truncated_score(encode: Encode, kept: int, config: TrainConfig, evaluator: Evaluator | None) -> float:
    """The average of seven of vectors' first dimensions; without test tasks the primary metric on dev."""

    def short(texts: list[str]) -> Any:
        return encode(texts)[:, :kept]

    if config.data.test:
        return fmean(score.spearman for score in evaluate_sts(short, config.data.test).values())
    assert evaluator is not None
    return float(evaluator(short)[evaluator.primary_metric])


def train_seeds(config: TrainConfig, accelerator: Accelerator) -> dict[str, Any]:
    """Runs with consecutive seeds in OUTPUT_DIR/seed-N; a finished one is not run again under --resume auto."""
    if config.resume not in ("never", "auto"):
        raise ConfigError(f"resume={config.resume} names one run, but seeds={config.seeds} asks for several; say auto")
    reports = []
    for seed in range(config.seed, config.seed + config.seeds):
        one = replace(config, seed=seed, seeds=1, output_dir=str(Path(config.output_dir) / f"seed-{seed}"))
        done = finished_report(one, accelerator) if config.resume == "auto" else None
        reports.append(train_one(one, accelerator, seed == config.seed) if done is None else done)
        accelerator.free_memory()
    if not accelerator.is_main_process:
        return {}
    summary = summarize(config, reports)
    for seed in summary["seeds"]:
        card = Path(config.output_dir) / seed / "best" / "README.md"
        if card.is_file():
            text = with_seeds(card.read_text(encoding="utf-8"), summary)
            with replaced_file(card) as new:
                new.write_text(text, encoding="utf-8")
    with replaced_file(Path(config.output_dir) / "report.json") as new:
        new.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary


def finished_report(config: TrainConfig, accelerator: Accelerator) -> dict[str, Any] | None:
    """The report of a run that has come to its end, if its options, data and files are those of this one.

    Raises:
        ConfigError, DataError, ModelError: they are not.
    """
    if not (Path(config.output_dir) / "report.json").is_file():
        return None

    def look() -> dict[str, Any] | None:
        run = RunDir(config.output_dir, config.as_dict(), "finished", writes=accelerator.is_main_process)
        try:
            rows = [read_source(source, config.data.blank_lines) for source in config.data.all_sources()]
            run.check_data(data_facts(config.data, rows), config.data.files())
            return run.finished()
        finally:
            run.close()

    return first_process_first(look)


def summarize(config: TrainConfig, reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean, sample standard deviation, least and greatest of each score over the seeds."""
    tasks: dict[str, Any] = {}
    for task, scores in reports[0]["tasks"].items():
        tasks[task] = {"n": scores["n"]}
        for metric in (name for name, value in scores.items() if isinstance(value, float)):
            tasks[task][metric] = spread_of([report["tasks"][task][metric] for report in reports])
    averages = [report["average"] for report in reports if "average" in report]
    widths = {
        kept: spread_of([report["dimensions"][kept] for report in reports]) for kept in reports[0].get("dimensions", {})
    }
    losses = [report["training"]["loss"]["last"] for report in reports]
    return {
        "model": str(Path(config.output_dir)),
        "protocol": reports[0]["protocol"] | {"seeds": [config.seed + i for i in range(len(reports))]},
        "tasks": tasks,
        **({"average": spread_of(averages)} if averages else {}),
        **({"dimensions": widths} if widths else {}),
        "training": {"loss": spread_of(losses)},
        "seeds": {f"seed-{config.seed + i}": report["tasks"] for i, report in enumerate(reports)},
        "versions": reports[0]["versions"],
        "next": reports[0]["next"],
    }


def spread_of(values: list[float]) -> dict[str, float]:
    """Mean, sample deviation, least and greatest, and the mean's 95 % interval (Student's t) from low to high."""
    found = mean_interval(values)
    ends = {"low": found.low, "high": found.high, "min": found.least, "max": found.greatest}
    return {"mean": found.mean, "std": found.std, **ends}
