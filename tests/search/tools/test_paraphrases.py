"""The most similar pairs: exact in any blocks, those of sentence-transformers, and as a command."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sentence_transformers.util import paraphrase_mining_embeddings

from simcse import ConfigError, SearchError
from simcse.cli import main
from simcse.search.tools import paraphrases as mining
from simcse.search.tools.paraphrases import closest_pairs, paraphrases
from simcse.vectors import unit_rows

TEXTS = [f"text number {i % 150} about {i % 150 % 13}" for i in range(230)]


@pytest.mark.parametrize("count", [1, 17, 300, 10**6])
@pytest.mark.parametrize("blocks", [(1024, 8192), (7, 11)])
def test_pairs_are_those_of_sentence_transformers(monkeypatch, count, blocks):
    monkeypatch.setattr(mining, "ROWS", blocks[0])
    monkeypatch.setattr(mining, "COLUMNS", blocks[1])
    vectors = unit_rows(np.random.default_rng(0).normal(size=(120, 16)))
    done: list[int] = []
    scores, pairs = closest_pairs(vectors, count, advance=done.append)
    expected = paraphrase_mining_embeddings(vectors, top_k=119, max_pairs=10**6)[:count]
    assert sum(done) == 120
    np.testing.assert_allclose(scores, [score for score, _, _ in expected], atol=1e-6)
    assert {tuple(pair) for pair in pairs.tolist()} == {(i, j) for _, i, j in expected}
    assert (pairs[:, 0] < pairs[:, 1]).all()


def test_equal_texts_and_a_floor(encoder):
    found = paraphrases(TEXTS, encoder, count=10**6, min_score=0.9)
    equal = [(i, j) for j in range(230) for i in range(j) if TEXTS[i] == TEXTS[j]]
    assert equal
    assert sorted((i, j) for score, i, j in found if score > 1 - 1e-6) == sorted(equal)
    assert all(score >= 0.9 for score, _, _ in found)
    assert found == paraphrases(TEXTS, encoder, count=10**6)[: len(found)]
    assert [score for score, _, _ in found] == sorted((score for score, _, _ in found), reverse=True)
    assert paraphrases([], encoder) == paraphrases(["one"], encoder) == []
    with pytest.raises(ConfigError, match="count: found 0"):
        paraphrases(TEXTS, encoder, count=0)
    with pytest.raises(SearchError, match="min_score: found 'x'"):
        paraphrases(TEXTS, encoder, min_score="x")


def test_the_command(tiny_bert, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    (tmp_path / "a.csv").write_text(
        "id,text\nx,a man plays the guitar in the park\ny,rain\nz, \nw,a man plays the guitar in a park\n"
    )
    command = ["paraphrases", str(tmp_path / "a.csv"), "--model", str(tiny_bert), "--count", "2"]
    assert main([*command, "--format", "json"]) == 0
    printed = capsys.readouterr()
    first = json.loads(printed.out.splitlines()[0])
    assert first["a"] == {"id": "x", "text": "a man plays the guitar in the park"}
    assert first["b"] == {"id": "w", "text": "a man plays the guitar in a park"}
    assert 0.9 < first["score"] < 1
    assert "a.csv: 2 pairs of 3 texts" in printed.err
    assert main([*command, "--format", "text"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{first['score']:7.4f}  x  a man plays the guitar in..."
    assert lines[1] == "         w  a man plays the guitar in..."
    assert max(map(len, lines)) <= 40
    (tmp_path / "a.csv").write_text("text\none\n")
    assert main(command) == 1
    assert "a.csv: found 1 texts, expected two or more" in capsys.readouterr().err
