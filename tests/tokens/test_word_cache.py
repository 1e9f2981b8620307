"""Remembered words give the tokenizer's own ids, for any text whatever."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from simcse.tokens import word_cache as words
from simcse.tokens.tokenize import Tokenize
from simcse.tokens.word_cache import WordCache, splits_at_spaces

PIECES = [
    "dog",
    "Dogs,",
    "don't",
    "[MASK]",
    "a[SEP]b",
    "[CLS",
    "]",
    "Ünïcode",
    "e\u0301",
    "\u0301",
    "東京",
    "ΑΣ",
    "İ",
    "",
]
PIECES += ["\x00", "\x1f", "\u200d", "\xa0", "\u3000", "\n", "\t", "\ufffd", "\U0001f600", "x" * 101, "un" * 40]


@pytest.fixture(scope="module")
def tokenizer(minilm: Path) -> Tokenizer:
    found: Tokenizer = AutoTokenizer.from_pretrained(minilm).backend_tokenizer
    found.no_padding()
    found.no_truncation()
    return found


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_equal_to_the_tokenizer(tokenizer: Tokenizer, data: st.DataObject) -> None:
    piece = st.sampled_from(PIECES) | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    text = st.lists(piece | st.just(" "), max_size=12).map("".join)
    texts = data.draw(st.lists(text, max_size=4))
    cache = WordCache(tokenizer)
    for _ in range(2):  # new words, then known ones
        rows = [cache.before + row + cache.behind for row in cache(texts)]
        assert rows == [encoding.ids for encoding in tokenizer.encode_batch(texts)]


def test_memory_is_bounded(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "MOST_WORDS", 10)
    cache = WordCache(tokenizer)
    texts = [f"word{i} {i} {'long' * i}" for i in range(40)]
    for text in [*texts, *texts]:
        assert cache([text]) == [tokenizer.encode(text, add_special_tokens=False).ids]
        assert len(cache._known) <= 10
        assert all(len(word) <= words.LONGEST_WORD for word in cache._known)
    assert cache(texts) == [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


@pytest.fixture(scope="module")
def byte_pairs(sentences: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of RoBERTa's kind, which includes the space with the word."""
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(sentences, vocab_size=300, show_progress=False)
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(trained._tokenizer.to_str()))


def test_only_what_splits_at_spaces(tokenizer: Tokenizer, byte_pairs: PreTrainedTokenizerFast) -> None:
    assert splits_at_spaces(tokenizer)
    assert not splits_at_spaces(byte_pairs.backend_tokenizer)
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.add_tokens(["New York"])
    assert not splits_at_spaces(copy)


def test_others_stay_exact(byte_pairs: PreTrainedTokenizerFast, sentences: list[str]) -> None:
    texts = [*sentences, "", "  two  spaces ", "dog " * 100]
    ids, cut = Tokenize(byte_pairs, 16)(texts)
    expected = byte_pairs(texts, truncation=True, max_length=16)["input_ids"]
    expected[len(sentences)] = [0]  # the empty text: this tokenizer adds no token of its own, so one stands for it
    assert ids == expected
    assert cut > 0
