"""Retrieval: rank a corpus by cosine for each query, and score the ranking.

Two layouts: a BEIR folder (`corpus.jsonl`, `queries.jsonl`, `qrels/SPLIT.tsv`), and a file of (query, document) pairs
in which each document answers its query and all documents are ranked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simcse.data.tabular import delimited_rows, json_rows, named_rows
from simcse.errors import DataError, shown
from simcse.vectors import Encode, Encoder, Roles, roles_of, unit_vectors

__all__ = [
    "METRICS",
    "Collection",
    "evaluate_retrieval",
    "load_beir",
    "load_query_pairs",
    "query_metrics",
    "query_scores",
    "ranking_metrics",
]

METRICS = ("ndcg@10", "mrr@10", "recall@1", "recall@10", "recall@100", "map")
DEPTH = 1000  # documents ranked for each query: as deep as trec_eval's convention, over which MAP is taken
GAIN = re.compile(r"-?[0-9]{1,9}")
QUERIES_A_BLOCK = 64  # their (64, documents) cosines are in memory at once


@dataclass(frozen=True)
class Collection:
    """Documents, queries, and which document answers which query how well."""

    name: str
    documents: dict[str, str]
    """id -> text."""
    queries: dict[str, str]
    """id -> text; only those with a judgement."""
    relevant: dict[str, dict[str, int]]
    """Query id -> document id -> gain; 0 is not relevant."""
    split: str
    titles: dict[str, str] = field(default_factory=dict)
    """Id of a query -> title with which the text of the document of the same id begins, if it has one."""

    @cached_property
    def repeated(self) -> frozenset[str]:
        """Ids at which the document is the query itself, word for word, and not judged to answer it.

        BEIR leaves documents with the query's id out, for collections whose queries are documents (ArguAna, Quora).
        Where both are merely numbered from 1 (Cranfield, CISI, MED) an equal id says nothing, so the texts decide.
        """
        return frozenset(key for key, text in self.queries.items() if key in self.documents and self._is(key, text))

    def _is(self, key: str, text: str) -> bool:
        document, words = self.documents[key], text.split()
        bare = document.removeprefix(self.titles.get(key, ""))
        return not self.relevant.get(key, {}).get(key) and words in (document.split(), bare.split())


def load_beir(folder: str | Path, split: str = "test") -> Collection:
    """Read a BEIR folder. A document's text is its title, a space, its text, as in BEIR.

    Raises:
        DataError: a file is missing or damaged, or the judgements name a query or document that is not there.
    """
    folder = Path(folder)
    texts = {key: row["text"] for key, row in _by_id(folder / "queries.jsonl")}
    documents: dict[str, str] = {}
    titles: dict[str, str] = {}
    for key, row in _by_id(folder / "corpus.jsonl"):
        title = row.get("title") or ""
        documents[key] = f"{title} {row['text']}".strip()
        if title and key in texts:
            titles[key] = title
    relevant = _read_qrels(folder / "qrels" / f"{split}.tsv", texts, documents)
    queries = {key: texts[key] for key in relevant}
    return Collection(folder.name, documents, queries, relevant, split, titles)


def _by_id(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    seen: dict[str, int] = {}
    for number, row in json_rows(path):
        if not row:
            continue
        if not (isinstance(row.get("_id"), str) and isinstance(row.get("text"), str)):
            raise DataError(f'{path}:{number}: found keys {", ".join(row)}, expected "_id" and "text", both strings')
        if not isinstance(row.get("title"), str | None):
            raise DataError(f"{path}:{number}: title: found {shown(row['title'])}, expected text or null")
        key = row["_id"]
        if seen.setdefault(key, number) != number:
            raise DataError(f"{path}:{number}: _id {key!r} stands already on line {seen[key]}; ids must differ")
        yield key, row
    if not seen:
        raise DataError(f"{path}: is empty; expected one JSON object a line")


def _read_qrels(path: Path, queries: Mapping[str, str], documents: Mapping[str, str]) -> dict[str, dict[str, int]]:
    relevant: dict[str, dict[str, int]] = {}
    for number, fields in delimited_rows(path, "tsv"):
        if number == 1 and fields and not GAIN.fullmatch(fields[-1].strip()):
            continue  # BEIR's header: query-id corpus-id score
        if not fields:
            continue
        if len(fields) != 3:
            raise DataError(f"{path}:{number}: found {len(fields)} columns, expected 3: query id, document id, gain")
        query, document, gain = (field.strip() for field in fields)
        if query not in queries:
            raise DataError(f"{path}:{number}: query {query!r} is not in queries.jsonl")
        if document not in documents:
            raise DataError(f"{path}:{number}: document {document!r} is not in corpus.jsonl")
        if not GAIN.fullmatch(gain):
            raise DataError(f"{path}:{number}: gain {shown(gain)} is no whole number of at most 9 digits")
        relevant.setdefault(query, {})[document] = max(int(gain), 0)
    # as in trec_eval, a query without any relevant document says nothing about a ranking
    relevant = {query: gains for query, gains in relevant.items() if any(gains.values())}
    if not relevant:
        raise DataError(f"{path}: no query has a relevant document; expected rows of query id, document id, gain")
    return relevant


def load_query_pairs(path: str | Path, columns: Sequence[str] | None = None) -> Collection:
    """Read (query, document) rows: csv or tsv with a header, jsonl, parquet. Equal texts count as one.

    Args:
        path: the file.
        columns: names of the two columns; default the first two.

    Raises:
        DataError: fewer than two columns, a blank or non-text value, fewer than two documents to rank.
    """
    path = Path(path)
    names, _ = named_rows(path)
    picked = list(columns or names[:2])
    if len(picked) != 2:
        raise DataError(f"{path}: found {len(names)} column, expected 2: query, document")
    documents: dict[str, str] = {}
    queries: dict[str, str] = {}
    relevant: dict[str, dict[str, int]] = {}
    for number, values in named_rows(path, columns=picked)[1]:
        if not values or not all(isinstance(value, str) and value.strip() for value in values):
            raise DataError(f"{path}:{number}: found {shown(list(values))}, expected a query and its document")
        query, document = values
        queries[query], documents[document] = query, document
        relevant.setdefault(query, {})[document] = 1
    if len(documents) < 2:
        raise DataError(f"{path}: found {len(documents)} distinct documents, expected at least 2 to rank")
    return Collection(path.stem, documents, queries, relevant, "file")


def evaluate_retrieval(encode: Encode | Encoder | Roles, collection: Collection) -> dict[str, float]:
    """The means of `query_scores` over the queries, by the names in `METRICS`."""
    return _means(query_scores(encode, collection))


def query_scores(encode: Encode | Encoder | Roles, collection: Collection) -> NDArray[np.float64]:
    """Rank all documents for each query by cosine, exactly, and score each query: see `query_metrics`.

    A document that is the query itself is left out of its ranking (`Collection.repeated`). Equal texts are encoded
    once, equal vectors have one cosine, and equal cosines keep the corpus's order. An encoder with `encode_query` and
    `encode_document` encodes each by its own, so with the checkpoint's prompts.

    Raises:
        ModelError: a vector that is NaN, infinite or zero; names document or query.
    """
    document_ids, query_ids = list(collection.documents), list(collection.queries)
    roles = roles_of(encode)
    what = f"{collection.name}, document"
    documents, column = _embed(roles.encode_document, collection.documents, what)  # (<= D, d), (D,)
    queries, line = _embed(roles.encode_query, collection.queries, f"{collection.name}, query")
    depth = min(DEPTH, len(document_ids))
    rankings: dict[str, list[str]] = {}
    for start in range(0, len(query_ids), QUERIES_A_BLOCK):
        cosines = queries[line[start : start + QUERIES_A_BLOCK]] @ documents.T
        if len(documents) < len(document_ids):
            cosines = cosines[:, column]  # (q, D)
        for query, row in zip(query_ids[start : start + QUERIES_A_BLOCK], cosines, strict=True):
            left_out = query if query in collection.repeated else None
            best = [document_ids[i] for i in _top(row, min(depth + 1, len(row)))]
            rankings[query] = [document for document in best if document != left_out][:depth]
    return query_metrics(rankings, collection.relevant)


def _embed(encode: Encode, texts: Mapping[str, str], what: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Distinct unit vectors, and for each text its row among them: a product rounds equal rows in different ways."""
    rows: dict[str, int] = {}
    first: list[str] = []  # the id under which a distinct text stands first
    for key, text in texts.items():
        if rows.setdefault(text, len(rows)) == len(first):
            first.append(key)
    vectors = unit_vectors(encode, list(rows), where=lambda i: f"{what} {first[i]}", nonzero=True)
    places: dict[bytes, int] = {}
    digests = (blake2b(vector.tobytes(), digest_size=16).digest() for vector in vectors)
    place = np.array([places.setdefault(digest, len(places)) for digest in digests], dtype=np.int64)
    if len(places) < len(vectors):
        vectors = vectors[np.unique(place, return_index=True)[1]]
    return vectors, place[[rows[text] for text in texts.values()]]


def _top(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Positions of the k highest scores, best first, equal ones in order of position."""
    edge = np.partition(scores, len(scores) - k)[len(scores) - k]
    candidates = np.flatnonzero(scores >= edge)  # more than k only where the k-th score is not alone
    order: NDArray[np.int64] = candidates[np.argsort(-scores[candidates], kind="stable")][:k]
    return order


def ranking_metrics(
    rankings: Mapping[str, Sequence[str]], relevant: Mapping[str, Mapping[str, int]]
) -> dict[str, float]:
    """The means of `query_metrics` over the queries, by the names in `METRICS`."""
    return _means(query_metrics(rankings, relevant))


def query_metrics(
    rankings: Mapping[str, Sequence[str]], relevant: Mapping[str, Mapping[str, int]]
) -> NDArray[np.float64]:
    """What each query scores, by trec_eval's definitions.

    Args:
        rankings: query -> document ids, best first.
        relevant: query -> document id -> gain.

    Returns:
        (queries, 6), in the order of `relevant`; the columns are those of `METRICS`:

        - `ndcg@10`: sum of gain / log2(rank + 1) over the first 10, divided by that of the ideal ranking.
        - `mrr@10`: 1 / rank of the first relevant document, 0 beyond 10.
        - `recall@1`, `recall@10`, `recall@100`: share of the relevant documents found.
        - `map`: mean precision at the ranks of the relevant documents, those not ranked counting 0.
    """
    rows = []
    for query, gains in relevant.items():
        ranked = np.array([gains.get(document, 0) for document in rankings[query]], dtype=np.float64)
        ideal = np.sort(np.array([gain for gain in gains.values() if gain > 0], dtype=np.float64))[::-1]
        hits = np.flatnonzero(ranked > 0)  # ranks from 0
        precision = np.arange(1, len(hits) + 1) / (hits + 1)
        rows.append(
            [
                _dcg(ranked[:10]) / _dcg(ideal[:10]),
                1 / (hits[0] + 1) if len(hits) and hits[0] < 10 else 0.0,
                *((hits < k).sum() / len(ideal) for k in (1, 10, 100)),
                precision.sum() / len(ideal),
            ]
        )
    return np.asarray(rows)


def _means(scores: NDArray[np.float64]) -> dict[str, float]:
    return dict(zip(METRICS, scores.mean(axis=0).tolist(), strict=True))


def _dcg(gains: NDArray[np.float64]) -> float:
    return float((gains / np.log2(np.arange(2, len(gains) + 2))).sum())
