"""Try values of train.py's options, the next ones by what the last ones scored on dev; README.md says how."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial, TrialState

from simcse.commands.recipes import with_recipe_files
from simcse.commands.runs import find, read_run, row_of
from simcse.commands.train import build_parser
from simcse.console import run
from simcse.errors import ConfigError, ModelError

TRAIN = Path(__file__).parents[2] / "train.py"
WRONG_USE = 2  # exit status of a wrong option: the same in every trial


def space_of(ranges: Sequence[str], choices: Sequence[str]) -> dict[str, BaseDistribution]:
    """What to draw each option from.

    Args:
        ranges: `optim.lr=1e-5..1e-4`; whole numbers where both ends are, on a logarithmic scale from a factor of 10 on.
        choices: `temperature=.03,.05,.1`; drawn as they stand.
    """
    space: dict[str, BaseDistribution] = {}
    for given in ranges:
        name, _, ends = given.partition("=")
        try:
            whole = all(end.strip().lstrip("-").isdigit() for end in ends.split(".."))
            low, high = (int(end) if whole else float(end) for end in ends.split(".."))
            space[name] = (IntDistribution if whole else FloatDistribution)(low, high, log=0 < 10 * low <= high)
        except ValueError as error:
            expected = "expected NAME=LOW..HIGH, such as 1e-5..1e-4"
            raise ConfigError(f"--range of {name}: found {ends!r}, {expected}") from error
    for given in choices:
        name, _, values = given.partition("=")
        if not all(value.strip() for value in values.split(",")):
            raise ConfigError(f"--choice of {name}: found {values!r}, expected NAME=VALUE,VALUE, such as .03,.05")
        space[name] = CategoricalDistribution(values.split(","))
    if not space:
        raise ConfigError("nothing to try: name options by --range NAME=LOW..HIGH or --choice NAME=VALUE,VALUE")
    return space


def check_options(space: dict[str, BaseDistribution], common: list[str]) -> None:
    """Raise what is wrong with the options before the first trial: one of each, and a dev set to choose by."""
    values = {name: drawn.choices[0] if isinstance(drawn, CategoricalDistribution) else drawn.low  # type: ignore[attr-defined]
              for name, drawn in space.items()}  # fmt: skip
    parsed = build_parser().parse_args(with_recipe_files([*common, *as_options(values)]))
    if parsed.data.dev is None:
        raise ConfigError("data.dev is not given: trials are compared by their score on it")


def as_options(values: dict[str, Any]) -> list[str]:
    """As train.py takes them."""
    return [f"--{name}={value}" for name, value in values.items()]


def open_study(folder: Path, about: dict[str, Any]) -> optuna.Study:
    """The study in a folder, which goes on, or a new one; of trials that were stopped, the first is tried again first.

    Raises:
        ConfigError: the one that is there tries something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    storage = f"sqlite:///{(folder / 'study.db').resolve()}"
    study = optuna.create_study(storage=storage, study_name="sweep", direction="maximize", load_if_exists=True)
    before = study.user_attrs.get("about")
    if before not in (None, about):
        raise ConfigError(
            f"output_dir={folder} holds another sweep; repeat its options or name another folder: {json.dumps(before)}"
        )
    study.set_user_attr("about", about)
    for trial in study.get_trials(states=(TrialState.RUNNING,)):  # its process is gone, its run folder can go on
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params, {"folder": folder_of(trial)})
    return study


def folder_of(trial: Any) -> str:
    """Of its run; one that goes on with another trial's has that one's."""
    return str(trial.user_attrs.get("folder", f"trial-{trial.number:03d}"))


def train(folder: Path, options: list[str]) -> float | None:
    """The score on dev of a run with these options, which goes on where it was stopped; None of one that failed."""
    command = [sys.executable, str(TRAIN), *options, f"--output_dir={folder}", "--resume=auto"]
    print(f"\n{shlex.join(command[1:])}", file=sys.stderr)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        status = process.wait()
    except KeyboardInterrupt:  # it heard the signal, too, and saves its state
        process.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    if status == WRONG_USE or status < 0 or status > 128:
        raise ModelError(f"{folder}: the run ended with status {status}; see above, and repeat the command to go on")
    if status:
        return None
    [group] = find(folder)
    dev: dict[str, float] = row_of([read_run(one) for one in group])["dev"]
    return dev["mean"]


def main(argv: Sequence[str]) -> None:
    """Run trials until there are as many as asked for."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False, epilog="Others are options of train.py.")
    parser.add_argument("--trials", type=int, required=True, help="how many there are to be in the end")
    parser.add_argument("--range", nargs="+", action="extend", default=[], help="NAME=LOW..HIGH")
    parser.add_argument("--choice", nargs="+", action="extend", default=[], help="NAME=VALUE,VALUE")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/sweep"), help="of study.db and the run folders")
    own, common = parser.parse_known_args(list(argv))
    space = space_of(own.range, own.choice)
    check_options(space, common)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = open_study(own.output_dir, {"range": own.range, "choice": own.choice, "options": common})
    while len(study.get_trials(states=(TrialState.COMPLETE,))) < own.trials:
        study.sampler = optuna.samplers.TPESampler(seed=len(study.trials))  # other draws when the study goes on
        trial: Trial = study.ask(space)
        score = train(own.output_dir / folder_of(trial), [*common, *as_options(trial.params)])
        study.tell(trial, score, state=None if score is not None else TrialState.FAIL)
        if score is None and not study.get_trials(states=(TrialState.COMPLETE,)):
            raise ModelError(f"the first trial failed; see above, and try its options by {TRAIN.name} alone")
    best = study.best_trial
    print(f"best: {folder_of(best)}, {best.value:.2f} on dev, by {shlex.join(as_options(best.params))}")
    print(f"all: simcse runs {shlex.quote(str(own.output_dir))}")


if __name__ == "__main__":
    raise SystemExit(run(main))
