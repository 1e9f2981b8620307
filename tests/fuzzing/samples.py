"""Good files and requests of every kind that is read, small, to be damaged.

Each function gives names of files in a folder, and samples of each, the first of which is read as it is.
"""

from __future__ import annotations

import gzip
import io
import itertools
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from formats.make import encode

__all__ = [
    "SAMPLES",
    "WORDS",
    "Files",
    "bodies",
    "faiss_files",
    "filters",
    "owners",
    "parquets",
    "samples",
    "tables",
    "task_files",
    "teacher_vectors",
]

SAMPLES = Path(__file__).parents[1] / "formats" / "files"
WORDS = ["a man", "the dog runs", "naïve", "走る", "🙂 eats", 'with "quotes", and commas', "two; three", "x"]
Files = dict[str, list[bytes]]


def lines_of(*rows: tuple[Any, ...], separator: str = "\t") -> bytes:
    return "".join(separator.join(map(str, row)) + "\n" for row in rows).encode()


def json_lines(names: list[str], rows: list[tuple[Any, ...]]) -> bytes:
    return "".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows).encode()


def quoted(rows: list[tuple[Any, ...]]) -> bytes:
    return "".join(",".join('"' + str(one).replace('"', '""') + '"' for one in row) + "\n" for row in rows).encode()


TABLES: dict[str, list[tuple[Any, ...]]] = {
    "text": [(text,) for text in WORDS],
    "anchor,positive": [*itertools.pairwise(WORDS)],
    "sent0,sent1,hard_neg": list(zip(WORDS, WORDS[1:], WORDS[2:], strict=False)),
    "sentence1,sentence2,score": [(a, b, i % 6) for i, (a, b) in enumerate(itertools.pairwise(WORDS))],
    "id,text,year": [(f"d{i}", text, 1990 + i) for i, text in enumerate(WORDS)],
    "text1,text2,text3,text4": [(*WORDS[:4],), (*WORDS[4:],)],
}


def tables() -> Files:
    """Texts in every format, each with several headers; packed, too."""
    found: Files = {"x.txt": [lines_of(*TABLES["text"]), "\n".join(WORDS).encode()]}
    kinds = [(tuple(names.split(",")), rows) for names, rows in TABLES.items()]
    found["x.csv"] = [quoted([names, *rows]) for names, rows in kinds]
    found["x.csv"] += [lines_of(*kinds[1][1], separator=","), lines_of(("a", "b"), ("c d", "e"), separator=";")]
    found["x.tsv"] = [lines_of(names, *rows) for names, rows in kinds] + [lines_of(*kinds[3][1])]
    found["x.jsonl"] = [json_lines(list(names), rows) for names, rows in kinds]
    return found | {f"{name}.gz": [gzip.compress(one, mtime=0) for one in found[name]] for name in [*found][1:]}


@cache
def parquets() -> tuple[bytes, ...]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = []
    for names, rows in TABLES.items():
        sink = io.BytesIO()
        columns = dict(zip(names.split(","), map(list, zip(*rows, strict=True)), strict=True))
        pq.write_table(pa.table(columns), sink, row_group_size=3)
        found.append(sink.getvalue())
    return tuple(found)


def task_files() -> Files:
    """STS, transfer and retrieval data in their own layouts."""
    found: Files = {}
    for subset in ("MSRpar", "MSRvid", "SMTeuroparl", "surprise.OnWN", "surprise.SMTnews"):
        found[f"STS/STS12-en-test/STS.input.{subset}.txt"] = [lines_of(*TABLES["anchor,positive"])]
        found[f"STS/STS12-en-test/STS.gs.{subset}.txt"] = [b"0\n1\n2.5\n\n4\n5\n3.25\n"]
    rows = TABLES["sentence1,sentence2,score"]
    scored = [("g", "f", "2012", i, score, a, b) for i, (a, b, score) in enumerate(rows)]
    found["STS/STSBenchmark/sts-dev.csv"] = [lines_of(*scored)]
    sick = [(i, a, b, score % 5 + 1, "NEUTRAL") for i, (a, b, score) in enumerate(rows)]
    names = ("pair_ID", "sentence_A", "sentence_B", "relatedness_score", "entailment_judgment")
    found["SICK/SICK_test_annotated.txt"] = [lines_of(names, *sick)]
    japanese = [{"sentence1": a, "sentence2": b, "label": score, "sentence_pair_id": "0"} for a, b, score in rows]
    found["JGLUE/jsts-v1.3/valid-v1.3.json"] = ["".join(json.dumps(row) + "\n" for row in japanese).encode()]
    trec = b"".join(f"{label}:x {text}\n".encode() for label, text in zip(("ABBR", "DESC", "HUM"), WORDS, strict=False))
    found["TREC/train_5500.label"] = found["TREC/TREC_10.label"] = [trec]
    mrpc = [("Quality", "#1 ID", "#2 ID", "a", "b"), *((i % 2, 1, 2, a, b) for i, (a, b, _) in enumerate(rows))]
    found["MRPC/msr_paraphrase_train.txt"] = found["MRPC/msr_paraphrase_test.txt"] = [lines_of(*mrpc)]
    found["CR/custrev.pos"] = found["CR/custrev.neg"] = [lines_of(*TABLES["text"])]
    texts = [(f"d{i}", "t", text) for i, text in enumerate(WORDS)]
    found["ir/corpus.jsonl"] = found["ir/queries.jsonl"] = [json_lines(["_id", "title", "text"], texts)]
    judged = [(f"d{i}", f"d{(i + 1) % 8}", i % 3) for i in range(8)]
    found["ir/qrels/test.tsv"] = [lines_of(("query-id", "corpus-id", "score"), *judged)]
    return found


def samples(folder: str, *patterns: str) -> Callable[[], Files]:
    """The samples of a format on disk: files that are damaged, by patterns; all, by none."""

    def read() -> Files:
        paths = [path for pattern in patterns or ["**/*"] for path in sorted((SAMPLES / folder).glob(pattern))]
        return {path.relative_to(SAMPLES / folder).as_posix(): [path.read_bytes()] for path in paths if path.is_file()}

    return read


def faiss_files() -> Files:
    import faiss

    rows = encode(WORDS)
    found: Files = samples("index-3/hnsw", "*.faiss")()
    flat, named = faiss.IndexFlatIP(16), faiss.IndexIDMap(faiss.IndexFlatL2(16))
    flat.add(rows)
    named.add_with_ids(rows, np.arange(len(rows)))
    return found | {"v.faiss": [faiss.serialize_index(one).tobytes() for one in (flat, named)]}


def teacher_vectors() -> Files:
    """Of four texts."""
    sink = io.BytesIO()
    np.save(sink, np.eye(4, 8, dtype=np.float32))
    return {"0123456789abcdef.npy": [sink.getvalue()]}


def owners() -> Files:
    """Who writes a run folder."""
    return {".lock": [b'{"pid": 4711, "host": "node-7", "since": "2026-11-29 18:14:06"}']}


def bodies() -> Files:
    where = {"lang": ["en", "de"], "year": {">=": 2000, "<": 2040}, "note": None, "even": True}
    right = {
        "Search": [
            {"query": "a dog", "top_k": 3, "where": where, "min_score": 0.1}, {"query": WORDS, "where": {"lang": "en"}},
        ],
        "Similarity": [{"a": WORDS, "b": ["x"]}, {"a": WORDS}],
        "Encode": [{"texts": WORDS, "role": "query"}],
        "Add": [
            {"texts": ["a", "b"], "ids": ["x", 7], "metadata": [{"lang": "en", "n": [1, {}]}, None], "upsert": True},
        ],
        "Delete": [{"ids": [0, "x"]}],
        "Embeddings": [{"input": WORDS, "dimensions": 4, "encoding_format": "base64", "model": "m", "user": "u"}],
    }  # fmt: skip
    return {name: [json.dumps(one).encode() for one in values] for name, values in right.items()}


def filters() -> Files:
    return {"where": [b"lang=en|de", b"year>=2000\nyear<2040", b'note!=null\nlang="x"', b"year=1.5|true"]}
