"""A knowledge graph as queries and answers: who is y in (h, r, y), and, by a reciprocal relation, in (y, r, t)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from simcse.errors import DataError


@dataclass(frozen=True)
class Graph:
    """Triples (N, 3) of a split: entity, relation, answer. Relation r + relations asks for the head of r."""

    entities: int
    relations: int
    """Reciprocal ones included."""
    splits: dict[str, Tensor]
    known: tuple[Tensor, Tensor]
    """All true (query, answer) pairs of all splits, sorted: query ids (M,) and answers (M,)."""

    def query_ids(self, triples: Tensor) -> Tensor:
        """(N,) one number for each (entity, relation)."""
        return triples[:, 0] * self.relations + triples[:, 1]

    def true_answers(self, triples: Tensor) -> tuple[Tensor, Tensor]:
        """Row and column of everything that is known to be true, for filtering a score table (N, entities)."""
        queries, answers = self.known
        ids = self.query_ids(triples)
        first, last = torch.searchsorted(queries, ids), torch.searchsorted(queries, ids, right=True)
        counts = last - first  # (N,)
        rows = torch.arange(len(ids)).repeat_interleave(counts)
        offsets = torch.arange(int(counts.sum())) - (counts.cumsum(0) - counts).repeat_interleave(counts)
        return rows, answers[first.repeat_interleave(counts) + offsets]

    def answer_counts(self) -> Tensor:
        """(entities,) #y: how often each entity is the answer in training."""
        return self.splits["train"][:, 2].bincount(minlength=self.entities)

    def query_counts(self) -> Tensor:
        """(N,) #x: how often the query of each training triple is asked in training."""
        ids = self.query_ids(self.splits["train"])
        _, place, counts = ids.unique(return_inverse=True, return_counts=True)
        return counts[place]

    def shared_queries(self, most: int = 8) -> list[Tensor]:
        """The training triples in random order, those of one query side by side: (R, m) indices for m = most, ..., 1.

        The triples of a row have the same query, so that its scores are worked out once for m answers. A query's
        triples are dealt out by powers of two: 8 + 4 + 1 for 13. FB15k-237 has 544,230 triples, but 208,764 rows.
        """
        ids = self.query_ids(self.splits["train"])
        order = torch.randperm(len(ids))
        ids, by_query = ids[order].sort(stable=True)
        order = order[by_query]  # (N,)
        _, counts = ids.unique_consecutive(return_counts=True)
        place = torch.arange(len(ids)) - (counts.cumsum(0) - counts).repeat_interleave(counts)  # (N,) in its query
        left = counts.repeat_interleave(counts)  # (N,)
        groups, size = [], most
        while size:
            used = left // size * size
            groups.append(order[(place >= 0) & (place < used)].view(-1, size))
            place, left, size = place - used, left - used, size // 2
        return groups


def read_graph(folder: str) -> Graph:
    """Read `train.txt`, `valid.txt` and `test.txt` of `head<TAB>relation<TAB>tail`.

    Raises:
        DataError: a file that is missing or empty, or a line that has not three fields.
    """
    names = {split: _read(Path(folder) / f"{split}.txt") for split in ("train", "valid", "test")}
    entities: dict[str, int] = {}
    relations: dict[str, int] = {}
    coded = {}
    for split, rows in names.items():
        coded[split] = np.array(
            [
                (
                    entities.setdefault(h, len(entities)),
                    relations.setdefault(r, len(relations)),
                    entities.setdefault(t, len(entities)),
                )
                for h, r, t in rows
            ]
        )
    splits = {}
    for split, triples in coded.items():
        reverse = np.stack([triples[:, 2], triples[:, 1] + len(relations), triples[:, 0]], 1)
        splits[split] = torch.from_numpy(np.concatenate([triples, reverse]))
    everything = torch.cat(list(splits.values()))
    pairs = torch.stack([everything[:, 0] * 2 * len(relations) + everything[:, 1], everything[:, 2]], 1).unique(dim=0)
    return Graph(len(entities), 2 * len(relations), splits, (pairs[:, 0].contiguous(), pairs[:, 1].contiguous()))


def _read(path: Path) -> list[tuple[str, str, str]]:
    if not path.is_file():
        raise DataError(f"{path}: no such file; --data needs a folder with train.txt, valid.txt and test.txt")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fields = line.split("\t")
        if len(fields) != 3:
            raise DataError(f"{path}:{number}: {len(fields)} fields, expected 3: head<TAB>relation<TAB>tail")
        rows.append((fields[0], fields[1], fields[2]))
    if not rows:
        raise DataError(f"{path}: no triples, expected one a line")
    return rows
