"""How many tokens texts have, and which share of them a maximum length cuts: from a sample, in a second or two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase

__all__ = ["LONGEST", "SAMPLE", "Counts", "cut_line", "sample", "token_counts"]

SAMPLE = 2000  # rows; a share is then known to about two points
LONGEST = 20_000  # characters looked at, far more than any encoder reads
UNCUT = 10**6  # tokens
USUAL = 95  # per cent of a column's texts that a proposed length leaves whole
STEP = 8  # of proposed lengths

Counts = npt.NDArray[np.int64]


def sample(dataset: datasets.Dataset, columns: Sequence[str] | None = None) -> dict[str, list[str]]:
    """At most `SAMPLE` rows, the same ones each time, as column -> texts; of all columns, or of those named."""
    n = len(dataset)
    rows = np.sort(np.random.default_rng(0).choice(n, min(n, SAMPLE), replace=False))
    table: dict[str, list[str]] = dataset[rows.tolist()]
    return table if columns is None else {name: table[name] for name in columns}


def token_counts(columns: Mapping[str, Sequence[str]], tokenizer: PreTrainedTokenizerBase) -> dict[str, Counts]:
    """Column -> the number of tokens of each text, special ones included, if nothing is cut."""
    from simcse.tokens.tokenize import Tokenize

    tokenize = Tokenize(tokenizer, UNCUT)
    return {name: tokenize.flat([text[:LONGEST] for text in texts])[0].lengths for name, texts in columns.items()}


def cut_line(
    counts: Mapping[str, Counts], max_length: int, limit: int, rows: int, *, always_propose: bool = False
) -> str:
    """One line: the length in use, what it cuts of each column, and a length that would cut few.

    Args:
        counts: as from `token_counts`; no column may be empty.
        max_length: tokens kept of each text.
        limit: the most tokens that the model accepts.
        rows: of the whole file.
        always_propose: a length even where the one in use cuts few.
    """
    parts = []
    for name, lengths in counts.items():
        middle, usual = np.percentile(lengths, (50, USUAL), method="inverted_cdf")
        spread = f"median {middle:,}, {USUAL} % {usual:,}, longest {lengths.max():,}"
        parts.append(f"{_share(lengths, max_length)} of {name} (tokens: {spread})")
    seen = max(map(len, counts.values()))
    whole = f"{rows:,} rows" if seen >= rows else f"{seen:,} of {rows:,} rows"
    said = f"max_length {max_length} cuts {', '.join(parts)} in {whole}"
    needed = max(int(np.percentile(lengths, USUAL, method="inverted_cdf")) for lengths in counts.values())
    if needed <= max_length and not always_propose:
        return said
    if needed > max_length >= limit:
        return f"{said}; the model accepts no more: split the texts"
    proposed = min(-(-needed // STEP) * STEP, limit)
    if proposed == max_length:
        return f"{said}: a good value"
    left = ", ".join(f"{_share(lengths, proposed)} of {name}" for name, lengths in counts.items())
    return f"{said}; max_length {proposed}{', all that the model accepts,' if proposed == limit else ''} cuts {left}"


def _share(lengths: Counts, max_length: int) -> str:
    """As a percentage; 0 and 100 only where it is none or all."""
    cut = int((lengths > max_length).sum())
    return f"{100 * cut / len(lengths):.1f} %" if 0 < cut < len(lengths) else ("none" if not cut else "100 %")
