"""Hard negatives: texts that the encoder puts close to an anchor although they are not its answer."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from simcse.data.readers import read_training
from simcse.display.progress import paced, progress
from simcse.errors import ConfigError, DataError
from simcse.files import replaced_file
from simcse.search.documents import documents
from simcse.search.index import Hit, SearchIndex
from simcse.search.select import is_milvus
from simcse.vectors import Encode, Encoder, Roles, roles_of, unit_vectors

__all__ = ["Mined", "check_numbers", "mine_negatives", "read_pairs", "write_triplets"]

PAIRS_AT_ONCE = 1024


@dataclass
class Mined:
    """What was found so far; complete when the iteration is.

    Attributes:
        pairs: pairs looked at.
        triplets: negatives found.
        short: pairs for which fewer than `count` were found.
        duplicates: candidates dropped as near-duplicates of the positive or of a negative chosen before.
    """

    pairs: int = 0
    triplets: int = 0
    short: int = 0
    duplicates: int = 0
    known: dict[str, set[str]] = field(default_factory=dict, repr=False)

    def in_words(self, count: int) -> str:
        """What came of looking for `count` negatives a pair, in a line."""
        return (
            f"{self.triplets} triplets from {self.pairs} pairs; {self.short} pairs "
            f"({self.short / self.pairs:.1%}) have fewer than {count}; {self.duplicates} near-duplicates dropped"
        )


def read_pairs(path: str, columns: Sequence[str] | None = None) -> list[tuple[str, str]]:
    """(anchor, positive) of a file as for training.

    Raises:
        DataError: it has one column, or is missing or damaged.
    """
    rows = read_training(path, columns=columns)
    if "positive" not in rows.column_names:
        raise DataError(f"{path}: found one column, expected two: anchor and positive")
    return list(zip(rows["anchor"], rows["positive"], strict=True))


def write_triplets(output: str, triplets: Iterable[tuple[str, str, str]], source: str) -> None:
    """Write (anchor, positive, hard negative) as a csv file to train on; it is there whole or not at all.

    Args:
        output: the file.
        triplets: as from `mine_negatives`.
        source: of the pairs, for errors.

    Raises:
        DataError: there is none.
    """
    with replaced_file(output) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        table, count = csv.writer(file), 0
        table.writerow(("sent0", "sent1", "hard_neg"))
        for count, triplet in enumerate(triplets, 1):  # noqa: B007 -- how many there were
            table.writerow(triplet)
        if not count:
            raise DataError(f"{source}: no pair has a negative; lower the option margin, or give a larger corpus")


def check_numbers(count: int, margin: float, candidates: int, kind: str) -> None:
    """Check arguments of `mine_negatives`, before any work.

    Raises:
        ConfigError: a number out of range, or an index that would stay.
    """
    if count < 1 or candidates < count:
        raise ConfigError(f"count: found {count} of {candidates} candidates, expected 1 <= count <= candidates")
    if not 0 <= margin < 1:
        raise ConfigError(f"margin: found {margin}, expected a share in [0, 1)")
    if is_milvus(kind):
        raise ConfigError(f"kind: found {kind!r}, expected one in memory: the index is gone when mining is done")


def mine_negatives(
    pairs: Sequence[tuple[str, str]],
    encode: Encode | Encoder,
    *,
    corpus: Iterable[str] | None = None,
    count: int = 1,
    margin: float = 0.05,
    duplicate: float = 0.95,
    candidates: int = 100,
    kind: str = "auto",
    mined: Mined | None = None,
    show_progress: bool = False,
) -> Iterator[tuple[str, str, str]]:
    """Yield (anchor, positive, hard negative), the hardest first, up to `count` for each pair.

    A candidate is a negative if its cosine with the anchor is below `positive - margin * |positive|`, so that likely
    unlabelled answers are left out; and if it is neither a text of the anchor's own pairs nor a near-duplicate.

    Args:
        pairs: (anchor, positive); an anchor may have several positives.
        encode: as in `SearchIndex.build`; anchors are queries, positives and negatives are documents.
        corpus: texts to take negatives from; default the positives.
        count: negatives for each pair.
        margin: share of the positive's cosine that a negative must stay below it.
        duplicate: cosine from which two texts count as the same.
        candidates: nearest texts looked at for each anchor.
        kind: of the index, as in `SearchIndex.build`.
        mined: counts what happens.
        show_progress: a bar on stderr for the texts, then one for the pairs.

    Raises:
        ConfigError: a number out of range.
    """
    check_numbers(count, margin, candidates, kind)
    roles = roles_of(encode)
    mined = mined if mined is not None else Mined()
    for anchor, positive in pairs:
        mined.known.setdefault(anchor, {anchor}).add(positive)
    texts = list(dict.fromkeys(corpus if corpus is not None else (positive for _, positive in pairs)))
    with progress(len(texts), show_progress) as advance:
        index = SearchIndex.build_documents(documents(texts), encode, kind=kind, advance=advance)
    with progress(len(pairs), show_progress, "mining", "pairs") as advance:
        for chunk in paced(pairs, PAIRS_AT_ONCE):
            yield from _negatives(index, roles, chunk, count, margin, duplicate, candidates, mined)
            advance(len(chunk))


def _negatives(
    index: SearchIndex,
    roles: Roles,
    chunk: Sequence[tuple[str, str]],
    count: int,
    margin: float,
    duplicate: float,
    candidates: int,
    mined: Mined,
) -> Iterator[tuple[str, str, str]]:
    """As `mine_negatives`, of some of the pairs."""
    anchors = unit_vectors(roles.encode_query, [anchor for anchor, _ in chunk], index.dimension)  # (m, d)
    positives = unit_vectors(roles.encode_document, [positive for _, positive in chunk], index.dimension)  # (m, d)
    scores = np.einsum("md,md->m", anchors, positives)  # (m,)
    found = index.search_vectors(anchors, candidates)
    for row, (anchor, positive) in enumerate(chunk):
        ceiling = float(scores[row] - margin * abs(scores[row]))
        fit = [hit for hit in found[row] if hit.score < ceiling and hit.text not in mined.known[anchor]]
        negatives = _distinct(index, fit, positives[row], count, duplicate, mined)
        mined.pairs += 1
        mined.triplets += len(negatives)
        mined.short += len(negatives) < count
        for negative in negatives:
            yield anchor, positive, negative


def _distinct(
    index: SearchIndex, hits: list[Hit], positive: np.ndarray, count: int, duplicate: float, mined: Mined
) -> list[str]:
    """The first `count` hits that repeat neither the positive nor each other."""
    chosen: list[str] = []
    against = [positive]
    for hit in hits:
        if len(chosen) == count:
            break
        vector = index.vectors([hit.id])[0]
        if max(float(vector @ other) for other in against) >= duplicate:
            mined.duplicates += 1
            continue
        chosen.append(hit.text)
        against.append(vector)
    return chosen
