"""The code blocks of the documents, and what runs them: the pages of docs/ are sessions that a reader can type.

A block of `sh` or `python` is run, in the page's order, in one empty folder and one namespace. Comments that readers
do not see stand before a block, or between them:

    <!-- file: NAME -->        the block is a file of that name
    <!-- output -->            the block is printed by the one before: each of its lines, whatever its numbers are
    <!-- not run: REASON -->   the block cannot run here
    <!-- setup                 code of Python that makes what the page expects to be there
    ... -->

A line of Python with a literal behind `  # ` evaluates to it. Training is cut to one step.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
RUN = ("sh", "python")
SHOWN = ("text", "yaml", "json")
STEPS = 1


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, text, line in the page, and the comment before it as (mark, value)."""

    language: str
    text: str
    line: int
    mark: str = ""
    value: str = ""


def blocks(page: Path) -> list[Block]:
    """All fenced blocks and setups of a page, in order; directives of the site, ```{name}, are not code."""
    found, mark, value, fence = [], "", "", None
    lines = page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        if fence is not None:
            closing = "-->" if fence[0] == "setup" else "```"
            if line.strip() == closing:
                if not fence[0].startswith("{"):
                    found.append(Block(fence[0], "\n".join(fence[1]) + "\n", fence[2], mark, value))
                fence, mark, value = None, "", ""
            else:
                fence[1].append(line)
        elif line.strip() == "<!-- setup":
            fence = ("setup", [], number)
        elif comment := re.fullmatch(r"<!-- (file|output|not run)(?:: (.*))? -->", line.strip()):
            mark, value = comment[1], comment[2] or ""
        elif opened := re.match(r"```(\S*)", line):
            fence = (opened[1], [], number)
        elif line.strip():
            mark, value = "", ""
    assert fence is None, f"{page}: a block is not closed"
    return found


class Session:
    """Runs the blocks of one page in the current folder; `close` ends the servers that it started."""

    def __init__(self, programs: Path) -> None:
        """`programs` is a folder for `simcse` and `python` as a shell finds them."""
        self.names: dict[str, Any] = {}
        self.printed = ""
        self.servers: list[subprocess.Popen[bytes]] = []
        self.addresses: dict[str, str] = {}  # of these servers, by what the page calls them
        programs.mkdir()
        for name, start in (("python", ""), ("simcse", "-m simcse")):
            (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {start} "$@"\n')
            (programs / name).chmod(0o755)
        path = f"{programs}:{os.environ['PATH']}"
        self.environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "80", "NO_COLOR": "1"}

    def run(self, block: Block) -> None:
        """Do what the block's comment and language say; raises AssertionError where it does not do what it says."""
        if block.mark == "not run":
            return
        if block.mark == "output":
            self._compare(block.text)
        elif block.mark == "file":
            Path(block.value).parent.mkdir(parents=True, exist_ok=True)
            Path(block.value).write_text(block.text, encoding="utf-8")
        elif block.language == "sh":
            self.printed = ""
            for line in re.sub(r"\\\n\s*", "", block.text).splitlines():
                if (line := line.partition("  # ")[0].strip()) and not line.startswith("#"):
                    self._command(self._addressed(line))
        elif block.language in ("python", "setup"):
            self._python(re.sub(r"max_steps=\d+", f"max_steps={STEPS}", block.text))

    def close(self) -> None:
        for server in self.servers:
            server.terminate()
            server.wait(timeout=60)

    def _command(self, line: str) -> None:
        if re.match(r"simcse train\b", line):
            line = re.sub(r" --max_steps \d+", "", line) + f" --max_steps {STEPS}"
        if re.match(r"(\w+=\w+ )*simcse serve\b", line):
            self._serve(line.rstrip("& "))
        elif line.startswith("simcse ") and not any(
            set(token) <= set("|&;<>()") for token in shlex.shlex(line, posix=True, punctuation_chars=True)
        ):
            from simcse.cli import main

            printed = Terminal()
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                status = main(shlex.split(line)[1:])
            self.printed += printed.getvalue()
            assert status == 0, f"{line}\n{printed.getvalue()}"
        else:
            done = subprocess.run(
                ["bash", "-ec", line], env=self.environment, capture_output=True, text=True, timeout=300
            )
            self.printed += done.stdout + done.stderr
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"

    def _serve(self, line: str) -> None:
        """Start the server on a free port, at which later blocks ask in place of the port of the page."""
        log = Path(f"serve-{len(self.servers)}.log")
        variables, _, arguments = line.partition("simcse serve")
        shown = re.search(r" --port (\d+)", arguments)
        command = [sys.executable, "-m", "simcse", "serve", *shlex.split(re.sub(r" --port \d+", "", arguments))]
        environment = self.environment | dict(pair.split("=") for pair in variables.split())
        with log.open("wb") as errors:
            self.servers.append(subprocess.Popen([*command, "--port", "0"], env=environment, stderr=errors))
        limit = time.monotonic() + 120
        while not (found := re.search(r"http://([\w.]+:\d+)", log.read_text())):
            assert self.servers[-1].poll() is None, log.read_text()
            assert time.monotonic() < limit, log.read_text()
            time.sleep(0.1)
        self.addresses[f"localhost:{shown[1] if shown else 8000}"] = found[1]

    def _addressed(self, text: str) -> str:
        for shown, address in self.addresses.items():
            text = text.replace(shown, address)
        return text

    def _python(self, code: str) -> None:
        code = self._addressed(code)
        printed = Terminal()
        with contextlib.redirect_stdout(printed):
            for node in ast.parse(code).body:
                source = ast.get_source_segment(code, node) or ""
                comment = code.splitlines()[(node.end_lineno or 1) - 1][node.end_col_offset or 0 :].partition("  # ")[2]
                if isinstance(node, ast.Expr) and (said := literal(comment)) is not None:
                    same(eval(source, self.names), said, source)
                else:
                    exec(compile(ast.Module([node], []), "<page>", "exec"), self.names)
        self.printed = printed.getvalue()

    def _compare(self, shown: str) -> None:
        printed = [plain(line) for line in self.printed.splitlines()]
        for line in shown.splitlines():
            if plain(line) not in ("", "..."):
                assert any(plain(line) in other for other in printed), f"{line!r} is not in\n{self.printed}"


class Terminal(io.StringIO):
    """What is printed, as it is for a person."""

    def isatty(self) -> bool:
        return True


def plain(line: str) -> str:
    """A line without its numbers and the width of its gaps."""
    return " ".join(re.sub(r"-?\d[\d,.]*", "#", line).split())


def literal(comment: str) -> Any:
    """The value that a comment holds, alone or before a remark in brackets; None for any other comment."""
    try:
        return ast.literal_eval(comment)
    except (SyntaxError, ValueError):
        return None


def same(found: Any, said: Any, source: str) -> None:
    """Texts are equal, numbers as far as they are written."""
    if isinstance(said, str) or (isinstance(said, list) and said and isinstance(said[0], str)):
        assert found == said, f"{source} is {found!r}, not {said!r}"
    else:
        assert np.allclose(np.asarray(found, dtype=float), np.asarray(said, dtype=float), atol=1e-6), (
            f"{source} is {found!r}, not {said!r}"
        )
