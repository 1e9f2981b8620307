"""Whole-word masking on sequences without padding: all pieces of a word are hidden, or none."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

__all__ = ["Masked", "Pieces", "mask_words"]

HIDDEN, RANDOM = 0.8, 0.1  # of the chosen pieces; the rest stay as they are (BERT, Devlin et al. 2019, section 3.1)


@dataclass(frozen=True)
class Pieces:
    """What masking must know of a WordPiece vocabulary of V pieces.

    Attributes:
        continues: (V,) bool, pieces within a word.
        ordinary: ids of all but special pieces.
        special: (V,) bool.
        mask: id of [MASK].
    """

    continues: Tensor
    ordinary: Tensor
    special: Tensor
    mask: int

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Pieces:
        """Those of a tokenizer whose pieces within a word begin with ##."""
        names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        special = torch.zeros(len(names), dtype=torch.bool)
        special[tokenizer.all_special_ids] = True
        continues = torch.tensor([name.startswith("##") for name in names])
        return cls(continues, (~special).nonzero().flatten(), special, tokenizer.mask_token_id)


@dataclass(frozen=True)
class Masked:
    """A batch of T tokens of which M are to be guessed.

    Attributes:
        ids: (T,) what the encoder sees.
        places: (M,) where they stand.
        targets: (M,) what they are.
    """

    ids: Tensor
    places: Tensor
    targets: Tensor


def mask_words(ids: Tensor, pieces: Pieces, share: float, generator: torch.Generator | None = None) -> Masked:
    """Choose words at random, at least one, and hide their pieces.

    Args:
        ids: (T,) sequences one after another, each between special tokens.
        pieces: of the vocabulary.
        share: of the words, that are chosen.
        generator: draws; default torch's own.
    """
    words = (~pieces.continues[ids]).cumsum(0) - 1  # (T,) number of the word that each piece belongs to
    may = ~pieces.special[ids]
    chosen = (torch.rand(int(words[-1]) + 1, generator=generator) < share)[words] & may  # (T,)
    if not chosen.any():
        chosen = (words == words[may.nonzero()[0]]) & may
    places = chosen.nonzero().flatten()  # (M,)
    targets, fate = ids[places], torch.rand(len(places), generator=generator)
    others = pieces.ordinary[torch.randint(len(pieces.ordinary), (len(places),), generator=generator)]
    seen = torch.where(fate < HIDDEN, pieces.mask, torch.where(fate < HIDDEN + RANDOM, others, targets))
    return Masked(ids.index_copy(0, places, seen), places, targets)
