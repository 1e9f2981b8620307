"""Bars move at least every second or so, whatever an item costs; log lines and other bars do not tear them."""

from __future__ import annotations

import logging
import os
import pty
import re
import sys
import time
from contextlib import ExitStack, contextmanager

import pytest

from simcse.display import progress as module
from simcse.display.progress import paced, progress, training_bar, waiting


class Terminal:
    """A pseudo-terminal in the place of stderr; `text` is what was written to it."""

    def __init__(self):
        self.master, slave = pty.openpty()
        self.stream = os.fdopen(slave, "w", buffering=1)

    @property
    def text(self) -> str:
        os.set_blocking(self.master, False)
        parts = []
        try:
            while part := os.read(self.master, 65536):
                parts.append(part)
        except BlockingIOError:
            pass
        return b"".join(parts).decode()


@pytest.fixture
def terminal(monkeypatch):
    """To be entered in the test itself: pytest puts its own stderr there before."""

    @contextmanager
    def entered():
        made = Terminal()
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr(sys, "stderr", made.stream)
        yield made
        monkeypatch.undo()
        made.stream.close()
        os.close(made.master)

    with ExitStack() as stack:
        yield lambda: stack.enter_context(entered())


def screen(text: str) -> list[str]:
    """The lines that a terminal shows at last: erased ones are gone, and the cursor goes up."""
    lines, at = [""], 0
    for part in re.split(r"(\x1b\[[0-9;?]*[A-Za-z]|\r|\n)", text):
        if part == "\n":
            at += 1
            lines += [""] * (at + 1 - len(lines))
        elif part == "\x1b[2K":
            lines[at] = ""
        elif part.endswith("A") and part.startswith("\x1b["):
            at -= int(part[2:-1] or 1)
        elif part != "\r" and not part.startswith("\x1b["):
            lines[at] += part
    return [line.rstrip() for line in lines if line.strip()]


def test_chunks_need_about_a_second_whatever_an_item_costs():
    for cost in (0.00001, 0.001, 0.05, 0.5, 5):
        now, longest, sizes = 0.0, 0.0, []
        for chunk in paced(range(200 if cost > 0.1 else 30_000), 8192, clock=lambda: now):  # noqa: B023
            sizes.append(len(chunk))
            now += cost * len(chunk)
            if len(sizes) > 4:
                longest = max(longest, cost * len(chunk))
        assert sum(sizes) == (200 if cost > 0.1 else 30_000)
        assert longest <= max(1.01, cost)
        assert max(sizes) <= 8192
    assert [len(chunk) for chunk in paced("abcde", 2)] == [2, 2, 1]


def test_a_warning_goes_above_the_bar(terminal):
    terminal = terminal()
    handler = logging.StreamHandler()  # writes to the terminal that was stderr when it was made
    logging.root.addHandler(handler)
    try:
        with progress(10, True, "indexing") as advance:
            advance(3)
            logging.getLogger("simcse").warning("3 texts are cut")
            advance(7)
        assert handler.stream is terminal.stream
    finally:
        logging.root.removeHandler(handler)
    shown = screen(terminal.text)
    assert "3 texts are cut" in shown
    assert len([line for line in shown if "indexing" in line]) == 1
    assert "10/10" in shown[-1]


def test_a_bar_within_a_bar_is_a_line_of_it(terminal):
    terminal = terminal()
    with training_bar(4, 0, True) as show:
        show({"step": 1})
        with progress(20, True, "evaluating") as advance:
            advance(20)
            assert len(module._live.tasks) == 2
        show({"step": 4, "loss": 0.5, "rows_per_second": 10.0})
    shown = screen(terminal.text)
    assert len(shown) == 1
    assert re.search(r"training .* 4/4 loss 0.5000", shown[0])
    assert module._live is None


def test_what_takes_long_is_said_once(terminal, monkeypatch):
    terminal = terminal()
    monkeypatch.setattr(module, "PATIENCE", 0.01)
    with waiting("loading a model"):
        pass
    assert terminal.text == ""
    with waiting("loading a model"):
        time.sleep(0.1)
    assert terminal.text.splitlines() == ["loading a model ..."]


@pytest.mark.parametrize("no_color", [None, "1"])
def test_no_color_is_respected(terminal, monkeypatch, no_color):
    """Colours are SGR codes 30 to 49 and 90 to 107; the cursor still moves, for the bar is one line."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", no_color)
    stream = terminal()
    with progress(2, True) as advance:
        advance(2)
    codes = {int(code) for found in re.findall(r"\x1b\[([\d;]+)m", stream.text) for code in found.split(";")}
    assert bool(codes & {*range(30, 50), *range(90, 108)}) == (no_color is None)
