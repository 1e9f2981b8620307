"""Token ids of words, remembered: most words of a corpus occur again and again.

A WordPiece tokenizer of the BERT kind cleans, lowers and splits a text character by character and never joins what a
space separates. So the ids of a text are those of its words, one after another, and each word needs the tokenizer once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from tokenizers import Tokenizer

__all__ = ["WordCache", "splits_at_spaces"]

PROBE = "a"
MOST_WORDS = 1 << 17  # some 30 MB; when full, it starts anew
LONGEST_WORD = 64  # characters; longer ones seldom come again, and in scripts without spaces they are whole texts


class WordCache:
    """Ids of texts, equal to the tokenizer's own.

    Args:
        tokenizer: one that `splits_at_spaces`, with neither truncation nor padding.

    Attributes:
        before, behind: special tokens that it puts around a text; they are not among the ids.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, tuple[int, ...]] = {}  # tuples, which the garbage collector need not visit
        bare, whole = (tokenizer.encode(PROBE, add_special_tokens=added).ids for added in (False, True))
        first = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
        self.before, self.behind = whole[:first], whole[first + len(bare) :]

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text.

        Raises:
            AttributeError, TypeError: an element is no string.
        """
        split = [text.split(" ") for text in texts]
        find = self._known.get
        rows: list[list[Any]] = [list(map(find, words)) for words in split]
        gaps = [row for row, found in enumerate(rows) if None in found]
        if gaps:
            new = self._learn({w for row in gaps for w, ids in zip(split[row], rows[row], strict=True) if ids is None})
            for row in gaps:
                rows[row] = [new[w] if ids is None else ids for w, ids in zip(split[row], rows[row], strict=True)]
        return [list(chain.from_iterable(row)) for row in rows]

    def _learn(self, words: Iterable[str]) -> dict[str, tuple[int, ...]]:
        """Ids of words, which are then known, but for the long ones."""
        words = list(words)
        encodings = self._tokenizer.encode_batch_fast(words, add_special_tokens=False)
        new = {word: tuple(encoding.ids) for word, encoding in zip(words, encodings, strict=True)}
        known = self._known if len(self._known) + len(new) <= MOST_WORDS else {}  # others may still read the old one
        known.update((word, ids) for word, ids in new.items() if len(word) <= LONGEST_WORD)
        self._known = known
        return new


def splits_at_spaces(tokenizer: Tokenizer) -> bool:
    """Whether a text's ids are those of its words, one after another."""
    parts = json.loads(tokenizer.to_str())
    kinds = [(parts[name] or {}).get("type") for name in ("normalizer", "pre_tokenizer", "model")]
    added = [token["content"] for token in parts["added_tokens"]]
    return (
        kinds == ["BertNormalizer", "BertPreTokenizer", "WordPiece"]
        and not any(" " in text for text in added)
        and len(tokenizer.encode(PROBE, add_special_tokens=False).ids) > 0
    )
