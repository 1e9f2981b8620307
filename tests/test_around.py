"""What stands around the code names things that are there: targets, extras, options, versions, files."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import simcse
from simcse.cli import COMMANDS, build_parser

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def steps() -> list[dict[str, Any]]:
    return [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]


def test_the_workflow_runs_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), flags=re.M))
    commands = "\n".join(step["run"] for step in steps() if "run" in step)
    named = re.findall(r"^make (\w+)", commands, flags=re.M)
    assert {"lint", "types", "docs", "test"} <= set(named) <= targets
    assert set(re.findall(r"make .*?(\w+)=", commands)) <= set(re.findall(r"^(\w+) \?=", read("Makefile"), flags=re.M))
    for script in re.findall(r"^(\.ci/\w+)", commands, flags=re.M):
        assert (ROOT / script).is_file()
    assert set(re.findall(r"--extra (\w+)", commands)) <= set(PROJECT["optional-dependencies"])
    # whoever runs .ci/run before pushing has run what the workflow will, but for what it runs at night alone
    nightly = [step for job in WORKFLOW["jobs"].values() if "schedule" in job.get("if", "") for step in job["steps"]]
    at_night = re.findall(r"^make (\w+)", "\n".join(step.get("run", "") for step in nightly), flags=re.M)
    assert set(re.findall(r"make --no-print-directory (\w+)", read(".ci/run"))) == set(named) - set(at_night)


def test_the_workflow_covers_the_versions_that_are_allowed() -> None:
    matrix = WORKFLOW["jobs"]["tests"]["strategy"]["matrix"]
    assert f">={matrix['python'][0]}" == PROJECT["requires-python"]
    ways = {*matrix["dependencies"], *(one["dependencies"] for one in matrix["include"])}
    conditions = {step["if"] for step in WORKFLOW["jobs"]["tests"]["steps"] if "if" in step}
    assert conditions == {f"matrix.dependencies == '{way}'" for way in ways}


def test_actions_are_pinned_by_commit() -> None:
    """A tag can be moved; the comment says which one it was."""
    lines = re.findall(r"uses: (.*)", read(".github/workflows/ci.yml"))
    assert lines
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", line) for line in lines), lines


def test_the_hooks_are_of_the_version_that_is_tested() -> None:
    [pinned] = re.findall(r"^ruff==.*", read("constraints.txt"), flags=re.M)
    hooks = [hook for repo in yaml.safe_load(read(".pre-commit-config.yaml"))["repos"] for hook in repo["hooks"]]
    assert [hook["id"] for hook in hooks] == ["ruff", "ruff-format"]
    assert all(hook["additional_dependencies"] == [pinned] for hook in hooks)


def instructions() -> list[tuple[str, str]]:
    """(instruction, the rest) of each line of the Dockerfile."""
    lines = [line for line in read("Dockerfile").splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def test_the_image_serves_by_options_that_exist() -> None:
    """What it runs parses, on the port that it exposes and is looked at for its health."""
    by_word = dict(instructions())
    command = [*json.loads(by_word["ENTRYPOINT"]), *json.loads(by_word["CMD"])]
    assert command[0] in PROJECT["scripts"]
    options = build_parser().parse_args(command[1:])["serve"]
    assert (options.index, options.model, str(options.port)) == ("/index", "/model", by_word["EXPOSE"])
    health = json.loads(by_word["HEALTHCHECK"].partition("CMD ")[2])
    ast.parse(health[2])
    assert f":{by_word['EXPOSE']}/healthz" in health[2]
    [extras] = re.findall(r"\.whl\)\[([\w,]+)\]", read("Dockerfile"))
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
    [wanted] = re.findall(r"python:(3\.\d+)", dict(instructions())["FROM"])
    assert wanted in WORKFLOW["jobs"]["tests"]["strategy"]["matrix"]["python"]


def test_the_image_gets_what_it_copies() -> None:
    """The wheel is built of what .dockerignore lets through."""
    kept = {line[1:] for line in read(".dockerignore").splitlines() if line.startswith("!")}
    assert all((ROOT / name).exists() for name in kept)
    project = tomllib.loads(read("pyproject.toml"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    sources = {*wheel["packages"], *wheel["force-include"], PROJECT["readme"], *PROJECT["license-files"]}
    assert sources | {"constraints.txt", "pyproject.toml"} <= kept


def test_the_citation_is_of_this_version() -> None:
    cited = yaml.safe_load(read("CITATION.cff"))
    assert (cited["title"], cited["version"], cited["license"]) == (
        PROJECT["name"], simcse.__version__, PROJECT["license"],
    )  # fmt: skip
    [paper] = cited["references"]
    assert [author["family-names"] for author in paper["authors"]] == ["Gao", "Yao", "Chen"]


@pytest.mark.parametrize("name", ["llms.txt", "SECURITY.md", "CODE_OF_CONDUCT.md"])
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", read(name)):
        assert (ROOT / target).exists(), target


def test_what_a_machine_is_told_works(tmp_path: Path) -> None:
    """The Python of llms.txt runs; its commands and their options exist."""
    [session] = re.findall(r"```python\n(.*?)```", read("llms.txt"), flags=re.S)
    done = subprocess.run([sys.executable, "-c", session], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [block] = re.findall(r"```sh\n(.*?)```", read("llms.txt"), flags=re.S)
    for line in block.splitlines():
        words = shlex.split(line)[1:]
        assert words[0] in COMMANDS
        build_parser().parse_args(words)


def test_forms_ask_for_what_the_command_prints() -> None:
    forms = [yaml.safe_load(path.read_text()) for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("[bf]*.yml")]
    assert {form["name"] for form in forms} == {"Bug", "Wish"}
    for form in forms:
        ids = [field["id"] for field in form["body"]]
        assert len(set(ids)) == len(ids)
        labels = " ".join(field["attributes"]["label"] for field in form["body"])
        assert all(name in COMMANDS for name in re.findall(r"`simcse (\w+)`", labels))


def supply_chain(what: str) -> str:
    done = subprocess.run([sys.executable, ROOT / ".ci/supply_chain", what], capture_output=True, text=True, check=True)
    return done.stdout


def test_the_parts_of_a_release_are_listed() -> None:
    """With a version and a licence each, all of those that the project names among them."""
    table = dict(re.findall(r"^\| (\S+) \| (.+) \|$", supply_chain("licences"), flags=re.M))
    listed = {canonicalize_name(name): licence for name, licence in table.items()}
    parts = json.loads(supply_chain("sbom"))
    components = {part["bom-ref"]: part for part in parts["components"]}
    named = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    assert named <= components.keys()
    assert listed.keys() - {"package"} == components.keys()
    assert "not said" not in listed.values()
    assert {part["purl"] for part in components.values()} == {
        f"pkg:pypi/{name}@{part['version']}" for name, part in components.items()
    }
    assert all({part["ref"], *part["dependsOn"]} <= {"simcse-kit", *components} for part in parts["dependencies"])
    kept = dict(re.findall(r"^\| (\S+) \| (.+) \|$", read("docs/licences.md"), flags=re.M))
    assert named <= {canonicalize_name(name) for name in kept}
