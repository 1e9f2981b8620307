"""A fact about this machine or installation, and what to do about it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from simcse.display.tables import WIDTH

__all__ = ["Finding", "as_json", "lines"]

LABEL = 18  # columns of a topic


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis."""

    topic: str
    found: str
    advice: str | None = None
    """What would make it better, if anything would."""
    broken: bool = False
    """Whether something does not work because of it."""


Sections = Mapping[str, Sequence[Finding]]


def as_json(sections: Sections) -> dict[str, Any]:
    """`{"ok": ..., "findings": [{"section", "topic", "found", "advice", "broken"}, ...]}`."""
    findings = [{"section": name, **asdict(finding)} for name, found in sections.items() for finding in found]
    return {"ok": not any(finding["broken"] for finding in findings), "findings": findings}


def lines(sections: Sections) -> Iterator[str]:
    """At most 80 columns: a mark (x broken, ! advice), topic, what was found, and the advice below it."""
    for name, findings in sections.items():
        yield name
        for one in findings:
            mark = "x" if one.broken else "!" if one.advice else " "
            yield from wrapped(one.found, f"{mark} {one.topic:<{LABEL}} ")
            if one.advice:
                yield from wrapped(one.advice, f"{'':{LABEL}}-> ")
        yield ""
    every = [one for findings in sections.values() for one in findings]
    broken = [one.topic for one in every if one.broken]
    advice = sum(one.advice is not None and not one.broken for one in every)
    said = f"broken (x): {', '.join(broken)}" if broken else "nothing is broken"
    yield f"{said}; {f'{advice} could be better (!)' if advice else 'nothing to improve'}"


def wrapped(text: str, before: str) -> list[str]:
    """`text` behind `before`, its further lines below its first."""
    return textwrap.wrap(
        text, WIDTH, initial_indent=before, subsequent_indent=" " * len(before), break_on_hyphens=False
    ) or [before.rstrip()]  # fmt: skip
