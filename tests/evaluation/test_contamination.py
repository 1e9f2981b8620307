"""What of a test set stands in training data: against a naive comparison, and the counts of the real files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcse.cli import main
from simcse.data.pairs import ScoredPairs, read_scored_pairs
from simcse.evaluation.contamination import NEAR, clean_score, normalized, overlaps
from simcse.evaluation.sts import load_task

WORDS = ["a", "cat", "dog", "sits", "runs", "here", "now", "big", "red", "mat"]
TEXT = st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).map(" ".join)


def pairs(*rows: tuple[str, str]) -> ScoredPairs:
    a, b = zip(*rows, strict=True)
    return ScoredPairs(list(a), list(b), np.arange(len(rows), dtype=np.float64), "test")


def test_each_kind_is_counted() -> None:
    test = pairs(
        ("A cat sits .", "dogs run far"),  # normalised
        ("the big dog runs in the red park now", "x y"),  # near
        ("one two", "three four"),  # a whole pair, the other way round
        ("nothing", "of this"),
    )
    rows = [["a cat sits", "nobody"], ["the big dog runs in the green red park now"], ["three four", "one two"]]
    found = overlaps(rows, {"t": [test]})["t"]
    assert found.to_dict() == {"n": 4, "pairs": 1, "exact": 1, "normalized": 2, "near": 3}
    assert found.clean.tolist() == [False, False, False, True]


@pytest.mark.parametrize(
    ("raw", "tokenised"), [("Don't stop!", "do n't stop !"), ("U.S. “trade”", "u.s. `` trade ''"), ("ＡＢＣ", "abc")]
)
def test_tokenised_text_is_its_raw_text(raw: str, tokenised: str) -> None:
    assert normalized(raw) == normalized(tokenised)


@settings(max_examples=200, deadline=None)
@given(train=st.lists(TEXT, min_size=1, max_size=6), test=st.lists(TEXT, min_size=1, max_size=6))
def test_near_texts_are_those_of_a_naive_comparison(train: list[str], test: list[str]) -> None:
    found = overlaps([[text] for text in train], {"t": [pairs(*((text, "zzz") for text in test))]})["t"]

    def near(one: str, other: str) -> bool:
        a, b = set(one.split()), set(other.split())
        return len(a & b) / len(a | b) >= NEAR

    expected = [any(near(text, other) or normalized(text) == normalized(other) for other in train) for text in test]
    assert (~found.clean).tolist() == expected


def test_the_clean_score_is_that_of_the_other_pairs() -> None:
    sets = pairs(("p", "q"), ("r", "s"), ("t", "u"), ("v", "w"))
    vectors = {text: np.random.default_rng(ord(text)).standard_normal(4) for text in "pqrstuvw"}
    clean = np.array([True, False, True, True])

    def encode(texts: list[str]) -> np.ndarray:
        return np.array([vectors[text] for text in texts])

    part = pairs(("p", "q"), ("t", "u"), ("v", "w"))
    expected = clean_score(encode, [part], np.ones(3, bool), "t")
    assert clean_score(encode, [sets], clean, "t") == expected
    assert clean_score(encode, [sets], np.array([True, False, False, False]), "t") == {"n": 1}


def test_inspect_data_counts_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "train.txt").write_text("A cat sits.\nA dog runs.\n")
    (tmp_path / "test.tsv").write_text("a cat sits\tit is red\t1\nno\tyes\t3\n")
    command = ["inspect-data", str(tmp_path / "train.txt"), "--against", str(tmp_path / "test.tsv")]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "test pairs in the training file" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert main([*command, "--format", "json"]) == 0
    overlap = json.loads(capsys.readouterr().out)["overlap"]
    assert overlap == {"test.tsv": {"n": 2, "pairs": 0, "exact": 0, "normalized": 1, "near": 1}}


@pytest.mark.skipif("SIMCSE_DATA" not in os.environ, reason="SIMCSE_DATA names no folder with SentEval's STS and SICK")
def test_the_benchmarks_themselves_overlap() -> None:
    """STS-B train holds many test pairs of STS12 to 16, and SICK's train sentences are those of its test pairs."""
    data = Path(os.environ["SIMCSE_DATA"]) / "senteval"
    benchmark = read_scored_pairs(data / "STS" / "STSBenchmark" / "sts-train.csv")
    tests = {task: load_task(task, data) for task in ("STS12", "STS13", "STS14", "STS15", "STS16", "SICK-R")}
    found = overlaps(zip(benchmark.a, benchmark.b, strict=True), tests)
    assert {task: found[task].pairs for task in tests} == {
        "STS12": 1003, "STS13": 595, "STS14": 1855, "STS15": 1096, "STS16": 194, "SICK-R": 55,
    }  # fmt: skip
    sick = [line.split("\t")[1:3] for line in (data / "SICK" / "SICK_train.txt").read_text().splitlines()[1:]]
    assert overlaps(sick, {"SICK-R": tests["SICK-R"]})["SICK-R"].exact == 4811  # of 4,927
