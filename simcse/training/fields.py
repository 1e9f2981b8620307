"""Dataclasses of options that check what they are given, as the command line does: names first, then types."""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from pathlib import PurePath
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from simcse.errors import ConfigError, did_you_mean, shown
from simcse.option_names import NOTES, OTHER_NAMES

__all__ = ["checked_fields", "part_of"]

T = TypeVar("T")
KINDS: dict[Any, Any] = {int: Integral, float: Real, NoneType: NoneType}  # those of numpy are integers and reals, too


def checked_fields(cls: type[T]) -> type[T]:
    """The same dataclass, whose arguments are checked; a path stands for its text, a tuple for a list, numpy's numbers
    for those of Python.

    Raises:
        ConfigError: on a call, an argument that is no field, or a value of another type; names what was meant.
    """
    init: Callable[..., None] = cls.__init__
    hints = get_type_hints(cls)

    @functools.wraps(init)
    def checked(self: T, *args: Any, **options: Any) -> None:
        values = dict(zip(hints, args, strict=False)) | options
        for name, value in values.items():
            if name not in hints:
                raise ConfigError(f"{cls.__name__} has no field {name}={shown(value)}{_meant(name, hints)}")
            if isinstance(value, PurePath):
                values[name] = str(value)
            elif isinstance(value, tuple):
                values[name] = list(value)
            elif isinstance(value, Real) and hasattr(value, "item"):
                values[name] = value.item()
            if not _fits(values[name], hints[name]):
                raise ConfigError(f"{cls.__name__}({name}={shown(value)}): expected {_in_words(hints[name], value)}")
        init(self, *args[len(hints) :], **values)

    cls.__init__ = checked  # type: ignore[assignment]
    return cls


def part_of(kind: type[T], name: str, value: Any) -> T:
    """A part of a config, given as such or as a mapping of its fields.

    Raises:
        ConfigError: neither, or a wrong field.
    """
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name}: found {shown(value)}, expected {kind.__name__}(...) or a dict of its fields")
    return kind(**{str(field): given for field, given in value.items()})


def _meant(name: str, hints: Mapping[str, Any]) -> str:
    """The field that was meant, by its name in other packages or by likeness; it begins with a semicolon."""
    spelled: dict[str, str] = {}
    for field, hint in hints.items():
        parts = dataclasses.fields(hint) if dataclasses.is_dataclass(hint) else ()
        spelled |= {part.name: f"{field}={hint.__name__}({part.name}=...)" for part in parts}
    spelled |= {field: f"{field}=..." for field in hints}
    theirs = [option.rpartition(".")[2] for option in OTHER_NAMES.get(name, "").split()]
    note = NOTES.get(name, "").replace("--", "")
    for known in (name, *theirs):
        if known in spelled:
            return f"; here it is {spelled[known]}{f', {note}' if note else ''}"
    if note:
        return f"; {note}"
    close = difflib.get_close_matches(name, spelled, n=1)
    return f"; did you mean {spelled[close[0]]}?" if close else f"; it has {', '.join(hints)}"


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the type that a field is annotated by; a part of the config is checked by itself."""
    origin = get_origin(hint)
    if hint is Any or dataclasses.is_dataclass(hint):
        return True
    if origin is Literal:
        return value in get_args(hint)
    if origin is list:
        return isinstance(value, list) and all(_fits(element, get_args(hint)[0]) for element in value)
    if origin is dict:
        return isinstance(value, Mapping)  # what is in it is checked where it is used
    if origin is not None:
        return any(_fits(value, one) for one in get_args(hint))
    return isinstance(value, KINDS.get(hint, hint)) and (hint is bool or not isinstance(value, bool))


def _in_words(hint: Any, value: Any) -> str:
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        return f"one of {', '.join(choices)}{did_you_mean(str(value), choices)}"
    if get_origin(hint) in (list, dict):
        return str(hint)
    if alternatives := get_args(hint):
        return " or ".join(_in_words(one, value) for one in alternatives)
    return "None" if hint is NoneType else str(hint.__name__)
