"""Python, the packages that are needed, and the extras."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from simcse import __version__
from simcse.commands.diagnosis.finding import Finding
from simcse.console import original_beside

__all__ = ["extras", "versions"]

NAME = "simcse-kit"
FOR_DEVELOPMENT = ("dev", "bench", "docs")
MODULES = {"faiss-cpu": "faiss", "pyyaml": "yaml"}  # where a distribution's module has another name


def versions() -> Iterator[Finding]:
    """Python, ourselves, and each package without which nothing works: is it there, new enough, and can be imported."""
    from packaging.requirements import Requirement

    yield Finding("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    place, beside = Path(__file__).parents[2], original_beside() is not None
    yield Finding(
        NAME,
        f"{__version__} in {place}{', which holds the original package simcse, too' if beside else ''}",
        f"pip uninstall -y simcse {NAME}, then pip install {NAME}: they overwrite each other" if beside else None,
        broken=beside,
    )
    try:
        lines = metadata.requires(NAME) or []
    except metadata.PackageNotFoundError:
        yield Finding("dependencies", "not known: run from a folder, not installed", "pip install -e . in the checkout")
        return
    for needed in map(Requirement, lines):
        if needed.marker is None or needed.marker.evaluate({"extra": ""}):
            yield version(needed.name, str(needed.specifier))


def version(name: str, bounds: str) -> Finding:
    """Whether a package of a version within `bounds` is there and can be imported."""
    from packaging.specifiers import SpecifierSet

    remedy = f"pip install '{name}{bounds}'"
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(name, "missing", remedy, broken=True)
    if not SpecifierSet(bounds).contains(found, prereleases=True):
        return Finding(name, f"{found}, expected {bounds}", remedy, broken=True)
    try:
        importlib.import_module(MODULES.get(name.lower(), name.replace("-", "_")))
    except Exception as error:  # a library of the system that is missing, two packages that do not fit together
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return Finding(name, f"{found} cannot be imported ({reason})", f"reinstall it: {remedy}", broken=True)
    return Finding(name, found)


def extras() -> Iterator[Finding]:
    """Which extras are complete, and how to install the others."""
    from packaging.requirements import Requirement

    try:
        about = metadata.metadata(NAME)
    except metadata.PackageNotFoundError:
        return
    needed = [Requirement(line) for line in metadata.requires(NAME) or []]
    complete = []
    for extra in about.get_all("Provides-Extra") or []:
        if extra in FOR_DEVELOPMENT:
            continue
        own = [one for one in needed if one.marker is not None and one.marker.evaluate({"extra": extra})]
        missing = [one.name for one in own if not installed(one.name)]
        if missing:
            yield Finding(extra, f"missing {', '.join(missing)}: pip install '{NAME}[{extra}]'")
        else:
            complete.append(extra)
    yield Finding("installed", ", ".join(complete) or "none")


def installed(name: str) -> bool:
    """Whether a distribution is there."""
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
