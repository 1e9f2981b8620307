"""Hits of a search, for programs and for readers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["SCORE_DIGITS", "hit_lines", "hits_as_json", "pair_lines", "scores_as_json"]

SCORE_DIGITS = 6  # decimals of a cosine in JSON: more are rounding


def hits_as_json(query: str, hits: Sequence[Any]) -> dict[str, Any]:
    """`{"query": ..., "hits": [{"text": ..., "score": ..., "id": ..., "metadata": {...}}, ...]}` of search's `Hit`s."""
    return {
        "query": query,
        "hits": [
            {"text": hit.text, "score": round(hit.score, SCORE_DIGITS), "id": hit.id, "metadata": hit.metadata}
            for hit in hits
        ],
    }


def scores_as_json(found: Sequence[tuple[Any, float]]) -> list[dict[str, Any]]:
    """`[{"id": ..., "score": ...}, ...]` of ids with their cosines."""
    return [{"id": key, "score": round(score, SCORE_DIGITS)} for key, score in found]


def hit_lines(hits: Sequence[Any], columns: int) -> Iterator[str]:
    """A line of at most `columns` characters for each hit: cosine, id, text."""
    width = max((len(str(hit.id)) for hit in hits), default=0)
    for hit in hits:
        yield _cut(f"{hit.score:7.4f}  {hit.id!s:>{width}}  {' '.join(hit.text.split())}", columns)
    if not hits:
        yield "   no hit"


def pair_lines(score: float, both: Sequence[tuple[Any, str]], columns: int) -> Iterator[str]:
    """A line of at most `columns` characters for each (id, text) of two: their cosine before the first."""
    width = max(len(str(key)) for key, _ in both)
    for first, (key, text) in zip((f"{score:7.4f}", " " * 7), both, strict=True):
        yield _cut(f"{first}  {key!s:>{width}}  {' '.join(text.split())}", columns)


def _cut(line: str, columns: int) -> str:
    return line if len(line) <= columns else f"{line[: columns - 3]}..."
