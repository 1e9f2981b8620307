"""What a run that goes on must share with the run that was: options, data, and the files of its state, to the bit.

`last/run.json` holds the version of its format, the options, what the data were (rows and a fingerprint), and the
SHA-256 of each file beside it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from simcse.data.arrow import fingerprint
from simcse.errors import ConfigError, DataError, ModelError
from simcse.evaluation.sts import SEVEN, load_task
from simcse.files import check_version, is_there, sha256_of
from simcse.training.config import DataConfig, TrainConfig

__all__ = ["Facts", "check_data", "check_options", "check_whole", "data_facts", "flat", "read_config", "seal"]

FACTS = "run.json"
FORMAT = 1  # of run.json and of all that lies beside it
# what may change between a run and its resumption without making it another run
FREE = {
    "resume",
    "output_dir",
    "eval_every",
    "save_every",
    "log_every",
    "trackers",
    "seeds",
    "micro_batch_size",
    "teacher.cache",
}
Facts = dict[str, dict[str, Any]]


def data_facts(data: DataConfig, rows: Sequence[Any]) -> Facts:
    """What each file holds, as far as that decides what a run becomes.

    Args:
        data: names the files.
        rows: a `datasets.Dataset` for each source, the training files as read.
    """
    names = [f"sources[{number}]" for number in range(len(data.sources))] or ["train"]
    facts: Facts = {
        name: {"rows": len(own), "fingerprint": fingerprint(own)} for name, own in zip(names, rows, strict=True)
    }
    for name in ("dev", "dev_corpus", "synonyms"):
        file = getattr(data, name)
        if file is not None and Path(file).is_file():  # a name at the hub has a revision of its own
            facts[name] = {"fingerprint": sha256_of(Path(file))}
    if data.test:
        subsets = [subset for task in SEVEN for subset in load_task(task, data.test)]
        digest = hashlib.sha256()
        for text in chain.from_iterable((*subset.a, *subset.b, *map(str, subset.scores)) for subset in subsets):
            digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
        facts["test"] = {"rows": sum(map(len, subsets)), "fingerprint": digest.hexdigest()}
    return facts


def seal(folder: Path, options: Mapping[str, Any], data: Facts) -> None:
    """Write run.json for the state that a folder holds."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sums = {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}
    content = {"format": FORMAT, "options": dict(options), "data": data, "files": sums}
    (folder / FACTS).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def check_whole(folder: Path) -> dict[str, Any]:
    """run.json of a state whose files are those that were saved.

    Raises:
        ModelError: one is missing or another, or a newer simcse has written it.
    """
    remedy = "restore a copy of the folder, or start anew with another output_dir"
    try:
        facts: dict[str, Any] = dict(json.loads((folder / FACTS).read_bytes()))
        check_version(folder / FACTS, facts.get("format", 1), FORMAT, ModelError)
        files, _, _ = dict(facts["files"]), dict(facts["options"]), dict(facts["data"])
    except FileNotFoundError:
        raise ModelError(f"{folder / FACTS}: missing, so the state is not whole; {remedy}") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{folder / FACTS}: damaged ({type(error).__name__}); {remedy}") from error
    for name, expected in files.items():
        if not (is_there(folder / name) and (folder / name).is_file()):
            raise ModelError(f"{folder / name}: missing, so the state is not whole; {remedy}")
        if (found := sha256_of(folder / name)) != expected:
            raise ModelError(
                f"{folder / name}: damaged: its SHA-256 begins with {found[:8]}, that of the file saved with "
                f"{str(expected)[:8]}; {remedy}"
            )
    return facts


def read_config(folder: Path) -> dict[str, Any]:
    """The options in a run folder's config.yaml.

    Raises:
        ConfigError: it is missing or damaged.
    """
    file = folder / "config.yaml"
    remedy = "restore it, or start anew with another output_dir"
    try:
        options = yaml.safe_load(file.read_bytes())
    except FileNotFoundError:
        raise ConfigError(f"{file}: missing, so nobody can tell whether this is the same run; {remedy}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: damaged ({type(error).__name__}); {remedy}") from error
    if not isinstance(options, dict):
        raise ConfigError(
            f"{file}: found {'nothing' if options is None else repr(options)}, expected options; {remedy}"
        )
    return options


def check_options(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Raise a ConfigError that names an option with another value than the run in `folder` was started with.

    An option that came after the run had its default then.
    """
    new = flat(now)
    was = {key: value for key, value in flat(TrainConfig().as_dict()).items() if key in new} | flat(before)
    for key in sorted((set(was) | set(new)) - FREE):
        if was.get(key) != new.get(key):
            raise ConfigError(
                f"{key} is {new.get(key)!r}, but the run in {folder} was started with {was.get(key)!r}; resume it "
                "with the same value, or name another output_dir"
            )


def check_data(before: Facts, now: Facts, names: Mapping[str, Any], folder: Path) -> None:
    """Raise a DataError that names a file which holds something else than when the run in `folder` was started."""
    for name in now:
        was = before.get(name, {})
        if was == now[name]:
            continue
        old, new = was.get("rows"), now[name].get("rows")
        begun = f"the run in {folder} was started with"
        found = f"{new} rows, but {begun} {old}" if new != old else f"other content than {begun}"
        raise DataError(f"{names[name]}: holds {found}; give it the same data, or name another output_dir")


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Options by dotted name."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and key not in ("objective_args", "prompts"):
            found.update(flat(value, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = value
    return found
