"""With --json, stdout holds JSON and nothing else, whatever is told on stderr meanwhile."""

from __future__ import annotations

import json
import re

import pytest

from simcse.cli import build_parser, main

PAIRS = "a\tb\tscore\na man sings\ta man plays\t4\na dog\tthe rain\t0\na cat\ta cat\t5\nthe sun\tthe rain\t1\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_bert):
    """A folder with texts, pairs, an index and a model."""
    folder = tmp_path_factory.mktemp("json")
    (folder / "texts.txt").write_text("".join(f"a man walks {i} miles\n" for i in range(16)))
    (folder / "pairs.tsv").write_text(PAIRS)
    (folder / "model").symlink_to(tiny_bert)
    (folder / "listed").mkdir()
    (folder / "listed" / "config.yaml").write_text("epochs: 1\n")
    (folder / "listed" / "log.jsonl").write_text('{"step": 0, "dev": {"spearman": 70.0}}\n')
    status = main(
        ["index", "build", str(folder / "texts.txt"), "--model", str(tiny_bert), "--output", str(folder / "i")]
    )
    assert status == 0
    return folder


@pytest.mark.parametrize(
    ("command", "key"),
    [
        ("recipes", "expected"),
        ("runs listed", "state"),
        ("inspect-data pairs.tsv --columns a,b", "warnings"),
        ("inspect-data pairs.tsv --columns a,b --model model", "max_length"),
        ("similarity a b --model model", "score"),
        ("index search i man", "hits"),
        ("index info i", "count"),
        ("dedup i --threshold 0.5", "keep"),
        ("cluster i --clusters 2", "members"),
        ("evaluate --model model --tasks pairs.tsv", "tasks"),
        ("compare model model --data pairs.tsv --resamples 100", "verdict"),
        (
            "train --data.train texts.txt --model.name model --model.pooling mean --model.projection none "
            "--batch_size 8 --max_steps 1 --output_dir run",
            "training",
        ),
    ],
)
def test_stdout_is_json_alone(place, command, key, capsys, monkeypatch):
    monkeypatch.chdir(place)
    assert main([*command.split(), "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows
    assert all(key in row for row in rows)


def test_groups_are_printed_for_readers_too(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    assert main(["dedup", "i", "--threshold", "0.5", "--format", "text"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("0: ")
    found = map(int, re.findall(r"(\d+)\s+\(1\.0000\)", out))
    assert sorted(found) == list(range(1, 16)), "numbers are no words of the model: the texts are one to it"
    assert max(map(len, out.splitlines())) <= 80
    assert main(["cluster", "i", "--clusters", "2", "--format", "text"]) == 0
    lines = capsys.readouterr().out.splitlines()
    sizes = [int(line.removesuffix(" texts")) for line in lines if not line.startswith("  ")]
    assert (len(sizes), sum(sizes)) == (2, 16)
    assert any(line.startswith("  a man walks ") for line in lines)
    assert max(map(len, lines)) <= 80


def test_inspected_data_holds_what_the_table_says(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    assert main(["inspect-data", "pairs.tsv", "--columns", "a,b", "--json", "--model", "model"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["equal"]) == (4, [{"columns": ["anchor", "positive"], "rows": 1}])
    [anchor, positive] = found["columns"]
    assert (anchor["distinct"], positive["distinct"], positive["repeated"]) == (4, 3, 1)
    assert set(anchor["lengths"]) == {"words", "characters", "tokens"}
    assert anchor["lengths"]["words"]["100"] == 3


def test_what_has_a_format_has_the_switch():
    """As have `train` and `evaluate`, whose parsers are their own."""
    with_format, with_switch, parsers = {"train", "evaluate"}, set(), [("", build_parser())]
    while parsers:
        path, parser = parsers.pop()
        for action in parser._actions:
            if isinstance(action.choices, dict):
                parsers += [(f"{path} {name}".strip(), below) for name, below in action.choices.items()]
        known = parser.known_options()
        with_switch |= {path} if "json" in known else set()
        with_format |= {path} if "format" in known and path != "export" else set()  # whose format is a file's
    assert with_switch == with_format
    assert len(with_switch) >= 9
