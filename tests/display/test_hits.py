"""Hits as JSON and as lines of a terminal."""

from __future__ import annotations

from simcse import Hit
from simcse.display.hits import hit_lines, hits_as_json

HITS = [Hit("a cat\nsleeps", 0.123456789, "k-1", {"lang": "en"}), Hit("b" * 100, -0.5, 7)]


def test_json_holds_all_of_a_hit() -> None:
    assert hits_as_json("q", HITS)["hits"][0] == {
        "text": "a cat\nsleeps", "score": 0.123457, "id": "k-1", "metadata": {"lang": "en"},
    }  # fmt: skip
    assert hits_as_json("q", []) == {"query": "q", "hits": []}


def test_lines_are_aligned_and_fit() -> None:
    assert list(hit_lines(HITS, 40)) == [" 0.1235  k-1  a cat sleeps", f"-0.5000    7  {'b' * 23}..."]
    assert list(hit_lines([], 40)) == ["   no hit"]
