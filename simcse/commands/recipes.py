"""The recipes that are shipped: a YAML each, whose head says what it does and which score to expect."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

import yaml

import simcse
from simcse.commands.shared import Format, as_text, print_json
from simcse.errors import ConfigError, did_you_mean

__all__ = ["recipe_files", "recipes", "with_recipe_files"]

PACKAGE = Path(simcse.__file__).parent


def recipe_files() -> dict[str, Path]:
    """Name -> file: configs/ in the installed package, or beside it in a checkout."""
    folder = next(folder for folder in (PACKAGE / "configs", PACKAGE.parent / "configs") if folder.is_dir())
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def with_recipe_files(arguments: Sequence[str]) -> list[str]:
    """The arguments, with the file in place of a recipe's name behind `--config`.

    Raises:
        ConfigError: neither a file nor a recipe.
    """
    found = list(arguments)
    for i, argument in enumerate(found):
        if argument.startswith("--config="):
            found[i] = f"--config={file_of(argument.removeprefix('--config='))}"
        elif i and found[i - 1] == "--config":
            found[i] = str(file_of(argument))
    return found


def file_of(name: str) -> Path | str:
    if not name:
        return name
    if Path(name).is_file():
        check_yaml(name)
        return name
    files = recipe_files()
    if name in files:
        return files[name]
    hint = did_you_mean(Path(name).stem, files)
    raise ConfigError(f"--config {name}: no such file, and no recipe; recipes are {', '.join(files)}{hint}")


def check_yaml(name: str) -> None:
    """Raise a ConfigError that names the line if a file is no YAML."""
    try:
        yaml.safe_load(Path(name).read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"--config {name}: is not UTF-8 ({error}); convert it") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"--config {name}{line}: no YAML ({getattr(error, 'problem', error)}); correct it") from error


def recipes(*, format: Format = "text") -> None:
    """List the recipes for `simcse train --config`, with the scores to expect.

    Args:
        format: text, or json, a recipe a line; auto is text on a terminal, and json where output is piped
    """
    for name, path in recipe_files().items():
        lines = (line[1:].strip() for line in path.read_text(encoding="utf-8").split("\nmodel:")[0].splitlines())
        # what it is, its command, what to expect
        what, _, expected, *_ = [paragraph.replace("\n", " ") for paragraph in "\n".join(lines).split("\n\n")]
        if not as_text(format):
            print_json({"name": name, "file": str(path), "what": what, "expected": expected})
            continue
        said = " ".join(re.split(r"(?<=\.) (?=[A-Z`]|--)", text)[0] for text in (what, expected))
        print(f"{name}\n{textwrap.fill(said, 80, initial_indent='    ', subsequent_indent='    ')}")
