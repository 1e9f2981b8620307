"""Near-duplicates with known answers."""

from __future__ import annotations

import numpy as np
import pytest

from simcse import ConfigError, SearchIndex
from simcse.search.tools.clusters import cluster
from simcse.search.tools.duplicates import near_duplicates


def test_duplicates_are_close_to_what_is_kept_and_chains_do_not_collapse(at):
    """cos 10 degrees is .985, cos 20 is .940: of 0, 10, 20, 30 the first has 10, then 20 has 30; 90 is alone."""
    done: list[int] = []
    groups = dict(near_duplicates(at(0, 10, 20, 90, 30), 0.98, advance=done.append))
    assert sum(done) == 5
    assert {kept: [key for key, _ in others] for kept, others in groups.items()} == {0: [1], 2: [4]}
    assert groups[0][0][1] == pytest.approx(np.cos(np.radians(10)), abs=1e-6)


def test_exact_copies_and_deleted_texts(at):
    index = at(5, 5, 5, 80)
    assert [(kept, [key for key, _ in others]) for kept, others in near_duplicates(index, 1.0)] == [(0, [1, 2])]
    index.delete([0])
    assert [(kept, [key for key, _ in others]) for kept, others in near_duplicates(index, 1.0)] == [(1, [2])]
    with pytest.raises(ConfigError, match="threshold: found 95"):
        list(near_duplicates(index, 95))


def test_ids_of_both_kinds_and_a_change_between(at):
    index = at(0, 60, 120, 1, 121, 180, ids=[3, 20, 100, 101, "b", "a"])
    pairs = [(kept, [key for key, _ in others]) for kept, others in near_duplicates(index, 0.99)]
    assert pairs == [(3, [101]), (100, ["b"])]
    assert {key for group in cluster(index, 3) for key, _ in group.members} == {3, 20, 100, 101, "a", "b"}
    index.delete(["a", 101])
    index.add(["59"])
    pairs = [(kept, [key for key, _ in others]) for kept, others in near_duplicates(index, 0.99)]
    assert pairs == [(20, [102]), (100, ["b"])]


def test_what_is_deleted_meanwhile_is_no_duplicate(encoder):
    """Of a copy or of what was to be kept; groups that are left without either are not told."""
    index = SearchIndex.build(["a", "a", "b", "b", "b", "c", "c", "d", "d"], encoder.encode)
    groups = near_duplicates(index, 1.0)
    found = [next(groups)]
    index.delete([3, 6, 7])
    assert [(kept, [key for key, _ in others]) for kept, others in [*found, *groups]] == [(0, [1]), (2, [4])]
