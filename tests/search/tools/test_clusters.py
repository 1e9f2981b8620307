"""Clusters with known answers, and communities as sentence-transformers finds them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sentence_transformers.util import community_detection

from simcse import ConfigError, SearchError, SearchIndex
from simcse.cli import main
from simcse.search.tools import clusters as grouping
from simcse.search.tools.clusters import cluster, communities


def test_clusters_that_are_apart_are_found(at):
    index = at(0, 1, 2, 3, 120, 121, 122, 240, 241, 300)
    index.delete([9])
    done: list[int] = []
    groups = cluster(index, 3, iterations=7, advance=done.append)
    assert done == [1] * 7
    assert [sorted(key for key, _ in group.members) for group in groups] == [[0, 1, 2, 3], [4, 5, 6], [7, 8]]
    assert groups[1].examples[0] == "121"
    scores = [score for _, score in groups[0].members]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("k", [0, 5])
def test_a_number_of_clusters_out_of_range_is_told(at, k):
    with pytest.raises(SearchError, match=f"clusters: found {k}, expected a number from 1 to 4"):
        cluster(at(0, 1, 2, 3), k)


@pytest.mark.parametrize(("threshold", "min_size"), [(0.9, 2), (0.75, 10), (0.6, 5), (0.0, 3), (0.999, 1)])
def test_communities_are_those_of_sentence_transformers(monkeypatch, threshold, min_size):
    monkeypatch.setattr(grouping, "SCORES_AT_ONCE", 10_000)  # 25 rows
    rng = np.random.default_rng(0)
    vectors = np.concatenate([rng.normal(size=32) + rng.normal(size=(n, 32)) * 0.5 for n in (5, 40, 20, 9, 60, 1, 200)])
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)[rng.permutation(335)]
    texts = [str(i) for i in range(335)]
    index = SearchIndex.build(texts, lambda some: vectors[[int(text) if text in texts else 0 for text in some]])
    done: list[int] = []
    groups = communities(index, threshold, min_size=min_size, advance=done.append)
    expected = community_detection(vectors, threshold=threshold, min_community_size=min_size, show_progress_bar=False)
    assert [[key for key, _ in group.members] for group in groups] == expected
    assert 335 <= sum(done) <= 670
    for group in groups:
        centre = vectors[group.members[0][0]]
        np.testing.assert_allclose(
            [s for _, s in group.members], vectors[[k for k, _ in group.members]] @ centre, atol=1e-5
        )
        assert group.examples == [str(key) for key, _ in group.members[:5]]


def test_communities_of_a_storage_with_deleted_texts(at):
    index = at(0, 1, 2, 3, 120, 121, 122, 240, 241, 300)
    index.delete([3])
    groups = communities(index, 0.99, min_size=3)
    assert [{key for key, _ in group.members} for group in groups] == [{0, 1, 2}, {4, 5, 6}]
    with pytest.raises(ConfigError, match="threshold: found 75"):
        communities(index, 75)
    with pytest.raises(ConfigError, match="iterations: found 0, expected at least 1"):
        cluster(index, 2, iterations=0)
    with pytest.raises(ConfigError, match="min_size: found 0"):
        communities(index, min_size=0)


def test_the_command_has_both(at, tmp_path, capsys):
    index = at(0, 1, 2, 3, 120, 121, 122, 240, 241, 300)
    if str(index.info["folder"] or "").startswith("milvus") or "milvus" in repr(index):
        pytest.skip("an index in Milvus has no folder")
    index.save(tmp_path / "idx")
    sizes = {}
    for options in (["--clusters", "4"], ["--method", "communities", "--threshold", "0.99", "--min_size", "2"]):
        assert main(["cluster", str(tmp_path / "idx"), *options]) == 0
        printed = capsys.readouterr()
        lines = [json.loads(line) for line in printed.out.splitlines()]
        assert all(set(line) == {"cluster", "size", "examples", "members"} for line in lines)
        sizes[options[0]] = [line["size"] for line in lines]
        assert f"{len(lines)} clusters of {sum(sizes[options[0]])} among 10 texts" in printed.err
    assert sum(sizes["--clusters"]) == 10
    assert sizes["--method"] == [4, 3, 2]
    for options, told in (
        ([], "--clusters: --method kmeans needs the number of clusters"),
        (["--method", "communities", "--clusters", "3"], "--method communities finds the number of clusters"),
    ):
        assert main(["cluster", str(tmp_path / "idx"), *options]) == 2
        assert told in capsys.readouterr().err
