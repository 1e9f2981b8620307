"""Texts changed a little, to be positives: the augmentations that the paper compares with dropout (table 1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from simcse.data.tabular import lines
from simcse.errors import ConfigError, DataError, did_you_mean, shown

if TYPE_CHECKING:
    import numpy as np

__all__ = ["AUGMENTATIONS", "Augment", "build_augment", "read_synonyms"]

Augment = Callable[[str, "np.random.Generator"], str]
"""A text and a source of randomness to another text; a text of one word may come back as it is."""


def crop(words: list[str], rate: float, rng: np.random.Generator) -> list[str]:
    """A run of words without a share `rate` of them: at least one is left out, and one kept."""
    kept = len(words) - _some(words, rate)
    start = int(rng.integers(len(words) - kept + 1))
    return words[start : start + kept]


def delete(words: list[str], rate: float, rng: np.random.Generator) -> list[str]:
    """Without a share `rate` of the words, anywhere: at least one is left out, and one kept."""
    gone = set(rng.choice(len(words), _some(words, rate), replace=False).tolist())
    return [word for i, word in enumerate(words) if i not in gone]


def delete_one(words: list[str], rng: np.random.Generator) -> list[str]:
    """Without one word, if there are two or more."""
    return delete(words, 0.0, rng)


def mask(words: list[str], rate: float, token: str, rng: np.random.Generator) -> list[str]:
    """A share `rate` of the words, at least one, replaced by the tokenizer's mask token."""
    hidden = set(rng.choice(len(words), max(1, round(rate * len(words))), replace=False).tolist())
    return [token if i in hidden else word for i, word in enumerate(words)]


def synonym(words: list[str], rate: float, table: Mapping[str, Sequence[str]], rng: np.random.Generator) -> list[str]:
    """A share `rate` of the words, at least one, replaced by a synonym, as far as the table knows so many."""
    known = [i for i, word in enumerate(words) if word.lower() in table]
    changed = list(words)
    if known:
        for i in rng.choice(known, min(len(known), max(1, round(rate * len(words)))), replace=False).tolist():
            others = table[words[i].lower()]
            chosen = others[int(rng.integers(len(others)))]
            changed[i] = chosen[:1].upper() + chosen[1:] if words[i][:1].isupper() else chosen
    return changed


def _some(words: list[str], rate: float) -> int:
    """How many words to leave out: the share, but at least one and not all."""
    return min(max(1, round(rate * len(words))), len(words) - 1)


AUGMENTATIONS = ("crop", "delete", "delete_one", "mask", "synonym")


def build_augment(
    kind: str, *, rate: float = 0.1, mask_token: str | None = None, synonyms: Mapping[str, Sequence[str]] | None = None
) -> Augment:
    """The augmentation of that name; words are what stands between blanks.

    Args:
        kind: of `AUGMENTATIONS`.
        rate: share of the words that change, in (0, 1); `delete_one` needs none (paper: 0.1, 0.2, 0.3; mask 0.15).
        mask_token: for `mask`.
        synonyms: for `synonym`: a word in lower case -> others.

    Raises:
        ConfigError: an unknown kind, a rate out of range, or what the kind needs is missing.
    """
    if kind not in AUGMENTATIONS:
        raise ConfigError(
            f"data.augment: found {kind!r}, expected one of {', '.join(AUGMENTATIONS)}"
            f"{did_you_mean(kind, AUGMENTATIONS)}"
        )
    if not 0 < rate < 1:
        raise ConfigError(f"data.augment_rate is {rate}: a share of the words, above 0 and below 1")
    if kind == "mask" and not mask_token:
        raise ConfigError("data.augment=mask: the tokenizer has no mask token; choose crop or delete")
    if kind == "synonym" and not synonyms:
        raise ConfigError("data.augment=synonym needs data.synonyms, a file: a word and its synonyms, tabs between")
    change: Callable[[list[str], np.random.Generator], list[str]] = {
        "crop": lambda words, rng: crop(words, rate, rng),
        "delete": lambda words, rng: delete(words, rate, rng),
        "delete_one": delete_one,
        "mask": lambda words, rng: mask(words, rate, mask_token or "", rng),
        "synonym": lambda words, rng: synonym(words, rate, synonyms or {}, rng),
    }[kind]
    return partial(_changed, change)


def _changed(change: Callable[[list[str], np.random.Generator], list[str]], text: str, rng: np.random.Generator) -> str:
    words = text.split()
    return " ".join(change(words, rng)) if words else text


def read_synonyms(source: str | Path) -> dict[str, list[str]]:
    """Read a table of synonyms: a word and one or more others in a line, with tabs between.

    Raises:
        DataError: a missing or empty file; a line without a synonym.
    """
    path = Path(source)
    table: dict[str, list[str]] = {}
    for number, line in enumerate(lines(path), 1):
        word, *others = [field.strip() for field in line.split("\t")]
        others = [other for other in others if other]
        if not word or not others:
            raise DataError(f"{path}:{number}: found {shown(line)}, expected a word and its synonyms with tabs between")
        table.setdefault(word.lower(), []).extend(others)
    if not table:
        raise DataError(f"{path}: is empty; expected lines of a word and its synonyms with tabs between")
    return table
