"""What the package imports is what pyproject.toml declares: an environment for tests has more, and would hide a gap."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FOR_DEVELOPMENT = {"dev", "bench", "docs"}  # users have no reason to install these


def distribution(requirement: str) -> str:
    """`"uvloop>=0.20; sys_platform != 'win32'"` -> `"uvloop"`."""
    return normal(re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0])


def normal(name: str) -> str:
    """As names of distributions are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


CORE = {distribution(line) for line in PROJECT["dependencies"]}
EXTRAS = {
    extra: {distribution(line) for line in lines}
    for extra, lines in PROJECT["optional-dependencies"].items()
    if extra not in FOR_DEVELOPMENT
}
# what only an extra leads to: these files may import at once what it declares
LED_TO = {"simcse/serving/": {"serve"}, "simcse/encoder/bulk/ray.py": {"ray"}, "simcse/integrations/": set(EXTRAS)}
PROVIDERS = packages_distributions()


def imports(source: str) -> Iterator[tuple[int, str, bool]]:
    """Line, top-level module and whether it is imported with the file that imports it, of modules of others."""

    def walk(node: ast.AST, at_once: bool) -> Iterator[tuple[int, str, bool]]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            at_once = False
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            at_once = False
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        for name in names:
            top = name.partition(".")[0]
            if top != "simcse" and top not in sys.stdlib_module_names:
                yield node.lineno, top, at_once
        for child in ast.iter_child_nodes(node):
            yield from walk(child, at_once)

    yield from walk(ast.parse(source), True)


def undeclared(file: str, source: str) -> list[str]:
    """What a file imports and pyproject.toml does not declare."""
    led_to = {extra for start, extras in LED_TO.items() if file.startswith(start) for extra in extras}
    at_hand = CORE.union(*(EXTRAS[extra] for extra in led_to))
    anywhere = CORE.union(*EXTRAS.values())
    found = []
    for line, module, at_once in imports(source):
        names = {normal(name) for name in PROVIDERS.get(module, [module])}
        if not names & (at_hand if at_once else anywhere):
            when = "at once" if at_once else "when needed"
            found.append(f"{file}:{line}: imports {module} of {' or '.join(sorted(names))} {when}")
    return found


def test_what_the_package_imports_is_declared() -> None:
    """At once: by `dependencies`; inside functions and for types: by these or an extra for users."""
    wrong = []
    for file in sorted((ROOT / "simcse").rglob("*.py")):
        wrong += undeclared(file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8"))
    assert not wrong, "\n".join(wrong)


def test_the_check_sees_what_is_missing() -> None:
    """pytest is for development alone, torch is declared, scikit-learn and uvicorn are in extras."""
    assert undeclared("simcse/a.py", "import torch\nimport os\nfrom simcse import train\n") == []
    assert undeclared("simcse/a.py", "def f():\n    from sklearn import svm\n") == []
    assert undeclared("simcse/serving/a.py", "import uvicorn\n") == []
    assert undeclared("simcse/a.py", "import uvicorn\n") == ["simcse/a.py:1: imports uvicorn of uvicorn at once"]
    lazily = "def f():\n    import pytest\n"
    assert undeclared("simcse/a.py", lazily) == ["simcse/a.py:2: imports pytest of pytest when needed"]


def test_every_dependency_has_a_lower_bound() -> None:
    lines = [*PROJECT["dependencies"], *(line for lines in PROJECT["optional-dependencies"].values() for line in lines)]
    assert [line for line in lines if ">=" not in line and distribution(line) != normal(PROJECT["name"])] == []
