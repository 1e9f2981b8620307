"""What the pages of docs/ show works as shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from pages import ROOT, RUN, SHOWN, Session, blocks

PAGES = sorted((ROOT / "docs").glob("*.md"))
NOT_RUN = 8  # blocks that cannot run here; whoever adds one says why in the page, and counts it here


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
