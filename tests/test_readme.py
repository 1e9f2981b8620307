"""What the first screen shows works as shown; what the documents name is there."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simcse import ConfigError

ROOT = Path(__file__).parents[1]
DOCUMENTS = ["README.md", "README.ja.md", "CONTRIBUTING.md", "docs/architecture.md", "examples/python_docs/README.md"]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_session_gives_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six lines; a value behind `#` is what the line evaluates to."""
    monkeypatch.chdir(tmp_path)
    [session] = re.findall(r"```python\n(.*?)```", read("README.md"), flags=re.S)
    lines = [line for line in session.splitlines() if line]
    assert len(lines) == 6
    values: dict[str, Any] = {}
    checked = 0
    for line in lines:
        code, _, said = (part.strip() for part in line.partition("  # "))
        if said and said[0] in "['":
            found = eval(code, values)
            expected = ast.literal_eval(said)
            assert found == expected if isinstance(expected, str) else np.allclose(found, expected, atol=1e-6)
            checked += 1
        else:
            exec(code, values)
    assert checked == 2
    assert (tmp_path / "index").is_dir()


def test_the_first_training_command_works_at_once(tmp_path: Path) -> None:
    """As it is typed, in a folder that holds nothing, without data to evaluate on; but for the number of steps."""
    [block] = re.findall(r"```\n(simcse data python-docs .*?)```", read("README.md"), flags=re.S)
    make, train = block.strip().splitlines()
    assert train.startswith("simcse train --data.train corpus/docstrings.txt ")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "simcse").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m simcse "$@"\n')
    (programs / "simcse").chmod(0o755)
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["sh", "-ec", f"{make}\n{train} --max_steps 1"], cwd=tmp_path, env=environment, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "no evaluation data" in done.stderr
    assert "max_length 32 cuts " in done.stderr
    assert "the best encoder lies in runs/mine/best" in done.stdout
    assert (tmp_path / "runs" / "mine" / "best" / "README.md").is_file()


def test_training_from_python_is_six_lines(
    tmp_path: Path, sentences: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The very lines, but for the number of steps; what was set since the config was made is checked as well."""
    monkeypatch.chdir(tmp_path)
    session = re.findall(r"```python\n(.*?)```", read("docs/sentences.md"), flags=re.S)[1]
    assert len([line for line in session.splitlines() if line]) == 6
    session = f"from simcse import SentenceEncoder\n{session}"  # of the page's first block
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "docstrings.txt").write_text("\n".join(sentences[:64]) + "\n")
    values: dict[str, Any] = {}
    exec(session.replace("max_steps=100", "max_steps=1"), values)
    assert values["report"]["model"] == "runs/python/best"
    assert values["encoder"].encode("a cat").shape == (384,)
    values["config"].optim.lr = -1
    with pytest.raises(ConfigError, match=r"^optim.lr is -1"):
        values["train"](values["config"])


def test_the_japanese_page_shows_the_same_commands_and_numbers() -> None:
    """Code, links and the numbers of its tables are those of README.md, in their order."""
    english, japanese = read("README.md"), read("README.ja.md")
    for pattern in (r"^```.*?^```", r"\]\((?!README)([^)]+)\)", r"`[^`\n]*simcse[^`\n]*`"):
        found = [re.findall(pattern, text, flags=re.M | re.S) for text in (english, japanese)]
        if pattern.startswith("^"):
            assert found[0] == found[1]
        assert len(found[0]) >= 3
        assert set(found[0]) <= set(found[1]), set(found[0]) - set(found[1])
    numbers = [re.findall(r"\*\*[\d.,]+\*\*", text) for text in (english, japanese)]
    assert sorted(numbers[0]) == sorted(numbers[1])


def test_its_numbers_were_measured() -> None:
    """Each number of the table stands in benchmarks/RESULTS.md."""
    table = read("README.md").split("## In numbers")[1].split("## ")[0]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 8
    results = read("benchmarks/RESULTS.md")
    for _, _, ours, theirs, _ in rows:
        found = re.findall(r"(?<![\w.])\d[\d.,]*\d(?![\w%])", ours + theirs)
        assert found
        for number in found:
            assert re.search(rf"(?<![\d.,]){re.escape(number)}(?![\d,])", results), number


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", read(name)):
        assert ((ROOT / name).parent / target).exists(), target


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_of_the_project_are_there(name: str) -> None:
    for path in re.findall(r"\b((?:configs|examples|docs)/[\w/-]+\.(?:yaml|py|md))", read(name)):
        assert (ROOT / path).is_file(), path


def test_the_map_of_rooms_is_true() -> None:
    """Each file that the map names is in its room, and each room is on the map."""
    block = read("docs/architecture.md").split("```")[1]
    around = {0: Path("simcse")}  # by indentation: the folders that a line stands in
    rooms: set[str] = set()
    for line in block[block.index("simcse/\n") : block.index("tests/")].splitlines()[1:]:
        indent = len(line) - len(line.lstrip())
        around = {depth: room for depth, room in around.items() if depth == 0 or depth < indent}
        if found := re.match(r" +(\w+)/(?=\s)", line):
            around[indent] = around[max(around)] / found[1]
            rooms |= {found[1]} if indent == 2 else set()
        room = around[max(around)]
        for file in re.findall(r"(?<![\w/])[\w]+\.py\b", line):
            assert (ROOT / room / file).is_file(), f"{room / file}"
    rooms.add("commands")
    below = {path.parent.name for path in (ROOT / "simcse").glob("*/__init__.py")}
    assert rooms == below


def test_each_step_of_the_walks_exists() -> None:
    """`file.py` `name` or `Class.method`: the file is in the package, and defines it."""
    steps = re.findall(r"`([\w/]+\.py)` `([\w.]+)`", read("docs/architecture.md"))
    assert len(steps) >= 30
    for file, name in steps:
        body = ast.parse(read(f"simcse/{file}")).body
        for part in name.split("."):
            found = [node for node in body if part in names_of(node)]
            assert found, f"{file} does not define {name}"
            body = getattr(found[0], "body", [])


def names_of(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}


def test_every_option_of_the_commands_exists() -> None:
    """`simcse train`, `train.py` and `accelerate launch ... train.py` lines parse; their recipes are there."""
    from simcse.commands.recipes import with_recipe_files
    from simcse.commands.train import build_parser

    start = r"^[# ]*(?:accelerate launch.*|python )?(?:train\.py|simcse train) (--config .*)$"
    files = [*(ROOT / name for name in DOCUMENTS), *(ROOT / "docs").glob("*.md"), *(ROOT / "configs").rglob("*.yaml")]
    commands = []
    for path in files:
        text = path.read_text(encoding="utf-8")
        own = set(re.findall(r"<!-- file: (\S+) -->", text))  # written by the page itself, whose test runs the command
        commands += [line for line in re.findall(start, text, flags=re.M) if line.split()[1] not in own]
    assert len(commands) >= 18
    for command in commands:
        build_parser().parse_args(with_recipe_files(shlex.split(command.removesuffix("\\"))))


def test_a_launcher_is_shown_for_several_processes_only() -> None:
    """Launchers add a traceback of their own to each one-line error, and make exit status 2 a 1."""
    shown = [ROOT / "train.py", ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "configs").glob("*.yaml")]
    shown += [*(ROOT / "examples").rglob("*.md"), *(ROOT / "examples").rglob("*.py")]
    launchers = r"^[^`]*\b(?:accelerate launch|torchrun) .*$"
    commands = [line for path in shown for line in re.findall(launchers, path.read_text(), flags=re.M)]
    assert len(commands) >= 2
    assert all(re.search(r"--(?:num_machines|nproc_per_node) [2-9]", line) for line in commands), commands
    assert "What the launchers print themselves" in read("docs/scale.md")


def test_install_lines_name_our_package() -> None:
    """`pip install simcse` gives the original's; extras are those of pyproject.toml."""
    import tomllib

    project = tomllib.loads(read("pyproject.toml"))["project"]
    files = [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "simcse").rglob("*.py"),
        *ROOT.glob("examples/*/*"),
    ]
    named = [
        found for path in files if path.is_file() for found in re.findall(r"simcse(?:-\w+)?\[\w+\]", path.read_text())
    ]
    assert len(named) >= 6
    for found in named:
        name, _, extra = found.rstrip("]").partition("[")
        assert name == project["name"] == "simcse-kit"
        assert extra in project["optional-dependencies"]
