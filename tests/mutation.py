"""Change losses and what keeps data, a place at a time, and see a test fail: `make mutation`.

mutmut changes an operator, number, name or argument in a copy of each function; `pyproject.toml` says in which files.
The tests are collected once; each change then runs in a fork of that process, the fastest of the tests that reach it
first, until one fails. To collect them anew for each change takes longer than the tests do.

Results lie in `mutants/results.jsonl`, a line a change; a second call goes on where the first one was stopped. A result
counts while the changed function is as it was; which test reaches what is found out anew once a test file is newer.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import auto_cli
from mutmut.__main__ import copy_also_copy_files, copy_src_dir, create_mutants, walk_source_files
from mutmut.configuration import config
from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.mutation.trampoline import set_mutant_under_test
from mutmut.state import state
from mutmut.utils.format_utils import mangled_name_from_mutant_name

KILLED, SURVIVED, ENDLESS, UNREACHED = "killed", "survived", "endless", "unreached"
RESULTS = Path("results.jsonl")
REACHED = Path("reached.json")
SECONDS = 8  # of a core, beyond five times what the tests take; one that needs more has no end


class Changes:
    """A pytest plugin that runs the collected tests once a change instead of once."""

    def __init__(self, changes: dict[str, str], jobs: int, most: float) -> None:
        self.changes, self.jobs, self.most = changes, jobs, most
        self.failed = False
        self.fixtures: dict[str, tuple[float, list[str]]] = {}  # that tests share -> seconds of a core, what it reaches
        self.running: dict[int, tuple[str, float, Path]] = {}  # process -> change, when to end it, its folder

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a failure of a test, its set-up or its end."""
        self.failed |= report.failed

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Any:
        """Note what a fixture takes that several tests share: each of them waits for it, if it comes first."""
        begin, before = time.process_time(), set(state()._stats)
        state()._stats.clear()
        made = yield
        if fixturedef.scope != "function":
            self.fixtures[of(fixturedef)] = time.process_time() - begin, sorted(state()._stats)
        state()._stats |= before
        return made

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run the tests as they are, then a fork of this process for each change that has no result yet."""
        items = {item.nodeid: item for item in session.items}
        newest = max(path.stat().st_mtime for path in Path("tests").rglob("*.py"))
        if not REACHED.exists() or REACHED.stat().st_mtime < newest:
            self.fork(partial(self.look, items))
            os.wait()
        reached, seconds, shared, costs, left_out = json.loads(REACHED.read_text())
        print(f"left out, as they fail without a change: {left_out}", file=sys.stderr, flush=True)
        begin = time.monotonic()
        gc.collect()
        gc.freeze()  # or each fork copies, and each of its collections walks, all that was imported
        for done, name in enumerate(self.changes):
            tests = reached.get(mangled_name_from_mutant_name(name), [])
            chosen, takes = choose(tests, seconds, shared, costs, self.most)
            if not chosen:
                self.write(name, UNREACHED)
                continue
            while len(self.running) >= self.jobs:
                self.wait()
            folder = Path(tempfile.mkdtemp(prefix="change-"))
            limit = int(SECONDS + 5 * takes)
            process = self.fork(partial(self.change, name, [items[test] for test in chosen], folder, limit))
            self.running[process] = name, time.monotonic() + 10 * limit, folder
            if done % 50 == 0:
                print(f"{done} of {len(self.changes)}, {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
        while self.running:
            self.wait()
        return True

    def fork(self, work: Any) -> int:
        """Run `work` in a process of its own, in its own group, without a terminal; its result is the exit status."""
        process = os.fork()
        if process:
            return process
        status = 3
        try:
            os.setpgid(0, 0)
            null = os.open(os.devnull, os.O_RDWR)
            for stream in range(3):
                os.dup2(null, stream)
            status = work()
        finally:
            os._exit(status)

    def look(self, items: dict[str, pytest.Item]) -> int:
        """Run each test once; keep which functions it reaches and how long it takes. Tests that fail are left out."""
        set_mutant_under_test("stats")
        reached: dict[str, list[str]] = defaultdict(list)
        seconds: dict[str, float] = {}
        shared: dict[str, list[str]] = {}
        left_out: list[str] = []
        order = list(items.values())
        for item, following in zip(order, [*order[1:], None], strict=True):
            self.failed = False
            state()._stats.clear()
            begin, known = time.process_time(), set(self.fixtures)
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            made = sum(self.fixtures[name][0] for name in set(self.fixtures) - known)
            seconds[item.nodeid] = time.process_time() - begin - made
            found = item._fixtureinfo.name2fixturedefs.values()  # type: ignore[attr-defined]
            names = {of(each) for definitions in found for each in definitions} & set(self.fixtures)
            shared[item.nodeid] = sorted(names)
            if self.failed:
                left_out.append(item.nodeid)
            else:
                for function in state()._stats.union(*(self.fixtures[name][1] for name in names)):
                    reached[function].append(item.nodeid)
        costs = {name: cost for name, (cost, _) in self.fixtures.items()}
        REACHED.write_text(json.dumps([reached, seconds, shared, costs, left_out]))
        return 0

    def change(self, name: str, items: list[pytest.Item], folder: Path, limit: int) -> int:
        """Run tests with a change until one fails. Returns 1 if one did, else 0."""
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))
        items[0].config.pluginmanager.unregister(name="terminalreporter")  # it holds a copy of the streams
        items[0].config._tmp_path_factory._basetemp = folder / "tmp"  # type: ignore[attr-defined]
        (folder / "tmp").mkdir()
        set_mutant_under_test(name)
        for item, following in zip(items, [*items[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self.failed:
                return 1
        return 0

    def write(self, name: str, result: str) -> None:
        """Keep one result."""
        with RESULTS.open("a") as file:
            file.write(json.dumps({"change": name, "of": self.changes[name], "result": result}) + "\n")

    def wait(self) -> None:
        """Wait for one change's end, and end those that have none."""
        process, status = os.waitpid(-1, os.WNOHANG)
        if process in self.running:
            name, _, folder = self.running.pop(process)
            end = {0: SURVIVED, 1: KILLED}
            self.write(name, end.get(os.WEXITSTATUS(status), KILLED) if os.WIFEXITED(status) else ENDLESS)
            end_group(process)
            shutil.rmtree(folder, ignore_errors=True)
            return
        for process, (_, end_at, _) in self.running.items():
            if time.monotonic() > end_at:
                end_group(process)
        time.sleep(0.005)


def choose(
    tests: list[str], seconds: dict[str, float], shared: dict[str, list[str]], costs: dict[str, float], most: float
) -> tuple[list[str], float]:
    """The fastest tests that take `most` seconds of a core in all, their fixtures included; and what they take."""

    def alone(test: str) -> float:
        return seconds[test] + sum(costs[fixture] for fixture in shared[test])

    chosen: list[str] = []
    made: set[str] = set()
    takes = 0.0
    for test in sorted(tests, key=alone):
        more = seconds[test] + sum(costs[fixture] for fixture in set(shared[test]) - made)
        if takes + more <= most or not chosen:
            chosen.append(test)
            made |= set(shared[test])
            takes += more
    return chosen, takes


def of(fixture: pytest.FixtureDef[Any]) -> str:
    """A name that no other fixture has."""
    return f"{fixture.baseid}::{fixture.argname}"


def end_group(process: int) -> None:
    """End what a process started and left behind, and itself."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)


def results(changes: dict[str, str]) -> dict[str, str]:
    """The results so far of these changes, by their names."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    found = {line["change"]: line for line in map(json.loads, lines)}
    return {name: found[name]["result"] for name, of in changes.items() if name in found and found[name]["of"] == of}


def make_changes(only: str, jobs: int) -> dict[str, str]:
    """Make the changes that are not made yet. Returns the names that match `only`, each with its function's digest."""
    Path("mutants").mkdir(exist_ok=True)
    set_mutant_under_test("mutant_generation")
    with contextlib.redirect_stdout(io.StringIO()):  # the name of each file
        copy_src_dir()
        copy_also_copy_files()
        create_mutants(jobs)
    set_mutant_under_test("")
    made = {}
    for path in filter(config().should_mutate, walk_source_files()):
        data = SourceFileMutationData(path=path)
        data.load()
        for name in data.exit_code_by_key:
            function = mangled_name_from_mutant_name(name).rpartition(".")[2]
            made[name.replace("__init__.", "")] = data.hash_by_function_name.get(function, "")
    return {name: of for name, of in made.items() if fnmatch(name, only)}


def main(only: str = "*", jobs: int = 2, most: float = 60, rerun: str = "", show: bool = True) -> None:
    """Make the changes, run those without a result, and print what no test noticed.

    Args:
        only: changes of these names, such as `simcse.files.*`.
        jobs: changes that run at once.
        most: seconds of a core that the tests of one change may take; the slowest beyond them are left out.
        rerun: results to find out again: `survived`, `endless`.
        show: print each change that no test noticed, as a difference.
    """
    changes = make_changes(only, jobs)
    os.chdir("mutants")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])])
    sys.path.insert(0, str(Path.cwd()))
    known = {name for name, result in results(changes).items() if result != rerun}
    pytest.main(
        ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", *config().pytest_add_cli_args_test_selection],
        plugins=[Changes({name: of for name, of in changes.items() if name not in known}, jobs, most)],
    )
    found = results(changes)
    os.chdir("..")
    for name in sorted(name for name, result in found.items() if result == SURVIVED and show):
        print(name, get_diff_for_mutant(name), sep="\n", end="\n\n")
    print(", ".join(f"{result} {count:,}" for result, count in Counter(found.values()).most_common()))


if __name__ == "__main__":
    auto_cli(main)
