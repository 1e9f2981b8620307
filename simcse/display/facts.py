"""Facts about an index for readers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["fact_lines", "plan_in_words"]


def fact_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """A line for each of `SearchIndex.info`."""
    for name, value in facts.items():
        text = ", ".join(value) if isinstance(value, list) else value
        if name == "plan" and value:
            text = plan_in_words(value)
        yield f"{name:<12} {'-' if text in (None, '') else text}"


def plan_in_words(plan: Mapping[str, Any] | None) -> str:
    """How an index searches, why, and how good that is, in a line."""
    if plan is None:
        return "kept and searched by Milvus"
    if plan["factory"] is None:
        return f"exact search: {plan['reason']}"
    return (
        f"{plan['factory']}: {plan['reason']}; recall@10 {plan['recall']:.3f} on {plan['measured_on']}, "
        f"{plan['milliseconds']:.2f} ms a query, exact search {plan['exact_milliseconds']:.2f} ms"
    )
