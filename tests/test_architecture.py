"""The house stays as its plan says: who may import whom, how long files and functions are, what importing costs."""

from __future__ import annotations

import ast
import gc
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import simcse

PACKAGE = Path(simcse.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
# a room may import from rooms with a lower number, and with the same one where those do not import it
LEVEL = {
    "errors": 0, "files": 0, "argument_names": 0, "option_names": 0, "console": 0, "display": 0,
    "vectors": 1, "tokens": 1, "objectives": 1,
    "encoder": 2, "data": 2,
    "evaluation": 3, "search": 3,
    "training": 4,
    "serving": 5, "integrations": 5, "commands": 5, "compat": 5, "tool": 6,
    "cli": 6, "__main__": 7,
}  # fmt: skip
# what only one room may know
ALONE = {"faiss": "search", "datasets": "data", "torch.distributed": "training", "pymilvus": "search"}


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def imports_of(file: Path, *, for_types: bool = True) -> Iterator[tuple[int, str]]:
    """Line and module of each import, in functions, too; those under `if TYPE_CHECKING` only if `for_types`."""

    def walk(node: ast.AST) -> Iterator[tuple[int, str]]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not for_types:
            return
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from ((node.lineno, name if name in MODULES else node.module) for name in inside)
        for child in ast.iter_child_nodes(node):
            yield from walk(child)

    yield from walk(ast.parse(file.read_text(encoding="utf-8")))


MODULES = {module_of(file): file for file in FILES}


def test_no_room_imports_upward() -> None:
    wrong = []
    for file in FILES:
        room = room_of(file)
        if room == "__init__":
            continue
        for line, name in imports_of(file):
            parts = name.split(".")
            if parts[0] == "simcse" and len(parts) > 1 and LEVEL[parts[1]] > LEVEL[room]:
                wrong.append(f"{file.relative_to(PACKAGE)}:{line} imports {name}")
    assert not wrong


def test_no_two_rooms_import_each_other() -> None:
    """Not even on one level, in any number of steps, or for types alone."""
    rooms: dict[str, set[str]] = {}
    for file in FILES:
        for _, name in imports_of(file):
            if name in MODULES and room_of(MODULES[name]) != room_of(file):
                rooms.setdefault(room_of(file), set()).add(room_of(MODULES[name]))
    rooms.pop("__init__")  # it names what all the others offer
    TopologicalSorter(rooms).prepare()  # raises CycleError, which lists the circle


def test_no_files_import_each_other() -> None:
    """No circle of files, be it through imports inside functions; for types alone it may be."""
    files = {
        name: {other for _, other in imports_of(file, for_types=False) if other in MODULES} - {name}
        for name, file in MODULES.items()
    }
    TopologicalSorter(files).prepare()


def test_evaluation_and_search_know_a_callable_only() -> None:
    wrong = [
        f"{file.relative_to(PACKAGE)}:{line} imports {name}"
        for file in FILES
        if room_of(file) in ("evaluation", "search")
        for line, name in imports_of(file)
        if name.startswith("simcse.encoder")
    ]
    assert not wrong


def test_objectives_know_no_other_room() -> None:
    for file in FILES:
        if room_of(file) == "objectives":
            others = {name for _, name in imports_of(file) if name.startswith("simcse.")}
            assert all(name.startswith(("simcse.objectives", "simcse.errors")) for name in others), file


@pytest.mark.parametrize(("library", "room"), ALONE.items())
def test_what_only_one_room_knows(library: str, room: str) -> None:
    knowing = {room_of(file) for file in FILES for _, name in imports_of(file) if f"{name}.".startswith(f"{library}.")}
    assert knowing <= {room}


def test_only_one_file_touches_torch_distributed() -> None:
    users = {
        file.name
        for file in FILES
        if any(name.startswith("torch.distributed") for _, name in imports_of(file))
        or "torch.distributed" in file.read_text(encoding="utf-8")
    }
    assert users == {"distributed.py"}


def test_files_and_functions_hold_one_idea() -> None:
    long = []
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        if (lines := text.count("\n")) > 400:
            long.append(f"{file.relative_to(PACKAGE)}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                # a command's docstring is its --help, a line an option: what is counted stands below it
                begin = (node.body[0].end_lineno or 0) if ast.get_docstring(node) else node.lineno
                lines = (node.end_lineno or 0) - begin
                if lines > 60:
                    long.append(f"{file.relative_to(PACKAGE)}:{node.lineno}: {node.name} has {lines} lines")
    assert not long


def test_errors_name_options_as_python_does() -> None:
    """`console.in_options` spells them with dashes on the command line; what is to be typed begins with a program."""
    spelled = [
        f"{file.relative_to(PACKAGE)}:{part.lineno}: {part.value}"
        for file in FILES
        if room_of(file) not in ("commands", "cli", "console") and file.name != "launch.py"  # which is about launchers
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Raise)
        for part in ast.walk(node)
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
        if re.search(r"(?<!\w)--[a-z]", part.value) and "simcse " not in part.value
    ]
    assert not spelled


# files of tests that are about more than one module
TOPICS = {
    "architectures", "durability", "evaluate_command", "follow", "gradients", "index_command", "japanese", "model",
    "objectives", "page", "quality", "theory", "wrong_use",
}  # fmt: skip


def test_test_files_mirror_the_package() -> None:
    """tests/room/test_module.py; with one more word in front where two modules of that name have tests."""
    tests, astray = Path(__file__).parent, []
    for file in sorted(tests.glob("*/**/test_*.py")):
        room, name = file.parent.relative_to(tests), file.stem.removeprefix("test_")
        folder = next((root / room for root in (PACKAGE, PACKAGE.parent) if (root / room).is_dir()), None)
        if folder is None or name in TOPICS:  # tests/reliability has no room
            continue
        names = {name, name.partition("_")[2]}
        if not names & {path.stem for path in folder.iterdir()}:
            astray.append(f"{file.relative_to(tests)}: no module {name} in {room}")
    assert not astray


def test_public_names() -> None:
    assert simcse.__all__ == sorted(simcse.__all__)
    for name in simcse.__all__:
        assert getattr(simcse, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        simcse.nothing  # noqa: B018
    with pytest.raises(AttributeError, match="'SentenceEncodr'; did you mean 'SentenceEncoder'"):
        simcse.SentenceEncodr  # noqa: B018


@pytest.mark.parametrize("module", ["simcse", "simcse.cli", "simcse.training.config", "simcse.console"])
def test_importing_is_cheap(module: str) -> None:
    """`import simcse` and `simcse --help` must not pay for torch and its kin."""
    heavy = [
        "torch",
        "transformers",
        "datasets",
        "faiss",
        "scipy",
        "numpy",
        "sklearn",
        "matplotlib",
        "accelerate",
        "fastapi",
    ]
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("collects", [True, False])
def test_a_name_leaves_the_garbage_collector_as_it_was(monkeypatch: pytest.MonkeyPatch, collects: bool) -> None:
    monkeypatch.delitem(vars(simcse), "ConfigError", raising=False)
    before = gc.isenabled()
    try:
        (gc.enable if collects else gc.disable)()
        assert simcse.ConfigError
        assert gc.isenabled() == collects
    finally:
        (gc.enable if before else gc.disable)()
