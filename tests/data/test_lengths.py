"""What a maximum length cuts is counted, from a sample that is the same each time."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest

from simcse.data.inspect import inspect, render
from simcse.data.lengths import SAMPLE, cut_line, sample, token_counts


@pytest.fixture(scope="module")
def tokenizer(tiny_bert: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_bert)


def test_tokens_are_counted_uncut(tokenizer) -> None:
    """[CLS] and [SEP] beside each word of the vocabulary."""
    texts = ["the man", "the man sings " * 100, ""]
    assert token_counts({"text": texts}, tokenizer)["text"].tolist() == [4, 302, 2]


def test_the_line_says_shares_percentiles_and_a_length_that_cuts_few() -> None:
    counts = {"anchor": np.arange(1, 101), "positive": np.arange(2, 202, 2)}
    line = cut_line(counts, 32, 512, 100)
    assert line == (
        "max_length 32 cuts 68.0 % of anchor (tokens: median 50, 95 % 95, longest 100), 84.0 % of positive "
        "(tokens: median 100, 95 % 190, longest 200) in 100 rows; "
        "max_length 192 cuts none of anchor, 4.0 % of positive"
    )
    assert "; max_length 128, all that the model accepts, cuts none of anchor, 36.0 %" in cut_line(counts, 32, 128, 100)
    assert cut_line(counts, 64, 64, 100).endswith("the model accepts no more: split the texts")
    assert cut_line({"text": np.array([5, 6])}, 32, 64, 9000) == (
        "max_length 32 cuts none of text (tokens: median 5, 95 % 6, longest 6) in 2 of 9,000 rows"
    )


def test_a_length_is_proposed_even_where_few_texts_are_cut() -> None:
    """`simcse inspect-data` answers what to set, also where the length at hand is far too long, or right."""
    counts = {"text": np.array([5, 6, 40])}
    assert cut_line(counts, 64, 128, 3, always_propose=True).endswith("in 3 rows; max_length 40 cuts none of text")
    assert cut_line(counts, 40, 128, 3, always_propose=True).endswith("in 3 rows: a good value")
    assert cut_line(counts, 64, 64, 3, always_propose=True).endswith("in 3 rows; max_length 40 cuts none of text")


def test_a_million_rows_cost_a_sample(tokenizer) -> None:
    """The sample's share is the file's to a few points, and is the same each time."""
    texts = ["the man"] * 3 + ["the man sings and plays the piano in the park at night"]
    rows = datasets.Dataset.from_dict({"text": texts * 250_000})
    drawn = sample(rows)
    counts = token_counts(drawn, tokenizer)
    assert len(drawn["text"]) == SAMPLE
    assert drawn == sample(rows)
    assert (counts["text"] > 8).mean() == pytest.approx(0.25, abs=0.03)
    assert "in 2,000 of 1,000,000 rows" in cut_line(counts, 8, 64, len(rows))


def test_inspect_shows_tokens_within_80_columns(tmp_path: Path, tokenizer) -> None:
    path = tmp_path / "a folder whose name is so long that it fills a terminal" / "pairs.csv"
    path.parent.mkdir()
    rows = [(f"name {i}", "the man sings " * (1 + i % 9)) for i in range(3000)]
    path.write_text("anchor,positive\n" + "".join(f"{a},{b}\n" for a, b in rows) + "x,<b>x</b>\nsame,same\n")
    findings = inspect(path)
    assert [len(column.sample) for column in findings.columns] == [SAMPLE, SAMPLE]
    assert [column.sample for column in inspect(path).columns] == [column.sample for column in findings.columns]
    tokens = token_counts({column.name: column.sample for column in findings.columns}, tokenizer)
    text = render(findings, tokens)
    assert max(map(len, text.splitlines())) <= 80
    [line] = [line for line in text.splitlines() if "positive" in line and "tokens" in line]
    assert line.split()[-4] == "17"  # median of 3, 6, ... 27 words, and two special tokens
    assert " tokens " in text
    assert " tokens " not in render(findings)
