"""transformers' own tokenizer, made once someone asks for it: its import takes a second, and token ids need it not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["TokenizerOnDemand", "whole_tokenizer"]

_making = threading.Lock()  # all threads get the same one


class TokenizerOnDemand:
    """What `Tokenize` and the checks of a checkpoint ask of a fast tokenizer, by transformers' names.

    Args:
        backend_tokenizer: gives the ids, without padding and truncation; it `splits_at_spaces`.
        model_max_length: tokens of a text that it allows.
        make: makes transformers' tokenizer, which gives the same ids.
    """

    is_fast = True

    def __init__(
        self, backend_tokenizer: Tokenizer, model_max_length: float, make: Callable[[], PreTrainedTokenizerBase]
    ) -> None:
        self.backend_tokenizer = backend_tokenizer
        self.model_max_length = model_max_length
        self._make = make
        self._whole: PreTrainedTokenizerBase | None = None

    def __len__(self) -> int:
        return self.backend_tokenizer.get_vocab_size()

    def __call__(self, text: str, *, truncation: bool = False, verbose: bool = False) -> dict[str, list[int]]:
        """The ids of a text, special tokens included."""
        return {"input_ids": self.backend_tokenizer.encode(text).ids}

    def get_vocab(self) -> dict[str, int]:
        """Tokens and their ids."""
        return self.backend_tokenizer.get_vocab()

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many are put around a text."""
        return self.backend_tokenizer.num_special_tokens_to_add(pair)

    def whole(self) -> PreTrainedTokenizerBase:
        """transformers' tokenizer."""
        with _making:
            if self._whole is None:
                self._whole = self._make()
        return self._whole


def whole_tokenizer(tokenizer: PreTrainedTokenizerBase | TokenizerOnDemand) -> PreTrainedTokenizerBase:
    """transformers' tokenizer: itself, or the one that is made."""
    return tokenizer.whole() if isinstance(tokenizer, TokenizerOnDemand) else tokenizer
