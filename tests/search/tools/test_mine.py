"""Hard negatives on a circle, where every cosine is known."""

from __future__ import annotations

import numpy as np
import pytest

from simcse import ConfigError, DataError
from simcse.data.readers import read_training
from simcse.search.tools.mine import Mined, mine_negatives, read_pairs, write_triplets


def encode(texts):
    """`a30` and `b30` lie at 30 degrees."""
    angles = np.radians([float(text[1:]) if text[1:].isdigit() else len(text) for text in texts])
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_the_hardest_that_is_no_answer_and_no_duplicate():
    """Anchor 0, positive 20 (cosine .940, ceiling .893 = 26.8 degrees): 25 is too close, 31 is a near-duplicate of the
    positive (.982), 45 is the hardest, 47 repeats it (.999), 80 is next."""
    pairs = [("a0", "b20")]
    mined = Mined()
    found = list(
        mine_negatives(pairs, encode, corpus=["b25", "b31", "b45", "b47", "b80", "b170"], count=2, mined=mined)
    )
    assert found == [("a0", "b20", "b45"), ("a0", "b20", "b80")]
    assert (mined.pairs, mined.triplets, mined.short, mined.duplicates) == (1, 2, 0, 2)


def test_answers_of_the_same_anchor_are_no_negatives():
    pairs = [("a0", "b20"), ("a0", "b60"), ("a90", "b100")]
    found = list(mine_negatives(pairs, encode, margin=0.0, duplicate=0.999))
    assert ("a0", "b20", "b60") not in found
    assert ("a0", "b20", "b100") in found


def test_pairs_without_enough_negatives_are_counted():
    mined = Mined()
    pairs = [("a0", "b0"), ("a180", "b180")]
    found = list(mine_negatives(pairs, encode, count=3, mined=mined))
    assert found == [("a0", "b0", "b180"), ("a180", "b180", "b0")]
    assert (mined.pairs, mined.short) == (2, 2)


def test_a_negative_cosine_of_the_positive_lowers_the_ceiling():
    """Positive at 120 degrees: cosine -.5; with a margin of .1 the ceiling is -.55, which 121 (-.515) does not pass."""
    found = list(mine_negatives([("a0", "b120")], encode, corpus=["b121", "b150"], margin=0.1, duplicate=0.9999))
    assert found == [("a0", "b120", "b150")]


@pytest.mark.parametrize("options", [{"count": 0}, {"count": 101}, {"margin": 1.0}, {"margin": -0.1}])
def test_numbers_out_of_range_are_told(options):
    with pytest.raises(ConfigError, match=r"count|margin"):
        list(mine_negatives([("a0", "b1")], encode, **options))


def test_files_of_pairs_and_of_triplets(tmp_path):
    pairs, output = tmp_path / "pairs.csv", tmp_path / "out.csv"
    pairs.write_text('anchor,positive\na,b\nc,"d, e"\n')
    known = read_pairs(str(pairs))
    assert known == [("a", "b"), ("c", "d, e")]
    write_triplets(str(output), ((*pair, "no\nanswer") for pair in known), str(pairs))
    assert read_training(str(output)).to_dict() == {
        "anchor": ["a", "c"], "positive": ["b", "d, e"], "hard_negative": ["no\nanswer"] * 2
    }  # fmt: skip
    before = output.read_bytes()
    with pytest.raises(DataError, match=r"pairs\.csv: no pair has a negative; lower the option margin"):
        write_triplets(str(output), [], str(pairs))
    assert output.read_bytes() == before
    (tmp_path / "texts.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match=r"texts\.txt: found one column, expected two: anchor and positive"):
        read_pairs(str(tmp_path / "texts.txt"))


def test_what_came_of_it_in_words():
    mined = Mined(pairs=8, triplets=14, short=1, duplicates=3)
    assert mined.in_words(2) == (
        "14 triplets from 8 pairs; 1 pairs (12.5%) have fewer than 2; 3 near-duplicates dropped"
    )
