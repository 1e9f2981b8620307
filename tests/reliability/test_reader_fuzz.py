"""Files damaged in every way at hand: each reader ends soon, in little memory, with what another parser reads too, or
with one line that names the file.

Beside `tests/fuzzing`, which reads far more: these are compared with what other parsers read, and there are files that
fill memory or never end. The short form reads some seventy files; `make soak` reads some 350, each in five ways.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import random
import resource
import signal
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzzing.mutate import wrapped

from simcse.data.inspect import inspect
from simcse.data.opening import MAX_LINE
from simcse.data.readers import read_scored_pairs, read_texts, read_training
from simcse.errors import SimCSEError
from simcse.search.documents import file_documents
from simcse.search.tools.build import count_rows

SOAK = os.environ.get("SIMCSE_SOAK") == "1"
SECONDS = 30  # of one reader on one file, on a busy machine
PEAK = 256 * 2**20  # bytes of Python's own memory while one is read: some times the longest line


class TooLongError(BaseException):
    """No Exception, so that no reader can take it for its own."""


@contextmanager
def ended_in(seconds: float, what: str) -> Iterator[None]:
    def ring(*_: Any) -> None:
        raise TooLongError(f"{what}: not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# ---- good files


WORDS = ["a", "the", "man", "dog", "runs", "eats", "naïve", "Ångström", "走る", "🙂", ",", '"', "'"]


def sentence(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(2, 8)))


def table(rng: random.Random, names: list[str], rows: int = 30) -> list[dict[str, Any]]:
    made: dict[str, Callable[[int], Any]] = {
        "score": lambda i: rng.randint(0, 50) / 10, "id": lambda i: f"d{i}", "year": lambda i: 1990 + i,
    }  # fmt: skip
    return [{name: made.get(name, lambda i: sentence(rng))(i) for name in names} for i in range(rows)]


def packed(kind: str, rows: list[dict[str, Any]]) -> bytes:
    """A table in one of the formats."""
    if kind == "parquet":
        sink = io.BytesIO()
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        pq.write_table(pa.table(columns), sink, row_group_size=10)
        return sink.getvalue()
    if kind == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    if kind == "csv":
        text = io.StringIO(newline="")
        csv.writer(text).writerows([list(rows[0]), *(list(row.values()) for row in rows)])
        return text.getvalue().encode()
    head = [list(rows[0])] if kind == "tsv" else []
    lines = [*head, *(map(str, row.values()) for row in rows)]
    return "".join("\t".join(line) + "\n" for line in lines).encode()


NAMES = (["text"], ["anchor", "positive"], ["sent0", "sent1", "hard_neg"], ["sentence1", "sentence2", "score"],
         ["id", "text", "year"])  # fmt: skip


def good_file(rng: random.Random) -> tuple[str, bytes]:
    """A name and its content."""
    kind = rng.choice(["txt", "csv", "tsv", "jsonl", "parquet"])
    content = packed(kind, table(rng, ["text"] if kind == "txt" else rng.choice(NAMES)))
    if kind != "parquet" and rng.random() < 0.3:
        return f"x.{kind}.gz", gzip.compress(content, mtime=0)
    return f"x.{kind}", content


# ---- files that are wrong in ways of their own


def special_files(folder: Path) -> list[Path]:
    """Files that end no reader, fill memory, or are none."""
    zeros, wide = (1000 if SOAK else 64) * 2**20, 100_000 if SOAK else 10_000
    contents = {
        "digits.jsonl": b'{"text": "a", "score": ' + b"9" * 5000 + b"}\n",
        "inexact.jsonl": b'{"a": "x", "b": "y", "score": ' + b"9" * 400 + b"}\n",
        "deep.jsonl": b'{"text": ' + b"[" * 50_000 + b"]" * 50_000 + b"}\n",
        "shallow.jsonl": b'{"text": "a", "m": ' + b"[" * 900 + b"]" * 900 + b"}\n",
        "half.jsonl": b'{"text": "\\ud800"}\n',
        "nan.jsonl": b'{"text": "a", "year": NaN}\n',
        "field.csv": b"text\n" + b"x" * 200_000 + b"\n",
        "field_too_long.csv": b"text\n" + b'"' + (b"x" * 999 + b"\n") * (MAX_LINE // 1000 + 9) + b'"\n',
        "fields.csv": b"," * 500_000 + b"\n",
        "columns.csv": b",".join(b"c%d" % i for i in range(wide)) + b",c1\n",
        "columns.tsv": b"\t".join(b"c%d" % i for i in range(wide)) + b"\n" + b"\t" * (wide - 1) + b"\n",
        "keys.jsonl": json.dumps({f"k{i}": i for i in range(wide)}).encode() + b"\n",
        "lines\nin name.txt": b"\xff\n",
        "header.csv": b'"te\nxt","b\nc",d,e,f\n1,2,3,4,5\n',
        "long.txt": b"x" * (MAX_LINE - 1) + b"\n",
        "torn.txt.gz": gzip.compress(random.Random(0).randbytes(4000).hex().encode())[:-900],
        "no_end.txt.gz": gzip.compress(b"a\n" * 1000)[:-4],
        "no_header.txt.gz": b"\x1f\x8b\x08",
        "empty.txt.gz": b"",
        "not_packed.csv.gz": b"text\na\n",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    with gzip.open(folder / "zeros.txt.gz", "wb", compresslevel=1) as file:
        for _ in range(zeros // 2**20):
            file.write(bytes(2**20))
    for name in ("endless.txt", "endless.csv", "endless.jsonl"):
        with (folder / name).open("wb") as file:
            file.truncate(2**36)  # uses no place on the disk
    os.mkfifo(folder / "pipe.txt")
    os.mkfifo(folder / "pipe.parquet")
    (folder / "zero.txt").symlink_to("/dev/zero")
    (folder / "memory.txt").symlink_to("/proc/self/mem")
    (folder / "loop.txt").symlink_to("loop.txt")
    (folder / "folder.csv").mkdir()
    odd = {
        "text": pa.array(["a", "b"]), "day": pa.array([date(2024, 5, 1), None]),
        "at": pa.array([datetime(2024, 5, 1), None], pa.timestamp("ns", "Europe/Berlin")),
        "took": pa.array([timedelta(1), None]), "price": pa.array([Decimal("1.50"), None]),
        "share": pa.array([float("nan"), 0.5]), "tags": pa.array([["x", "y"], []]),
    }  # fmt: skip
    pq.write_table(pa.table(odd), folder / "odd.parquet")
    pq.write_table(pa.table({"text": ["a"], "raw": [b"\xff"]}), folder / "bytes.parquet")
    pq.write_table(
        pa.table({"text": pa.array([b"a", b"\xff"]).cast(pa.binary()).view(pa.string())}), folder / "utf8.parquet"
    )
    pq.write_table(pa.table({}), folder / "no_column.parquet")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), folder / "no_row.parquet")
    names = ["absent.txt", "nul\0.txt", "n" * 300 + ".csv", "absent/x.txt", "endless.txt/x.txt", "\ud800.txt"]
    return [*sorted(folder.iterdir()), *(folder / name for name in names)]


# ---- what is right


def independent(path: Path) -> list[list[Any]]:
    """Rows, the header first where there is one, as other parsers read them."""
    if path.suffix == ".parquet":
        names = pq.read_schema(path).names
        names = ["text"] if "text" in names else names  # damage elsewhere is nobody's business
        return [names, *(list(row.values()) for row in pq.read_table(path, columns=names).to_pylist())]
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    text = content.decode("utf-8-sig")
    kind = path.name.removesuffix(".gz").rsplit(".", 1)[1]
    lines = text.split("\n")
    lines = [line.rstrip("\r\n") for line in (lines if lines[-1] else lines[:-1])]
    if kind == "txt":
        return [["text"], *([line] for line in lines)]
    if kind == "csv":
        csv.field_size_limit(2**30)
        rows = list(csv.reader(io.StringIO(text, newline="\n"), strict=True))
        return [row if any(map(str.strip, row)) else [] for row in rows]
    if kind == "tsv":
        return [line.split("\t") if line.strip() else [] for line in lines]
    objects = [json.loads(line) if line.strip() else {} for line in lines]
    names = list(next(filter(None, objects)))
    return [names, *([row.get(name) for name in names] if row else [] for row in objects)]


def same_texts(path: Path, texts: list[str]) -> None:
    """`texts` are what the column of texts holds, in order."""
    rows = independent(path)
    while not rows[0]:
        rows = rows[1:]
    names = [str(name).strip() for name in rows[0]]
    at = names.index("text") if "text" in names else 0
    assert texts == [row[at] if row else "" for row in rows[1:]]


# ---- five ways to read


def as_training(path: Path) -> None:
    rows = read_training(path, blank_lines="skip")
    kept = rows[rows.column_names[0]][:]
    assert kept
    assert all(isinstance(text, str) and text.strip() for text in kept)
    if rows.column_names == ["text"]:
        same = [text for text in read_texts(path, column=None) if text.strip()]
        assert kept == same


def as_scored_pairs(path: Path) -> None:
    pairs = read_scored_pairs(path)
    assert len(pairs.a) == len(pairs.b) == len(pairs.scores) > 0


def as_texts(path: Path) -> None:
    same_texts(path, list(read_texts(path)))


def counted(path: Path) -> None:
    count = count_rows([path])
    found = inspect(path)
    assert count is not None
    assert found.rows <= count + 1


def as_documents(path: Path) -> None:
    for _, text, metadata in file_documents(path):
        assert text.strip()
        json.dumps(metadata)


WAYS = [as_training, as_scored_pairs, as_texts, counted, as_documents]


def fault(read: Callable[[Path], None], path: Path) -> str | None:
    """What is wrong with the way in which a file is read; None: nothing."""
    try:
        with ended_in(SECONDS, path.name):
            read(path)
    except SimCSEError as error:
        message = str(error)
        if len(message.splitlines()) != 1 or len(message) > 2000:
            return f"no single line: {message[:200]!r}"
        if path.name.split("\n")[0].split("\0")[0][:100].encode(errors="replace").decode() not in message:
            return None if not path.name.isprintable() else f"does not name the file: {message[:200]!r}"
        return None
    except (Exception, TooLongError) as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    return None


def test_files_that_are_wrong_in_ways_of_their_own(tmp_path: Path) -> None:
    bad = []
    for path in special_files(tmp_path):
        for read in WAYS:
            tracemalloc.start()
            if said := fault(read, path):
                bad.append(f"{path.name[:40]!r} {read.__name__}: {said}")
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            if peak > PEAK:
                bad.append(f"{path.name[:40]!r} {read.__name__}: took {peak / 2**20:.0f} MiB")
    assert not bad, "\n".join(bad)


def test_damaged_files(tmp_path: Path) -> None:
    bad = []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in range(295 if SOAK else 25):
        rng = random.Random(seed)
        name, content = good_file(rng)
        path = tmp_path / f"{seed}{name[1:]}"
        path.write_bytes(wrapped(rng, name, content))
        for read in WAYS:
            if said := fault(read, path):
                bad.append(f"seed {seed} {path.name} {read.__name__}: {said}")
    assert not bad, "\n".join(bad)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024  # MiB
    assert grown < 600


def test_good_files_are_read(tmp_path: Path) -> None:
    """The damage is what fails above: the same files, whole, are read by what they are made for."""
    for seed in range(60 if SOAK else 15):
        name, content = good_file(random.Random(seed))
        path = tmp_path / f"{seed}{name[1:]}"
        path.write_bytes(content)
        with ended_in(SECONDS, path.name):
            names = independent(path)[0]
            counted_rows = count_rows([path])
            assert counted_rows in (30, 31)
            if "score" in names:
                as_scored_pairs(path)
            elif "text" in names:
                as_texts(path)
                as_documents(path)
            else:
                as_training(path)


def test_a_file_that_changes_or_goes_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "grows.txt"
    path.write_text("one\n" * 200_000)
    texts = read_texts(path)
    assert next(texts) == "one"
    with path.open("a") as file:
        file.write("two")
    with pytest.raises(
        SimCSEError, match=r"grows\.txt: changed while it was read \(800,000 bytes before, 800,003 after"
    ):
        list(texts)
    texts = read_texts(path)
    next(texts)
    path.unlink()  # what is open stays
    assert len(list(texts)) == 200_000
    with pytest.raises(SimCSEError, match=r"grows\.txt: no such file"):
        read_training(path)
