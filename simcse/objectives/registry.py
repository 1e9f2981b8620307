"""Objects by the name that a config uses, built with options that are checked."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from simcse.errors import ConfigError, did_you_mean

__all__ = ["build"]

T = TypeVar("T")


def build(option: str, registry: Mapping[str, Callable[..., T]], name: str, options: Mapping[str, Any]) -> T:
    """What the registry holds under that name, with its options.

    Args:
        option: of the command line, that gives the name.
        registry: names and classes.
        name: one of them.
        options: arguments of the class.

    Raises:
        ConfigError: an unknown name or option; the class refuses a value.
    """
    if name not in registry:
        raise ConfigError(f"{option} is {name!r}, expected one of {', '.join(registry)}{did_you_mean(name, registry)}")
    known = sorted(inspect.signature(registry[name]).parameters)
    if unknown := sorted(set(options) - set(known)):
        accepted = ", ".join(known) if known else "no options"
        raise ConfigError(f"{option} {name}: unknown option {unknown[0]!r}; it accepts {accepted}")
    return registry[name](**options)
