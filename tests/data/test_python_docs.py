"""The corpus of names and docstrings that `simcse data python-docs` makes."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simcse.cli import main
from simcse.data import python_docs

STDLIB = Path(sysconfig.get_path("stdlib"))


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    return python_docs


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four files of the standard library."""
    folder = tmp_path_factory.mktemp("python-docs")
    make(folder)
    return folder


def make(output: Path, *options: str, hash_seed: str = "0") -> None:
    subprocess.run(
        [sys.executable, "-m", "simcse", "data", "python-docs", "--output", output, *options],
        check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )  # fmt: skip


def rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


SOURCE = '''"""First line of
   the module.

Second paragraph."""
import sys

class HTTPServer:
    """Serve pages."""
    def do_GET(self): "Answer a request."
    def __len__(self): "Number of open connections."
    def _hidden(self): "Never part of it."
    class Inner:
        """A class in a class."""
    def silent(self): return 1

class _Private:
    def method(self): "Nor is a method of it."

if sys.platform == "win32":
    def beep(): "Make a noise."
else:
    async def beep_later(): "Make a noise later."

try:
    import fast
except ImportError:
    def slow(): "Do it in Python."

def again(): "Serve   PAGES."
def short(): "Constructor."
def outer():
    """Has a function inside."""
    def inner(): "Not to be reached from outside."
'''


def test_takes_what_is_public_and_documented(maker: ModuleType, tmp_path: Path) -> None:
    """By hand from SOURCE: private names, undocumented ones, a repeated text and a single word are left out."""
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "server.py").write_text(SOURCE, encoding="utf-8")
    (tmp_path / "web" / "__init__.py").write_text('"""All about pages."""', encoding="utf-8")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "test_web.py").write_text('"""Tests of the web."""', encoding="utf-8")
    (tmp_path / "broken.py").write_text("def f(:", encoding="utf-8")
    entries, unreadable = maker.collect(tmp_path)
    assert unreadable == ["broken.py"]
    assert {(entry.id, entry.kind, entry.text) for entry in entries} == {
        ("web", "module", "All about pages."),
        ("web.server", "module", "First line of the module."),
        ("web.server.HTTPServer", "class", "Serve pages."),
        ("web.server.HTTPServer.do_GET", "method", "Answer a request."),
        ("web.server.HTTPServer.__len__", "method", "Number of open connections."),
        ("web.server.HTTPServer.Inner", "class", "A class in a class."),
        ("web.server.beep", "function", "Make a noise."),
        ("web.server.beep_later", "function", "Make a noise later."),
        ("web.server.slow", "function", "Do it in Python."),
        ("web.server.outer", "function", "Has a function inside."),
    }
    [get] = [entry for entry in entries if entry.id.endswith("do_GET")]
    assert (get.file, get.line) == ("web/server.py", 1 + SOURCE[: SOURCE.index("def do_GET")].count("\n"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("argparse.ArgumentParser.add_argument", "argparse argument parser add argument"),
        ("http.server.HTTPServer.do_GET", "http server http server do get"),
        ("os.path.join", "os path join"),
        ("decimal.Decimal.__add__", "decimal decimal add"),
    ],
)
def test_words_of(maker: ModuleType, name: str, words: str) -> None:
    assert maker.words_of(name) == words


@settings(max_examples=50, deadline=None)
@given(name=st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}(\.[A-Za-z_][A-Za-z0-9_]{0,8}){0,3}", fullmatch=True))
def test_words_keep_every_letter(maker: ModuleType, name: str) -> None:
    words = maker.words_of(name)
    assert words.replace(" ", "") == name.replace(".", "").replace("_", "").lower()
    assert words == " ".join(words.split())


@settings(max_examples=50, deadline=None)
@given(names=st.sets(st.from_regex(r"[a-z]{1,6}", fullmatch=True), min_size=2, max_size=40), seed=st.integers(0, 99))
def test_one_more_module_moves_at_most_one_other(maker: ModuleType, names: set[str], seed: int) -> None:
    more, *others = sorted(names)
    before = maker.held_out_modules(others, 0.2, seed)
    after = maker.held_out_modules(names, 0.2, seed)
    assert len(after) == round(0.2 * len(names))
    assert len(before ^ (after - {more})) <= 1


def test_reads_the_standard_library(corpus: Path) -> None:
    """Thousands of pairs, each name and each text once, so that every query has exactly one right answer."""
    train, heldout = rows(corpus / "train.csv"), rows(corpus / "heldout.csv")
    assert (train[0], heldout[0]) == (["anchor", "positive"], ["query", "document"])
    pairs = train[1:] + heldout[1:]
    assert len(pairs) > 5000
    assert 0.1 < len(heldout) / len(pairs) < 0.3
    for column in (0, 1):
        assert len({pair[column].lower() for pair in pairs}) == len(pairs)
    assert (corpus / "docstrings.txt").read_text(encoding="utf-8").splitlines() == [text for _, text in train[1:]]
    entries = [json.loads(line) for line in (corpus / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {entry["text"] for entry in entries} == {text for _, text in pairs}
    assert len({entry["id"] for entry in entries}) == len(entries)
    [remove] = [entry for entry in entries if entry["id"] == "shutil.rmtree"]
    assert (remove["module"], remove["kind"], remove["file"]) == ("shutil", "function", "shutil.py")
    line = (STDLIB / "shutil.py").read_text(encoding="utf-8").splitlines()[remove["line"] - 1]
    assert line.startswith("def rmtree(")


def test_whole_modules_are_held_out(corpus: Path, maker: ModuleType) -> None:
    held_out = {text for _, text in rows(corpus / "heldout.csv")[1:]}
    parts: dict[str, set[bool]] = {}
    for line in (corpus / "corpus.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        parts.setdefault(maker.top_level(entry["module"]), set()).add(entry["text"] in held_out)
    assert all(len(part) == 1 for part in parts.values())
    assert sum(part == {True} for part in parts.values()) == round(0.2 * len(parts))


def test_same_bytes_whatever_the_hash_seed(corpus: Path, tmp_path: Path) -> None:
    make(tmp_path, hash_seed="7")
    for name in ("train.csv", "heldout.csv", "docstrings.txt", "corpus.jsonl"):
        assert (tmp_path / name).read_bytes() == (corpus / name).read_bytes()


def test_imports_nothing_of_what_it_reads(tmp_path: Path) -> None:
    """A source that cannot survive being run is read all the same."""
    for name in ("a", "b", "c", "d", "e"):
        text = f'"""Module {name} says hello."""\nraise SystemExit("it was run")\n'
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    make(tmp_path / "out", "--source", str(tmp_path))
    assert len(rows(tmp_path / "out" / "train.csv")) == 1 + 4


def test_bad_use_is_told_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    command = ["data", "python-docs", "--output", str(tmp_path / "out")]
    assert main([*command, "--source", str(tmp_path / "empty")]) == 1
    assert "0 documented names to train on and 0 held out" in capsys.readouterr().err
    assert main([*command, "--source", str(tmp_path / "nowhere")]) == 2
    assert "nowhere: no such folder" in capsys.readouterr().err
    assert main([*command, "--heldout", "1.5"]) == 2
    assert "--heldout: found 1.5, expected a share" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_failed_write_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`docstrings.txt` is in the way as a folder: no temporary file stays, and no traceback is shown."""
    (tmp_path / "docstrings.txt" / "x").mkdir(parents=True)
    assert main(["data", "python-docs", "--source", str(STDLIB / "email"), "--output", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
