"""Scored pairs: the layouts that are found, and the rows that are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simcse.data.pairs import read_scored_pairs
from simcse.errors import ConfigError, DataError

STSB = 'main\tMSRvid\t2012\t0001\t5.000\ta "plane , now\tan air plane\nmain\tMSRvid\t2012\t0004\t3.8\ta flute\ta drum\n'

LAYOUTS = {
    "bare.tsv": 'a "plane , now\tan air plane\t5\na flute\ta drum\t3.8\n',
    "bare.csv": '"a ""plane , now",an air plane,5\na flute,a drum,3.8\n',
    "bare.txt": 'a "plane , now\tan air plane\t5\na flute\ta drum\t3.8\n',
    "positions.csv": 'left,right,how close\n"a ""plane , now",an air plane,5\na flute,a drum,3.8\n',
    "names.tsv": 'score\tid\tsentence1\tsentence2\n5\t1\ta "plane , now\tan air plane\n3.8\t2\ta flute\ta drum\n',
    "sick.txt": (
        "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n"
        '1\ta "plane , now\tan air plane\t5\tNEUTRAL\n2\ta flute\ta drum\t3.8\tNEUTRAL\n'
    ),
    "sts-dev.csv": STSB,
    "stsb.tsv": STSB,
    "extra.tsv": STSB.replace("drum\n", "drum\tlicence\tfree\n"),
    "keys.jsonl": (
        '{"a": "a \\"plane , now", "b": "an air plane", "score": 5}\n{"a": "a flute", "b": "a drum", "score": "3.8"}\n'
    ),
    "jglue.json": (
        '{"id": "0", "sentence1": "a \\"plane , now", "sentence2": "an air plane", "label": 5.0}\n'
        '{"id": "1", "sentence1": "a flute", "sentence2": "a drum", "label": 3.8}\n'
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_gives_the_same_pairs(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(LAYOUTS[name], encoding="utf-8")
    pairs = read_scored_pairs(path)
    assert len(pairs) == 2
    assert pairs.a == ['a "plane , now', "a flute"]
    assert pairs.b == ["an air plane", "a drum"]
    assert pairs.scores.dtype == np.float64
    np.testing.assert_array_equal(pairs.scores, [5.0, 3.8])
    assert pairs.name == str(path)


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("gold2,x,y,gold\n1,one,two,4\n", encoding="utf-8")
    assert read_scored_pairs(path, columns=["y", "x", "gold"]).a == ["two"]
    assert read_scored_pairs(path, columns=["y", "x", "gold"]).scores.tolist() == [4.0]
    with pytest.raises(ConfigError, match="found 2 names, expected 3"):
        read_scored_pairs(path, columns=["x", "y"])
    with pytest.raises(DataError, match=r"found columns gold2, x, y, gold, expected two sentences and a score"):
        read_scored_pairs(path)


DEFECTS = {
    "word.tsv": ("a\tb\t1\nc\td\tmuch\n", r"word.tsv:2: score 'much' is no finite number"),
    "nan.tsv": ("a\tb\tnan\n", r"nan.tsv:1: score 'nan' is no finite number"),
    "inf.csv": ("a,b,score\nc,d,inf\n", r"inf.csv:2: score 'inf' is no finite number"),
    "missing.tsv": ("a\tb\t1\nc\td\t\n", r"missing.tsv:2: score '' is no finite number"),
    "bool.jsonl": ('{"a": "x", "b": "y", "score": true}\n', "bool.jsonl:1: score True is no finite number"),
    "blank.tsv": ("a\tb\t1\n\nc\td\t2\n", "blank.tsv:2: blank"),
    "half.tsv": ("a\t \t1\n", "half.tsv:1: a sentence is blank"),
    "two.tsv": ("a\tb\n", "two.tsv:1: found 2 columns, expected 3"),
    "four.tsv": ("a\tb\t1\tc\n", "four.tsv:1: found 4 columns without a header, expected 3"),
    "ragged.tsv": ("a\tb\t1\nc\t2\n", "ragged.tsv:2: found 2 columns, expected 3"),
    "empty.tsv": ("", "empty.tsv: is empty"),
    "header.tsv": ("a\tb\tscore\n", "header.tsv: is empty"),
    "number.jsonl": ('{"a": 1, "b": "y", "score": 1}\n', "number.jsonl:1: found .*expected two sentences"),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_each_defect_names_file_and_line(tmp_path: Path, name: str) -> None:
    text, message = DEFECTS[name]
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_scored_pairs(tmp_path / name)


def test_real_files_have_their_published_sizes(data_dir: Path) -> None:
    assert len(read_scored_pairs(data_dir / "senteval/STS/STSBenchmark/sts-dev.csv")) == 1500
    assert len(read_scored_pairs(data_dir / "senteval/SICK/SICK_test_annotated.txt")) == 4927
    assert len(read_scored_pairs(data_dir / "ja/JGLUE/jsts-v1.3/valid-v1.3.json")) == 1457
