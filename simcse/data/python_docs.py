"""A training corpus made of Python sources: (what a thing is called, what its docstring says).

The sources are read with `ast`: nothing of them is imported or run. Public modules, classes, functions and methods
give one pair each, "argparse argument parser add argument" with the first paragraph of the docstring. Whole top-level
modules are held out, so that a score on them says what the encoder does on code it has not seen. The files:

    train.csv       anchor,positive    the pairs of the training modules
    heldout.csv     query,document     the pairs of the held-out modules
    docstrings.txt                     the docstrings of the training modules, one a line (training without labels)
    corpus.jsonl                       all docstrings: id (qualified name), text, module, kind, file, line

The same sources, seed and share give the same bytes. Only the standard library is needed.
"""

from __future__ import annotations

import ast
import csv
import hashlib
import io
import json
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from simcse.errors import DataError
from simcse.files import replaced_file

__all__ = ["SEED", "SHARE", "Entry", "collect", "held_out_modules", "words_of", "write_corpus"]

# folders that hold no library code: tests, demos, an application, vendored copies, installed packages, build outputs
SKIPPED = frozenset({
    "__pycache__", "test", "tests", "idlelib", "turtledemo", "pydoc_data", "lib-dynload", "site-packages",
    "dist-packages", "_bundled", "_vendor", "build", "dist", "node_modules", "venv",
})  # fmt: skip
MIN_WORDS = 2  # "Constructor." says nothing that could be searched for
# public modules of the standard library whose sources lie under another name
PUBLIC_NAMES = {
    "_collections_abc": "collections.abc", "_pydatetime": "datetime", "_pydecimal": "decimal", "_pyio": "io",
    "posixpath": "os.path",
}  # fmt: skip
SHARE, SEED = 0.2, 3  # with this seed a fifth of the standard library's modules holds about a fifth of its pairs, too


@dataclass(frozen=True)
class Entry:
    """One documented thing."""

    id: str
    """Qualified name, "argparse.ArgumentParser.add_argument"."""
    text: str
    """First paragraph of the docstring, every run of white space one space."""
    module: str
    kind: str
    """`module`, `class`, `function` or `method`."""
    file: str
    """Path below the source folder, with forward slashes."""
    line: int


def words_of(name: str) -> str:
    """`"argparse.ArgumentParser.add_argument"` -> `"argparse argument parser add argument"`."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    return " ".join(re.split(r"[\s._]+", spaced)).strip().lower()


def first_paragraph(docstring: str) -> str:
    """The docstring up to its first blank line, on one line."""
    paragraph = re.split(r"\n\s*\n", docstring.strip(), maxsplit=1)[0]
    return " ".join(paragraph.encode("utf-8", "replace").decode("utf-8").split())  # "\\ud800" is no text


def top_level(module: str) -> str:
    """`"_weakrefset"` -> `"weakrefset"`, `"os.path"` -> `"os"`."""
    return module.split(".")[0].strip("_")


def held_out_modules(modules: Iterable[str], share: float, seed: int) -> set[str]:
    """The top-level modules to hold out: `share` of them, drawn by a hash of seed and name.

    A hash and no shuffle: a module added to the sources moves at most one other from part to part.
    """
    names = {top_level(module) for module in modules}
    drawn = sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    return set(drawn[: round(share * len(drawn))])


def collect(source: Path) -> tuple[list[Entry], list[str]]:
    """All public documented things below `source`, and the files that could not be parsed.

    No name and no docstring occurs twice: an inherited or copied text has no single right answer, and would leak from
    the training modules into the held-out ones. The first by path and line stays.
    """
    entries: list[Entry] = []
    unreadable: list[str] = []
    seen: set[str] = set()
    for path in python_files(source):
        file = path.relative_to(source).as_posix()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SyntaxWarning)  # about the sources read, of no use to the reader
                warnings.simplefilter("ignore", DeprecationWarning)
                tree = ast.parse(path.read_bytes(), filename=str(path))
        except (SyntaxError, ValueError, RecursionError, OSError):
            unreadable.append(file)
            continue
        module = module_name(file, source)
        for name, kind, node in documented(tree, module):
            text = first_paragraph(ast.get_docstring(node) or "")
            keys = {words_of(name), text.lower()}
            if len(text.split()) < MIN_WORDS or keys & seen:
                continue
            seen |= keys
            entries.append(Entry(name, text, module, kind, file, getattr(node, "lineno", 1)))
    return entries, unreadable


def python_files(source: Path) -> Iterator[Path]:
    """Python files below `source`, in the order of their paths.

    Files with a leading underscore too: much that is public is written there, such as `Decimal` in `_pydecimal.py`.
    """
    for folder, folders, files in os.walk(source):
        folders[:] = sorted(name for name in folders if name not in SKIPPED and not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(files) if name.endswith(".py"))


def module_name(file: str, source: Path) -> str:
    """`"email/message.py"` -> `"email.message"`; a package goes by its folder's name."""
    name = ".".join(Path(file).with_suffix("").parts).removesuffix(".__init__")
    if name == "__init__":  # `source` is itself a package
        return source.resolve().name
    return PUBLIC_NAMES.get(name, name)


def is_public(name: str) -> bool:
    """Names without a leading underscore, and special methods."""
    return not name.startswith("_") or (name.startswith("__") and name.endswith("__"))


Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def documented(tree: ast.Module, module: str) -> Iterator[tuple[str, str, Documented]]:
    """(qualified name, kind, node) of the module and of each public class, function and method in it."""
    yield module, "module", tree
    yield from members(tree.body, module, "function")


def members(body: Iterable[ast.stmt], prefix: str, function_kind: str) -> Iterator[tuple[str, str, Documented]]:
    for node in body:
        if isinstance(node, ast.If | ast.Try):  # def under `if sys.platform == ...` and `try: import ...`
            handlers = [statement for handler in getattr(node, "handlers", []) for statement in handler.body]
            yield from members([*node.body, *handlers, *node.orelse], prefix, function_kind)
        elif isinstance(node, ast.ClassDef) and is_public(node.name):
            name = f"{prefix}.{node.name}"
            yield name, "class", node
            yield from members(node.body, name, "method")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and is_public(node.name):
            yield f"{prefix}.{node.name}", function_kind, node


def write_corpus(entries: list[Entry], output: Path, *, share: float = SHARE, seed: int = SEED) -> dict[str, int]:
    """Write the four files into `output`, each complete or not at all.

    Returns:
        Rows by file name.

    Raises:
        DataError: one of the two parts would be empty.
    """
    chosen = held_out_modules((entry.module for entry in entries), share, seed)
    train = [entry for entry in entries if top_level(entry.module) not in chosen]
    heldout = [entry for entry in entries if top_level(entry.module) in chosen]
    if not train or not heldout:
        raise DataError(
            f"found {len(train)} documented names to train on and {len(heldout)} held out, expected some of both; name "
            "another source, or another share to hold out"
        )
    files = {
        "train.csv": table(("anchor", "positive"), train),
        "heldout.csv": table(("query", "document"), heldout),
        "docstrings.txt": "".join(f"{entry.text}\n" for entry in train),
        "corpus.jsonl": "".join(json.dumps(asdict(entry), ensure_ascii=False) + "\n" for entry in entries),
    }
    for name, text in files.items():
        with replaced_file(output / name) as new:
            new.write_text(text, encoding="utf-8", newline="")
    counts = [len(train), len(heldout), len(train), len(entries)]
    return dict(zip(files, counts, strict=True))


def table(header: tuple[str, str], entries: list[Entry]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows((words_of(entry.id), entry.text) for entry in entries)
    return buffer.getvalue()
