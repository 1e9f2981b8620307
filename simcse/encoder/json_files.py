"""A checkpoint's JSON files, checked as they are read: what is missing, damaged or of another type is one line."""

from __future__ import annotations

import json
import stat
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any

from simcse.errors import ModelError

__all__ = ["NEEDED", "entry", "read_json", "read_object", "within", "write_json"]

NEEDED: Any = object()  # in place of a default: the entry must be there
KINDS: dict[type, str] = {
    str: "a text",
    int: "an integer",
    bool: "true or false",
    list: "a list",
    dict: "an object",
    float: "a number",
}


def read_json(file: Path) -> Any:
    """A JSON file's content.

    Raises:
        ModelError: the file is missing, cannot be read or is no JSON; names it.
    """
    try:
        if not stat.S_ISREG(file.stat().st_mode):  # reading a pipe or a device may never end
            raise ModelError(f"{file}: no plain file; the checkpoint is damaged")
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{file}: missing; the checkpoint is incomplete") from None
    except OSError as error:
        raise ModelError(f"{file}: cannot be read ({error.strerror})") from error
    except RecursionError:
        raise ModelError(f"{file}: no valid JSON (nested too deep); the checkpoint is damaged") from None
    except ValueError as error:  # no JSON, no UTF-8, or a number of thousands of digits
        raise ModelError(f"{file}: no valid JSON ({error}); the checkpoint is damaged") from error


def read_object(file: Path) -> dict[str, Any]:
    """The same, for a file that holds an object.

    Raises:
        ModelError: as in `read_json`; the file holds something else.
    """
    content = read_json(file)
    if not isinstance(content, dict):
        raise ModelError(f"{file}: holds {as_json(content)}, expected an object; the checkpoint is damaged")
    return content


def entry(settings: dict[str, Any], key: str, kind: type, file: Path, default: Any = NEEDED) -> Any:
    """`settings[key]`, if it is of that type; the default where it is missing or null.

    Raises:
        ModelError: it is of another type (`true` is no integer), or missing and there is no default.
    """
    value = settings.get(key)
    if value is None:
        if default is NEEDED:
            found = "null" if key in settings else "missing"
            raise ModelError(f"{file}: {key!r} is {found}, expected {KINDS[kind]}; the checkpoint is incomplete")
        return default
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ModelError(f"{file}: {key!r} is {as_json(value)}, expected {KINDS[kind]}")
    return value


def as_json(value: object) -> str:
    """A value as JSON, cut to what fits a line."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def within(folder: Path, name: object, file: Path) -> Path:
    """The folder of that name inside `folder`; an empty name is `folder` itself.

    Raises:
        ModelError: `file`, which gives the name, leads elsewhere: by an absolute path, by `..`, or through a link.
    """
    if isinstance(name, str) and "\0" not in name and ".." not in name.replace("\\", "/").split("/"):
        place = folder / name  # an absolute name takes the place of `folder`
        with suppress(OSError, RuntimeError):  # a name too long, links in a circle
            if place.resolve().is_relative_to(folder.resolve()) and not PurePath(name).is_absolute():
                return place
    raise ModelError(f"{file}: {as_json(name)} leads out of the checkpoint, expected the plain name of a folder in it")


def write_json(file: Path, content: Any) -> None:
    """Write indented JSON."""
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
