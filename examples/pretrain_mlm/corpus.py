"""The sentences of a file, a vocabulary made from them, and the batches of each step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from tokenizers.implementations import BertWordPieceTokenizer
from transformers import BertTokenizerFast, PreTrainedTokenizerBase

from simcse.data.opening import check_file, lines
from simcse.display.progress import waiting
from simcse.errors import DataError
from simcse.tokens.batch import TokenBatch, TokenLists
from simcse.tokens.tokenize import Tokenize

__all__ = ["Sentences", "learn_vocabulary", "read_sentences"]

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ALPHABET = 256  # characters, the most frequent ones; a word with another one is [UNK]
CHUNK = 50_000  # sentences that are tokenized at a time


def read_sentences(path: str, least: int) -> list[str]:
    """The lines of a file that hold something; .gz and .bz2 as well.

    Raises:
        DataError: no such file, or fewer than `least`.
    """
    check_file(Path(path))
    found = [line for line in lines(Path(path)) if line.strip()]
    if len(found) < least:
        raise DataError(f"{path}: {len(found)} sentences, expected at least {least}: a batch and those held out")
    return found


def learn_vocabulary(sentences: list[str], size: int, max_length: int) -> PreTrainedTokenizerBase:
    """A lower-casing WordPiece tokenizer as BERT has one, of at most `size` pieces, the same for the same sentences."""
    trained = BertWordPieceTokenizer(lowercase=True)
    with waiting("learning a vocabulary"):
        counts = Counter(chain.from_iterable(map(trained.normalize, sentences)))
        common = sorted(counts, key=lambda character: (-counts[character], character))[:ALPHABET]
        # named here, they have their numbers, by which the trainer decides between pieces of one frequency, in order;
        # left to it, they have them by chance
        within = [f"##{character}" for character in sorted(common) if not character.isspace()]
        trained.train_from_iterator(
            sentences, vocab_size=size, limit_alphabet=ALPHABET, special_tokens=[*SPECIAL, *within], show_progress=False
        )
    model = BertWordPieceTokenizer(trained.get_vocab(), lowercase=True)
    return BertTokenizerFast(tokenizer_object=model._tokenizer, do_lower_case=True, model_max_length=max_length)


class Sentences:
    """n tokenized sentences, in a new order in each epoch.

    Args:
        texts: the sentences.
        tokenizer: makes their pieces.
        max_length: pieces kept of each, special ones included.
    """

    def __init__(self, texts: list[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        tokenize = Tokenize(tokenizer, max_length)
        with waiting("tokenizing"):
            parts = [tokenize.flat(texts[start : start + CHUNK])[0] for start in range(0, len(texts), CHUNK)]
            small = [TokenLists(part.ids.astype(np.int32), part.lengths) for part in parts]
        self._rows = TokenLists.join(small)

    def __len__(self) -> int:
        return len(self._rows.lengths)

    def batch(self, numbers: np.ndarray) -> TokenBatch:
        """The sentences with these numbers."""
        found = self._rows.ordered(numbers)
        return TokenBatch(torch.from_numpy(found.ids.astype(np.int64)), tuple(found.lengths.tolist()))

    def batches(self, first: int, last: int, size: int, seed: int) -> Iterator[TokenBatch]:
        """Those of steps first + 1 to last: the same ones wherever a run begins."""
        per_epoch = len(self) // size
        order, at = np.empty(0, np.int64), -1
        for step in range(first, last):
            epoch, place = divmod(step, per_epoch)
            if epoch != at:
                order, at = np.random.default_rng((seed, epoch)).permutation(len(self)), epoch
            yield self.batch(order[place * size : (place + 1) * size])
