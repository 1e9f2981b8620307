"""Token ids equal to the tokenizer's own, whatever settings it carries."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from simcse.errors import DataError
from simcse.tokens.tokenize import Tokenize


@pytest.fixture(scope="module")
def tokenizer(tiny_bert: Path) -> PreTrainedTokenizerBase:
    found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(tiny_bert)
    return found


class Slow:
    """The same tokenizer without its fast half, as tokenizers in Python are."""

    is_fast = False

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    def __call__(self, *args: object, **options: object) -> object:
        return self.tokenizer(*args, **options)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("limit", [8, 64])
def test_equal_to_the_tokenizer(
    tokenizer: PreTrainedTokenizerBase, sentences: list[str], fast: bool, limit: int
) -> None:
    texts = [*sentences, "", "  ", "\n\t", "Ünïcode 東京 \U0001f600", "dog " * 100]
    ids, cut = Tokenize(tokenizer if fast else Slow(tokenizer), limit)(texts)
    assert ids == tokenizer(texts, truncation=True, max_length=limit)["input_ids"]
    whole = tokenizer(texts, truncation=False, verbose=False)["input_ids"]
    assert cut == sum(len(row) > limit for row in whole) > 0


def test_its_own_length_leaves_the_tokenizer_alone(tokenizer: PreTrainedTokenizerBase) -> None:
    short, long = Tokenize(tokenizer, 4), Tokenize(tokenizer, 10)
    assert [len(t(["dog " * 20])[0][0]) for t in (short, long, short)] == [4, 10, 4]
    assert len(tokenizer("dog " * 20)["input_ids"]) == 22


def test_flat_is_the_same_in_one_array(tokenizer: PreTrainedTokenizerBase, sentences: list[str]) -> None:
    tokenize = Tokenize(tokenizer, 8)
    ids, cut = tokenize(sentences)
    tokens, cut_too = tokenize.flat(sentences)
    assert tokens.ids.tolist() == [token for row in ids for token in row]
    assert tokens.lengths.tolist() == [len(row) for row in ids]
    assert cut == cut_too
    assert tokenize.flat([])[0].lengths.tolist() == []


@pytest.mark.parametrize("fast", [True, False])
def test_what_is_no_string_is_named(tokenizer: PreTrainedTokenizerBase, fast: bool) -> None:
    with pytest.raises(DataError, match=r"text 1 is of type int, not a string"):
        Tokenize(tokenizer if fast else Slow(tokenizer), 8)(["dog", 3])  # type: ignore[list-item]
