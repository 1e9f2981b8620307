"""Text in, token ids out, without padding, and a count of what was cut."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer

from simcse.errors import ConfigError, DataError
from simcse.tokens.batch import TokenLists
from simcse.tokens.on_demand import TokenizerOnDemand, whole_tokenizer
from simcse.tokens.word_cache import WordCache, splits_at_spaces

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    AnyTokenizer = PreTrainedTokenizerBase | TokenizerOnDemand

__all__ = ["Tokenize", "TokenizeCache", "wrong_element"]

KEPT = 16  # tokenizing functions of a cache


class Tokenize:
    """A tokenizer with a maximum length of its own, so that training and encoding do not disturb each other's.

    It keeps the tokenizer's settings as they are when it is made.

    Args:
        tokenizer: any Hugging Face tokenizer; fast ones run in parallel, and BERT's remember words.
        max_length: tokens kept of each text, special tokens included.

    Attributes:
        prompt: put before each text.
        left_out: how many tokens at the beginning do not count in the pooling, as they are the prompt's.
    """

    def __init__(self, tokenizer: AnyTokenizer, max_length: int) -> None:
        self.max_length = max_length
        self.prompt = ""
        self.left_out = 0
        self._slow = tokenizer
        self._fast: Tokenizer | None = None
        self._words: WordCache | None = None
        if not tokenizer.is_fast:
            return
        if isinstance(tokenizer, TokenizerOnDemand):  # whose settings no one changes
            self._fast, self._words = tokenizer.backend_tokenizer, WordCache(tokenizer.backend_tokenizer)
            return
        self._fast = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._fast.no_padding()
        self._fast.no_truncation()
        if splits_at_spaces(self._fast):
            self._words = WordCache(self._fast)
        else:
            self._fast.enable_truncation(max_length)

    def prompted(self, prompt: str, *, pooled: bool = True) -> Tokenize:
        """The same with a prompt before each text, whose tokens count in the pooling or do not.

        Raises:
            ConfigError: the prompt leaves no room for a text.
        """
        ids: list[int] = self._slow(prompt, truncation=False, verbose=False)["input_ids"]
        if len(ids) >= self.max_length:
            raise ConfigError(
                f"the prompt {prompt!r:.60} has {len(ids)} tokens, special ones included, and max_length is "
                f"{self.max_length}: no text has room behind it; raise max_length or shorten the prompt"
            )
        other = copy.copy(self)
        other.prompt = prompt
        if not pooled:  # a special token behind the prompt stands behind the text then
            special = whole_tokenizer(self._slow).all_special_ids
            other.left_out = len(ids) - any(token in special for token in ids[-1:])
        return other

    def __call__(self, texts: Sequence[str]) -> tuple[list[list[int]], int]:
        """Token ids of each text, and how many texts were cut.

        Raises:
            DataError: an element is no string; names its position and type.
        """
        if self.prompt:
            for text in texts:
                if not isinstance(text, str):
                    raise DataError(wrong_element(texts))
            texts = [self.prompt + text for text in texts]
        rows, cut = self._whole(texts)
        for row in rows:
            if len(row) <= self.left_out:
                row.append(blank(whole_tokenizer(self._slow)))
        return rows, cut

    def _whole(self, texts: Sequence[str]) -> tuple[list[list[int]], int]:
        if self._fast is None:
            return self._slowly(texts)
        try:
            if self._words is not None:
                return self._joined(self._words(texts), self._words.before, self._words.behind)
            encodings = self._fast.encode_batch_fast(texts if isinstance(texts, list) else list(texts))
        except (AttributeError, TypeError):
            raise DataError(wrong_element(texts)) from None
        cut = sum(1 for encoding in encodings if encoding.overflowing)
        return [encoding.ids for encoding in encodings], cut

    def _joined(self, rows: list[list[int]], before: list[int], behind: list[int]) -> tuple[list[list[int]], int]:
        """Rows cut to length, with the special tokens; and how many were cut."""
        room = max(self.max_length - len(before) - len(behind), 0)
        cut = sum(len(row) > room for row in rows)
        return [before + row[:room] + behind for row in rows], cut

    def flat(self, texts: Sequence[str]) -> tuple[TokenLists, int]:
        """The same as one flat array."""
        ids, cut = self(texts)
        lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
        return TokenLists(np.fromiter(chain.from_iterable(ids), dtype=np.int64, count=int(lengths.sum())), lengths), cut

    def _slowly(self, texts: Sequence[str]) -> tuple[list[list[int]], int]:
        for text in texts:
            if not isinstance(text, str):
                raise DataError(wrong_element(texts))
        if not texts:
            return [], 0
        tokenizer = whole_tokenizer(self._slow)
        whole = tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        long = [row for row, ids in enumerate(whole) if len(ids) > self.max_length]
        if long:
            cut = tokenizer([texts[row] for row in long], truncation=True, max_length=self.max_length)["input_ids"]
            for row, ids in zip(long, cut, strict=True):
                whole[row] = ids
        return whole, len(long)


class TokenizeCache:
    """Tokenizing functions, one for each maximum length and prompt: making one needs longer than a text or two."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, int, int, str, bool], Tokenize] = {}

    def __call__(
        self,
        tokenizer: AnyTokenizer,
        max_length: int,
        prompt: str = "",
        *,
        pooled: bool = True,
    ) -> Tokenize:
        """One with this maximum length and prompt; raises as `Tokenize.prompted`."""
        key = (id(tokenizer), len(tokenizer), max_length, prompt, pooled or not prompt)
        made = self._made.get(key)
        if made is None:
            plain = Tokenize(tokenizer, max_length) if not prompt else self(tokenizer, max_length)
            made = plain.prompted(prompt, pooled=pooled) if prompt else plain
            if len(self._made) >= KEPT:
                self._made.clear()
            self._made[key] = made
        return made


def blank(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that stands for an empty text where a tokenizer adds none of its own, as many decoders' do."""
    tokens = (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
    return next((token for token in tokens if token is not None), 0)


def wrong_element(texts: Sequence[object]) -> str:
    """Say which element is no string."""
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            return f"text {position} is of type {type(text).__name__}, not a string: drop it or convert it with str()"
        try:
            text.encode()
        except UnicodeEncodeError as error:
            return f"text {position} holds {text[error.start]!r}, half of a character, which is no text: drop it"
    return "one of the texts is no string"
