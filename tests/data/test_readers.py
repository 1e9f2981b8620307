"""Every format gives the same rows; every defect gives one line that names it."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simcse.data import arrow
from simcse.data.inspect import inspect
from simcse.data.opening import MAX_LINE
from simcse.data.readers import read_scored_pairs, read_texts, read_training
from simcse.data.tabular import named_rows
from simcse.errors import ConfigError, DataError

TRIPLETS = [
    ("a man plays", "someone plays", "nobody plays"),
    ('she said "no", twice', "a refusal, twice", "tabs are fine"),
    ("ein Mädchen läuft 走る", "🙂", "x"),
]
ROLES = ["anchor", "positive", "hard_negative"]


def as_rows(dataset: datasets.Dataset) -> list[tuple[str, ...]]:
    return [tuple(row[name] for name in dataset.column_names) for row in dataset]


def write_csv(path: Path, header: list[str], rows: list[tuple[str, ...]]) -> Path:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([header, *rows])
    path.write_bytes(text.getvalue().encode())
    return path


def write_tsv(path: Path, header: list[str], rows: list[tuple[str, ...]]) -> Path:
    path.write_text("".join("\t".join(row) + "\n" for row in [tuple(header), *rows]), encoding="utf-8")
    return path


def write_jsonl(path: Path, header: list[str], rows: list[tuple[str, ...]]) -> Path:
    path.write_text("".join(json.dumps(dict(zip(header, row, strict=True))) + "\n" for row in rows), encoding="utf-8")
    return path


def write_parquet(path: Path, header: list[str], rows: list[tuple[str, ...]]) -> Path:
    pq.write_table(pa.table([list(column) for column in zip(*rows, strict=True)], names=header), path)
    return path


WRITERS = {"csv": write_csv, "tsv": write_tsv, "jsonl": write_jsonl, "parquet": write_parquet}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_gives_the_same_triplets(tmp_path: Path, kind: str) -> None:
    path = WRITERS[kind](tmp_path / f"rows.{kind}", ["sent0", "sent1", "hard_neg"], TRIPLETS)
    dataset = read_training(path)
    assert dataset.column_names == ROLES
    assert as_rows(dataset) == TRIPLETS
    if kind != "parquet":
        packed = tmp_path / f"rows.{kind}.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        assert as_rows(read_training(packed)) == TRIPLETS


@pytest.mark.parametrize(
    ("header", "columns", "expected"),
    [
        (["sent0", "sent1", "hard_neg"], None, (0, 1, 2)),
        (["hard_neg", "sent0", "sent1"], None, (1, 2, 0)),  # known names win over positions
        (["negative", "positive", "anchor"], None, (2, 1, 0)),
        (["question", "answer", "wrong answer"], None, (0, 1, 2)),
        (["x", "y", "z"], ["z", "x"], (2, 0)),
        (["x", "y", "z"], ["y"], (1,)),
        (["id", "sent0", "sent1"], None, (1, 2)),
        (["id", "positive", "anchor"], None, (2, 1)),
        (["positive", "anchor", "negatives of"], None, (1, 0)),
    ],
)
def test_roles_come_from_names_options_or_positions(
    tmp_path: Path, header: list[str], columns: list[str] | None, expected: tuple[int, ...]
) -> None:
    dataset = read_training(write_csv(tmp_path / "rows.csv", header, TRIPLETS), columns=columns)
    assert as_rows(dataset) == [tuple(row[i] for i in expected) for row in TRIPLETS]
    assert dataset.column_names == (["text"] if len(expected) == 1 else ROLES[: len(expected)])


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("anchor,positive,negative_1,negative_2,negative_3", None),
        ("label,negative_1,negative_2,negative_3,positive,anchor", None),
        ("q,d,x,y,z", ["q", "d", "x", "y", "z"]),
    ],
)
def test_a_row_has_any_number_of_hard_negatives(tmp_path: Path, header: str, columns: list[str] | None) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"{header}\n{header}\n")
    [row] = read_training(path, columns=columns)
    roles = [*ROLES, "hard_negative_2", "hard_negative_3"]
    named = ["anchor", "positive", "negative_1", "negative_2", "negative_3"]
    assert row == dict(zip(roles, columns or named, strict=True))
    assert [column.name for column in inspect(path, columns=columns).columns] == roles


def test_lines_of_text_keep_quotes_commas_and_unusual_separators(tmp_path: Path) -> None:
    texts = ['"quoted, not csv"', "a\tb", "next\u2028line \x85 inside", " leading and trailing "]
    path = tmp_path / "wiki.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(texts).encode())  # a byte order mark, Windows line ends, no last end
    assert read_training(path)["text"][:] == texts
    assert list(read_texts(path)) == texts


# a carriage return outside quotes ends a csv row, so the writer quotes it; a lone surrogate is no character
FIELD = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(FIELD, FIELD), min_size=1, max_size=5))
def test_whatever_a_csv_or_json_writer_writes_is_read_back(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    header = ["anchor", "positive"]
    assert as_rows(read_training(write_csv(tmp_path / "h.csv", header, rows))) == rows
    assert as_rows(read_training(write_jsonl(tmp_path / "h.jsonl", header, rows))) == rows


def test_a_large_file_is_copied_once_and_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow, "IN_MEMORY", 1000)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    texts = [f"sentence number {i}" for i in range(25_000)]  # three batches
    path = tmp_path / "big.txt"
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    assert read_training(path)["text"][:] == texts
    [copy] = (tmp_path / "cache" / "simcse").iterdir()  # no temporary file is left
    before = copy.stat().st_mtime_ns
    assert len(read_training(path)) == 25_000
    assert copy.stat().st_mtime_ns == before
    path.write_text("\n".join(["changed", *texts]) + "\n", encoding="utf-8")  # another size: another copy
    assert read_training(path)["text"][0] == "changed"


def test_a_defect_in_a_large_file_leaves_no_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow, "IN_MEMORY", 1000)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "big.txt"
    path.write_text("\n".join([*(f"sentence {i}" for i in range(15_000)), "", "end"]), encoding="utf-8")
    with pytest.raises(DataError, match=r"big\.txt:15001: blank"):
        read_training(path)
    assert list((tmp_path / "cache" / "simcse").iterdir()) == []


DEFECTS = {
    "empty.txt": (b"", "empty.txt: is empty"),
    "empty.csv": (b"", "empty.csv: is empty"),
    "header_only.csv": (b"sent0,sent1\n", "header_only.csv: is empty"),
    "empty.jsonl": (b"\n", "empty.jsonl: is empty"),
    "latin.txt": ("fine\ncaf\xe9 au lait\n".encode("latin-1"), r"latin.txt:2: byte 0xe9 at position 4 .*iconv"),
    "blank.txt": (b"one\ntwo\n \nfour\n", "blank.txt:3: blank; .*blank_lines=skip"),
    "blank.csv": (b"a,b\none,two\n,\n", "blank.csv:3: blank"),
    "blank_field.csv": (b"a,b\none,two\nthree,\n", "blank_field.csv:3: blank"),
    "ragged.csv": (b'a,b\n"one\ntwo",2\nx,y,z\n', r"ragged.csv:4: found 3 columns, expected 2 \(a, b\)"),
    "ragged.tsv": (b"a\tb\nonly one\n", "ragged.tsv:2: found 1 columns, expected 2"),
    "five.csv": (b"v,w,x,y,z\n1,2,3,4,5\n", r"five.csv:1: found 5 columns .*expected 1 .*2 .*or 3 .*option columns"),
    "headless.csv": (b"A man is playing a guitar.,A man plays.\n", "headless.csv:1: 'A man is .*header such as"),
    "labels.tsv": (b"premise\thypothesis\tlabel\na\tb\tneutral\n", "labels.tsv:1: column 'label' .*is no text"),
    "twice.csv": (b"x,x\na,b\n", "twice.csv:1: two columns are called 'x'"),
    "open_quote.csv": (b'a,b\nx,y\n"never closed,z\nmore,rows\n', "open_quote.csv:3: no valid csv row"),
    "broken.jsonl": (b'{"anchor": "a", "positive": "b"}\n{"anchor": "a"\n', "broken.jsonl:2: not JSON .*column"),
    "list.jsonl": (b'{"text": "a"}\n[1, 2]\n', r"list.jsonl:2: found '\[1, 2\]'; expected one JSON object"),
    "key.jsonl": (b'{"anchor": "a", "positive": "b"}\n{"anchor": "a"}\n', "key.jsonl:2: no key 'positive'"),
    "number.jsonl": (b'{"text": "a"}\n{"text": 7}\n', "number.jsonl:2: found 7, expected text"),
    "null.jsonl": (b'{"text": "a"}\n{"text": null}\n', "null.jsonl:2: blank"),
    "half.jsonl": (b'{"text": "a"}\n{"text": "\\ud83d"}\n', "half.jsonl:2: half of a surrogate pair"),
    "notes.docx": (b"x", "unknown extension .docx; known are .csv"),
    "rows.parquet": (b"no parquet at all", "rows.parquet: not a parquet file"),
    "torn.txt.gz": (gzip.compress(b"a\nb\n" * 500)[:30], "torn.txt.gz: not a whole gzip file"),
    "digits.jsonl": (b'{"text": ' + b"9" * 5000 + b"}\n", "digits.jsonl:1: found a number of 5,000 digits, .* 4,300"),
    "deep.jsonl": (b'{"text": ' + b"[" * 50_000 + b"\n", "deep.jsonl:1: nested deeper than can be parsed"),
    "endless.txt": (b"x" * (MAX_LINE + 1), "endless.txt:1: found more than 16,777,216 bytes without a line end, exp"),
    "quote.csv": (
        b'a\n"' + (b"x" * 999 + b"\n") * (MAX_LINE // 999),
        "quote.csv:2: found a row of more than 16,777,216 .*close every",
    ),
    "return.csv": (b"a\nx\ry\n", "return.csv:2: no valid csv row .a carriage return outside quotes.; quote the field"),
    "wide.txt": ("one\n".encode("utf-16"), "wide.txt:1: byte 0xff at position 1 .*iconv -f utf-16"),
    "bits.txt.gz": (gzip.compress(bytes(range(256)) * 9)[:-20] + bytes(20), "bits.txt.gz: not a whole gzip file"),
    "plain.txt.gz": (b"not compressed", "plain.txt.gz: not a whole gzip file"),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_each_defect_is_one_line_that_names_file_and_line(tmp_path: Path, name: str) -> None:
    content, message = DEFECTS[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_training(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_only_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    for name, message in {
        "pipe.txt": r"pipe\.txt: is a pipe, expected a file; write what it gives to a file, or pipe it into standard",
        "zero.csv": r"zero\.csv: is a device, expected a file",
        "n" * 300 + ".txt": r"cannot be read \(File name too long\)",
        "nul\0.txt": r"holds a character that no file's name can have",
    }.items():
        for read in (read_training, read_texts, read_scored_pairs, inspect):
            with pytest.raises(DataError, match=message):
                read(tmp_path / name)


def test_a_long_field_of_csv_is_read(tmp_path: Path) -> None:
    long = "x" * 200_000
    assert list(read_texts(write_csv(tmp_path / "long.csv", ["text"], [(long,), ("b",)]))) == [long, "b"]


def test_parquet_gives_what_json_knows(tmp_path: Path) -> None:
    columns = {
        "day": [date(2024, 5, 1), None], "at": [datetime(2024, 5, 1, 9, 30), None], "took": [timedelta(hours=1), None],
        "price": [Decimal("1.50"), Decimal("2.00")], "share": [float("nan"), 0.5], "tags": [["x", None], []],
        "id": [UUID(int=7).bytes, None],
    }  # fmt: skip
    path = tmp_path / "odd.parquet"
    uuids = pa.array(columns.pop("id"), pa.uuid())
    pq.write_table(pa.table({**columns, "id": uuids}), path)
    rows = [list(values) for _, values in named_rows(path)[1]]
    assert rows == [
        ["2024-05-01", "2024-05-01T09:30:00", 3600.0, 1.5, None, ["x", None], "00000000-0000-0000-0000-000000000007"],
        [None, None, None, 2, 0.5, [], None],
    ]
    pq.write_table(pa.table({"text": ["a"], "raw": [b"x"]}), path)
    assert list(read_texts(path)) == ["a"]
    with pytest.raises(DataError, match=r"odd\.parquet: column 'raw' holds binary, expected text, numbers or dates"):
        list(read_texts(path, column="raw"))


def test_text_that_a_small_gzip_file_holds_is_mapped_from_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """50 KB of text in less than 1 KB: what counts is what memory would need."""
    monkeypatch.setattr(arrow, "IN_MEMORY", 10_000)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "packed.txt.gz"
    path.write_bytes(gzip.compress(b"the same line\n" * 4000))
    assert path.stat().st_size < 1000
    assert read_training(path)["text"][:] == ["the same line"] * 4000
    assert len(list((tmp_path / "cache" / "simcse").iterdir())) == 1


def test_missing_files_folders_and_wrong_options(tmp_path: Path) -> None:
    (tmp_path / "sentences.txt").write_text("one\n")
    with pytest.raises(DataError, match=r"sentence\.txt: no such file; did you mean 'sentences\.txt'"):
        read_training(tmp_path / "sentence.txt")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(DataError, match=r"folder\.txt: is a folder"):
        read_training(tmp_path / "folder.txt")
    with pytest.raises(DataError, match=r"columns text are asked of a \.txt file"):
        read_training(tmp_path / "sentences.txt", columns=["text"])
    with pytest.raises(ConfigError, match="columns: found no name, expected one"):
        read_training(tmp_path / "sentences.txt", columns=[])
    rows = write_csv(tmp_path / "rows.csv", ["query", "answer"], [("a", "b")])
    with pytest.raises(DataError, match=r"no column 'anwser' among query, answer; did you mean 'answer'\?"):
        read_training(rows, columns=["query", "anwser"])


def test_blank_rows_can_be_left_out(tmp_path: Path) -> None:
    text = tmp_path / "blank.txt"
    text.write_text("one\n\n  \nfour\n", encoding="utf-8")
    assert read_training(text, blank_lines="skip")["text"][:] == ["one", "four"]
    pairs = tmp_path / "blank.csv"
    pairs.write_text("a,b\none,two\n\nthree,\nfive,six\n", encoding="utf-8")
    assert as_rows(read_training(pairs, blank_lines="skip")) == [("one", "two"), ("five", "six")]


def test_a_hub_id_is_read_through_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub itself cannot be reached here: its answer is replaced, all that follows is real."""
    asked = []

    def answer(*args: object, **options: object) -> datasets.Dataset:
        asked.append((args, options))
        return datasets.Dataset.from_dict({"id": [1, 2, 3], "sent0": ["a", "b", ""], "sent1": ["c", "d", "e"]})

    monkeypatch.setattr(datasets, "load_dataset", answer)
    assert as_rows(read_training("owner/pairs:en@v1.0", blank_lines="skip")) == [("a", "c"), ("b", "d")]
    assert asked == [(("owner/pairs", "en"), {"revision": "v1.0", "split": "train"})]
    with pytest.raises(DataError, match="1 of 3 rows are blank"):
        read_training("owner/pairs")
    with pytest.raises(DataError, match=r"column 'id' holds .*expected strings"):
        read_training("owner/pairs", columns=["id"])
    with pytest.raises(DataError, match="no column 'sent2' among"):
        read_training("owner/pairs", columns=["sent2"])


def test_a_hub_that_is_out_of_reach_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="owner/nothing: neither a file here nor a dataset"):
        read_training("owner/nothing")


def test_texts_stream_from_every_format_and_from_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [("1", "one"), ("2", "two")]
    for kind, write in WRITERS.items():
        path = write(tmp_path / f"corpus.{kind}", ["id", "text"], rows)
        assert list(read_texts(path)) == ["one", "two"]
        assert list(read_texts(path, column="id")) == ["1", "2"]
    text = tmp_path / "lines.txt"
    text.write_text("one\n\nthree", encoding="utf-8")
    assert list(read_texts(text)) == ["one", "", "three"]  # text i stays line i
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"from\na pipe\n")))
    assert list(read_texts("-")) == ["from", "a pipe"]


def test_texts_name_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.txt: no such file"):
        read_texts(tmp_path / "gone.txt")  # at once, before the first text is asked for
    two = write_csv(tmp_path / "two.csv", ["left", "right"], [("a", "b")])
    with pytest.raises(DataError, match="found columns left, right, expected one called text"):
        read_texts(two)
    with pytest.raises(DataError, match="no column 'rigth' among left, right; did you mean 'right'"):
        read_texts(two, column="rigth")
    numbers = tmp_path / "numbers.jsonl"
    numbers.write_text('{"text": "a"}\n{"text": 3}\n', encoding="utf-8")
    texts = read_texts(numbers)
    assert next(texts) == "a"
    with pytest.raises(DataError, match=r"numbers\.jsonl:2: found 3, expected text"):
        next(texts)


@pytest.mark.parametrize("separator", [";", "\t"])
@pytest.mark.parametrize("rows", [3, 200])
def test_a_csv_with_other_separators_is_read(tmp_path: Path, separator: str, rows: int) -> None:
    """As spreadsheets write them where a comma is the decimal sign."""
    path = tmp_path / "pairs.csv"
    lines = [separator.join(("sent0", "sent1"))]
    lines += [separator.join((f"first, {i}", f'"second {separator} ""{i}"""')) for i in range(rows)]
    path.write_text("\n".join(lines) + "\n")
    read = read_training(path)
    assert read.column_names == ["anchor", "positive"]
    assert (read[rows - 1]["anchor"], read[1]["positive"]) == (f"first, {rows - 1}", f'second {separator} "1"')


@pytest.mark.parametrize(
    "text",
    [
        "text\na; b\nc; d\n",  # no name but one
        "a, b;c\n1, 2;3\n",  # a comma in the header
        "text;more\none; two\nonly one\n",  # a row of one field
        "He came; she left the house at night.\nAll was well; it ended.\n",  # no names
        "text;more\n",  # no row
        ";\nx;y\n",
    ],
)
def test_a_comma_separates_where_there_is_doubt(tmp_path: Path, text: str) -> None:
    path = tmp_path / "f.csv"
    path.write_text(text)
    names, rows = named_rows(path)
    assert ";" in "".join(names) or any(";" in value for _, values in rows for value in values)
