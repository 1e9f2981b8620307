"""Pairs near and far, scored by several encoders: what is drawn, and the command, whose file training takes."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from simcse import ConfigError, SentenceEncoder
from simcse.cli import main
from simcse.data.groups import read_scored_training
from simcse.search.tools.scored_pairs import check_draw, scored_pairs
from simcse.vectors import unit_rows

WEIGHTS = [0.25, 0.75]


def two_encoders(texts: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [unit_rows(rng.normal(size=(texts, width))) for width in (24, 8)]


def test_the_score_is_the_weighted_mean_of_the_cosines_and_the_other_text_is_near():
    vectors = two_encoders(200)
    pairs = list(scored_pairs(vectors, WEIGHTS, 200, neighbors=20))
    cosines = sum(weight * part @ part.T for weight, part in zip(WEIGHTS, vectors, strict=True))
    ranks = []
    for i, j, score in pairs:
        assert i != j
        assert score == pytest.approx(float(cosines[i, j]), abs=1e-5)
        ranks.append(int((np.delete(cosines[i], i) > cosines[i, j] + 1e-6).sum()) + 1)
    assert max(ranks) <= 20
    assert min(ranks) == 1
    # each power of two as likely: of 1 to 20, 4 is in the middle of the logarithms
    assert 0.35 < np.mean(np.array(ranks) <= 3) < 0.6
    assert len({frozenset(pair[:2]) for pair in pairs}) == len(pairs) > 150


@pytest.mark.parametrize("texts", [2, 5])
def test_fewer_texts_than_neighbors(texts):
    pairs = list(scored_pairs(two_encoders(texts), WEIGHTS, 10, neighbors=300))
    assert 1 <= len(pairs) <= texts
    assert all(i != j for i, j, _ in pairs)


def test_equal_texts_are_a_pair_but_a_text_is_none_with_itself():
    vectors = [np.repeat(unit_rows(np.random.default_rng(0).normal(size=(6, 4))), 2, axis=0)]
    pairs = list(scored_pairs(vectors, [1.0], 12, neighbors=1))
    assert sorted(tuple(sorted(pair[:2])) for pair in pairs) == [(2 * i, 2 * i + 1) for i in range(6)]


def test_a_seed_draws_the_same_pairs():
    vectors = two_encoders(50)
    first, again, other = (list(scored_pairs(vectors, WEIGHTS, 30, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0], 2, 1, 1), r"weights: found \[1\.0\] for 2 encoders"),
        (([1.0, 0.0], 2, 1, 1), "expected a number above 0 for each"),
        (([1.0, float("nan")], 2, 1, 1), "expected a number above 0 for each"),
        ((None, 1, 0, 1), "count: found 0, expected at least 1"),
        ((None, 1, 1, 0), "neighbors: found 0, expected at least 1"),
    ],
)
def test_wrong_numbers(arguments, message):
    with pytest.raises(ConfigError, match=message):
        check_draw(*arguments)
    assert check_draw([1, 3], 2, 1, 1) == WEIGHTS


def test_the_command_writes_what_training_takes_and_keeps_the_vectors(
    tiny_bert, tmp_path, capsys, monkeypatch, sentences
):
    texts = sentences[:40]
    (tmp_path / "lines.txt").write_text("\n".join(texts[:20]) + "\n\n")
    (tmp_path / "rows.csv").write_text(
        "a,b\n" + "".join(f'{texts[20 + i]},"{texts[30 + i]}, and"\n' for i in range(10))
    )
    output = tmp_path / "scored.csv"
    command = ["score-pairs", str(tmp_path / "lines.txt"), str(tmp_path / "rows.csv"), "--output", str(output)]
    command += ["--model", f'["{tiny_bert}","{tiny_bert}"]', "--weights", "[1,3]", "--cache", str(tmp_path / "kept")]
    assert main([*command, "--device", "cpu", "--dtype", "fp32"]) == 0
    said = capsys.readouterr().err
    rows = list(csv.DictReader(output.read_text().splitlines()))
    assert f"{output}: {len(rows)} pairs of 40 texts" in said
    encoder = SentenceEncoder.from_pretrained(tiny_bert, device="cpu", dtype="fp32")
    for row in rows[:5]:
        a, b = encoder.encode([row["sentence1"], row["sentence2"]])
        assert float(row["score"]) == pytest.approx(float(a @ b), abs=1e-4)
    assert len(read_scored_training(output)) == len(rows)
    assert len(list((tmp_path / "kept").glob("*.npy"))) == 1
    monkeypatch.setattr(SentenceEncoder, "encode_to", None)  # nothing is computed again
    assert main([*command, "--device", "cpu", "--dtype", "fp32"]) == 0
    assert "kept in" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output", "scored.tsv"], "--output: found scored.tsv, expected a name that ends in .csv"),
        (["--output", "scored.csv", "--weights", "[1,2]"], "weights: found [1.0, 2.0] for 1 encoders"),
        (["--output", "scored.csv"], "one.txt: found 1 texts, expected two or more"),
    ],
)
def test_what_is_wrong_is_told_before_any_work(options, message, tiny_bert, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.txt").write_text("one\none\n")
    assert main(["score-pairs", "one.txt", "--model", str(tiny_bert), *options]) in (1, 2)
    assert message in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["one.txt"]
