"""What the pages of docs/ show works as shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pages import ROOT, RUN, SHOWN, Session, blocks

PAGES = sorted((ROOT / "docs").glob("*.md"))
NOT_RUN = 17


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_its_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder, in order, by what stands on the page alone."""
    folder = tmp_path / "page"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "80")
    session = Session(tmp_path / "bin")
    try:
        for block in blocks(page):
            try:
                session.run(block)
            except Exception as error:
                raise AssertionError(f"{page.name}, line {block.line}: {error}") from error
    finally:
        session.close()


def test_every_block_says_what_it_is() -> None:
    """A block without a language, or of another one, would be run by nobody."""
    for page in PAGES:
        for block in blocks(page):
            assert block.language in (*RUN, *SHOWN, "setup"), f"{page.name}, line {block.line}: {block.language!r}"
            assert block.mark != "not run" or len(block.value) > 10, f"{page.name}, line {block.line}: no reason"


def test_few_blocks_are_not_run() -> None:
    skipped = [f"{page.name}:{b.line}: {b.value}" for page in PAGES for b in blocks(page) if b.mark == "not run"]
    assert len(skipped) == NOT_RUN, "\n".join(skipped)


def test_options_of_the_pages_exist() -> None:
    """What a page has as `--option` or `simcse ... --option`; tables of other packages have theirs on the left."""
    from simcse.cli import build_parser

    known = {"--debug", "--path"}  # the latter of the original's simcse_to_huggingface.py
    parsers = [build_parser()]
    while parsers:
        for action in parsers.pop()._actions:
            known |= {option for option in action.option_strings if option.startswith("--")}
            if isinstance(action.choices, dict):
                parsers += action.choices.values()
    assert {"--data.train", "--top_k", "--tasks", "--quantize"} <= known
    launchers = ("--n", "--master", "--cpu", "--shutdown")
    for page in [*PAGES, ROOT / "README.md"]:
        for line in page.read_text(encoding="utf-8").splitlines():
            ours = line.split(" | ", 1)[-1] if page.stem == "from-simcse" and line.startswith("| `") else line
            for code in re.findall(r"`((?:--|simcse )[^`]+)`", ours):
                for option in re.findall(r"(?<!\S)--[a-z][\w.]*", code):
                    launcher = page.stem == "scale" and option.startswith(launchers)
                    assert option in known or launcher, f"{page.name}: {option}"


def test_every_public_name_has_an_example() -> None:
    """In the reference, in a block that is run; and its docstring stands there."""
    import simcse

    page = ROOT / "docs" / "api.md"
    code = "\n".join(block.text for block in blocks(page) if block.language == "python" and block.mark != "not run")
    for name in simcse.__all__:
        assert re.search(rf"\b{name}\b", code), f"no example of {name}"
        assert re.search(rf"^\.\. auto\w+:: simcse\.{name}$", page.read_text(encoding="utf-8"), flags=re.M), name


def test_each_option_of_the_original_is_answered() -> None:
    """Typed at our command it is accepted, or the error says what there is instead, as the page's table does."""
    from simcse import ConfigError
    from simcse.commands.train import build_parser

    page = (ROOT / "docs" / "from-simcse.md").read_text(encoding="utf-8")
    table = page[page.index("## Training") : page.index("## Evaluation")]
    parser, same = build_parser(), set()
    rows = re.findall(r"^\| (`--.*?) \| (.*?) ?\|", table, flags=re.M)
    assert len(rows) >= 35
    for theirs, ours in rows:
        for option in re.findall(r"--\w+", theirs):
            answer = ""
            try:
                parser.parse_args([option, "1"])
                same.add(option)
            except ConfigError as error:
                answer = str(error)
            named = [name[2:] for name in re.findall(r"--[\w.]+", ours)]
            assert option in same or any(name in answer for name in named) or "leave it out" in answer, answer
    assert same == {"--hard_negative_weight", "--output_dir", "--max_steps", "--seed"}
