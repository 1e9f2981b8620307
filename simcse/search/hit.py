"""What a search returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from simcse.search.rows import Id

__all__ = ["Hit"]


@dataclass(frozen=True)
class Hit:
    """One answer.

    Attributes:
        text: the text as it was given.
        score: cosine similarity with the query, in [-1, 1].
        id: the id it was given, or the number that it got; never -1.
        metadata: what was stored with it.
    """

    text: str
    score: float
    id: Id
    metadata: dict[str, Any] = field(default_factory=dict)
