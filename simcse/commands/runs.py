"""`simcse runs`."""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from simcse.commands.shared import Format, as_text, print_json
from simcse.display.runs import runs_table
from simcse.errors import ConfigError, DataError, shown

__all__ = ["runs"]

SEED = re.compile(r"seed-\d+")
# options that change nothing of what is trained
OWN = {"log_every", "output_dir", "resume", "save_every", "seeds", "teacher.cache", "trackers"}


@dataclass
class Run:
    """What a run folder tells."""

    folder: Path
    state: str = ""
    """finished; running or stopped, with the step; damaged."""
    metric: str | None = None
    """What dev is measured by."""
    dev: float | None = None
    """The best so far."""
    average: float | None = None
    """Of the seven STS tasks, where it is finished."""
    seconds: float | None = None
    """Of training, where it is finished."""
    options: dict[str, Any] = field(default_factory=dict)
    """By dotted name."""


def runs(folder: str = "runs", *, format: Format = "auto") -> None:
    """List the runs below a folder, the best on dev first.

    A run is a folder with config.yaml and log.jsonl, as simcse train writes it; folders seed-N of one folder are one
    row, with mean and standard deviation over those that are finished. Of the options those are shown that differ.

    Args:
        folder: where to look, at any depth
        format: text, or json, a run a line with all that was found; auto is text on a terminal, and json where output
            is piped
    """
    found = [[read_run(run) for run in group] for group in find(Path(folder))]
    if not found:
        raise ConfigError(
            f"FOLDER: no run below {folder}; a run is a folder with config.yaml and log.jsonl, as simcse train writes"
        )
    rows = sorted((row_of(group) for group in found), key=lambda row: -row["dev"]["mean"] if row["dev"] else math.inf)
    differ = differing([row["options"] for row in rows])
    for row in rows:
        row["options"] = {name: row["options"].get(name) for name in differ}
        if not as_text(format):
            print_json(row)
    if as_text(format):
        print(runs_table(rows, differ, Path(folder)))


def find(folder: Path) -> Iterator[list[Path]]:
    """The run folders below one, or that itself; those of one run's seeds together."""
    seeds = []
    for place, below, files in os.walk(folder, onerror=lambda error: print(f"warning: {error}", file=sys.stderr)):
        if "config.yaml" in files and ({"log.jsonl", "report.json"} & {*files}):
            yield [Path(place)]
            below.clear()
            continue
        seeds = [Path(place) / name for name in below if SEED.fullmatch(name)]
        if group := [seed for seed in seeds if (seed / "config.yaml").is_file()]:
            yield sorted(group, key=lambda seed: int(seed.name.removeprefix("seed-")))
        below[:] = sorted(name for name in below if Path(place) / name not in group and not name.startswith("."))


def read_run(folder: Path) -> Run:
    """What a run folder tells; one that is damaged says so in its state, and on stderr."""
    from simcse.commands.models import config_of
    from simcse.training.resume import flat

    run = Run(folder)
    try:
        run.options = {name: value for name, value in flat(config_of(str(folder))).items() if name not in OWN}
        last, epoch = read_log(run)
        if not read_report(run):
            done = run.options.get("max_steps") or round(last / epoch * run.options.get("epochs", 1) if epoch else 0)
            of = f" of {'' if run.options.get('max_steps') else 'about '}{done}" if done else ""
            run.state = f"{'running' if is_running(folder) else 'stopped'} at step {last}{of}"
    except DataError as error:
        print(f"warning: {error}", file=sys.stderr)
        run.state = "damaged"
    return run


def read_log(run: Run) -> tuple[int, float]:
    """Take the best score on dev from the log; returns its last step and the epochs up to there."""
    from simcse.data.tabular import json_object, lines

    file, last, epoch = run.folder / "log.jsonl", 0, 0.0
    written = list(lines(file)) if file.is_file() else []
    for number, line in enumerate(written, 1):
        try:
            record = json_object(f"{file}:{number}", line)
            last, epoch = int(record["step"]), float(record.get("epoch", epoch))
            for metric, score in list(record.get("dev", {}).items())[:1]:  # the first decides
                run.metric, run.dev = metric, max(float(score), -math.inf if run.dev is None else run.dev)
        except (DataError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            if number == len(written):  # cut short by a kill, or being written now
                break
            raise DataError(f"{file}:{number}: found {shown(line)}, no record of a run; delete the line") from error
    return last, epoch


def read_report(run: Run) -> bool:
    """Take what a finished run reports; False without a report."""
    file = run.folder / "report.json"
    if not file.is_file():
        return False
    try:
        report = json.loads(file.read_bytes())
        run.average, training = report.get("average"), report.get("training", {})
        part = (training["steps"] - training["first_step"] + 1) / max(training["steps"], 1) if training else 0
        run.seconds = training["seconds"] / part if part else None  # a resumed run knows the time of its last part
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{file}: damaged ({type(error).__name__}); simcse train --resume auto makes it anew"
        ) from error
    run.state = "finished"
    return True


def is_running(folder: Path) -> bool:
    """Whether a process holds the lock of a run folder."""
    try:
        with (folder / ".lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def row_of(group: Sequence[Run]) -> dict[str, Any]:
    """A run, or the seeds of one, for JSON and the table: finished seeds count where there are any."""
    counted = [run for run in group if run.state == "finished"] or group
    seconds = [run.seconds for run in counted if run.seconds is not None]
    states = [run.state for run in group]
    finished = states.count("finished")
    several = f"{finished} of {len(group)} seeds finished"
    return {
        "run": str(group[0].folder.parent if SEED.fullmatch(group[0].folder.name) else group[0].folder),
        "state": states[0] if len(group) == 1 else "finished" if finished == len(group) else several,
        "metric": group[0].metric,
        "dev": spread([run.dev for run in counted]),
        "average": spread([run.average for run in counted]),
        "seconds": fmean(seconds) if seconds else None,
        "seeds": {
            run.folder.name: {"state": run.state, "dev": run.dev, "average": run.average, "seconds": run.seconds}
            for run in group
        },
        "options": group[0].options,
    }


def spread(values: Sequence[float | None]) -> dict[str, Any] | None:
    """Mean, and the standard deviation of several; None without any value."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {"mean": fmean(known), "std": stdev(known) if len(known) > 1 else None, "n": len(known)}


def differing(options: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the options that are not the same in all runs; those with the most values first."""
    names = dict.fromkeys(name for one in options for name in one)
    values = {name: {json.dumps(one.get(name), sort_keys=True) for one in options} for name in names}
    return sorted((name for name in names if len(values[name]) > 1), key=lambda name: -len(values[name]))
