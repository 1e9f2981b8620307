"""`simcse doctor` finds what is wrong here, and says what to do; each fault is a real one, made for the test."""

from __future__ import annotations

import json
import os
from importlib import metadata
from pathlib import Path

import pytest
import torch

from simcse.cli import main
from simcse.commands.diagnosis import backends, machine, packages
from simcse.commands.diagnosis.finding import Finding, as_json, lines
from simcse.encoder.backends.native.instruction_sets import best_instruction_set


def test_a_sound_machine_is_told_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each precision is tried: what encodes agrees with transformers, or the CPU cannot."""
    assert main(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ok"]
    by_topic = {finding["topic"]: finding for finding in told["findings"]}
    assert by_topic["torch"]["found"] == torch.__version__
    for precision in ("fp32", "bf16"):
        assert "cosine with the reference 1.000" in by_topic[precision]["found"]
    assert len({finding["section"] for finding in told["findings"]}) == 8

    monkeypatch.setitem(backends.AGREEMENT, "fp32", 1.1)  # nothing agrees so well
    assert main(["doctor"]) == 1
    shown = capsys.readouterr().out.splitlines()
    assert max(map(len, shown)) <= 80
    assert any(line.startswith("x fp32 ") for line in shown)
    assert shown[-1].startswith("broken (x): fp32; ")


def test_marks_advice_and_a_verdict() -> None:
    dead = Finding("dead", "3", "raise it", broken=True)
    found = {"A": [Finding("sound", "1"), Finding("slow", "2", "be fast"), dead]}
    assert list(lines(found)) == [
        "A",
        "  sound              1",
        "! slow               2",
        "                  -> be fast",
        "x dead               3",
        "                  -> raise it",
        "",
        "broken (x): dead; 1 could be better (!)",
    ]
    assert not as_json(found)["ok"]
    assert as_json(found)["findings"][1] == {
        "section": "A", "topic": "slow", "found": "2", "advice": "be fast", "broken": False,
    }  # fmt: skip


def test_packages_missing_old_or_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert packages.version("no-such-package", ">=1.0") == Finding(
        "no-such-package", "missing", "pip install 'no-such-package>=1.0'", broken=True
    )
    own = metadata.version("numpy")
    assert packages.version("numpy", ">=1.0") == Finding("numpy", own)
    old = packages.version("numpy", ">=99")
    assert (old.found, old.broken) == (f"{own}, expected >=99", True)
    (tmp_path / "damaged_library").mkdir()
    (tmp_path / "damaged_library" / "__init__.py").write_text("raise ImportError('libdamaged.so: not found')\n")
    (tmp_path / "damaged_library-1.0.dist-info").mkdir()
    (tmp_path / "damaged_library-1.0.dist-info" / "METADATA").write_text("Name: damaged-library\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    damaged = packages.version("damaged-library", ">=1.0")
    assert damaged.broken
    assert damaged.found == "1.0 cannot be imported (ImportError: libdamaged.so: not found)"


def test_extras_that_are_missing_come_with_their_line(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {finding.topic: finding.found for finding in packages.extras()}
    assert here["installed"].startswith("evaluation, ")
    assert not {"dev", "bench"} & {*here["installed"].split(", "), *here}
    monkeypatch.setattr(packages, "installed", lambda name: name != "uvicorn")
    missing = {finding.topic: finding.found for finding in packages.extras()}
    assert "serve" not in missing["installed"]
    assert missing["serve"] == "missing uvicorn: pip install 'simcse-kit[serve]'"


def test_more_threads_than_the_container_may_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a core by the cgroup, two threads: the advice is one."""
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = {finding.topic: finding for finding in machine.threads()}
    finally:
        torch.set_num_threads(before)
    assert found["cgroup CPU limit"].found == "0.5 cores"
    assert found["torch's threads"].advice == "threads wait for each other: export OMP_NUM_THREADS=1"
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.cpu_limit() is None
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("150000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert machine.cpu_limit() == 1.5


def test_memory_that_a_cgroup_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text(f"{3 * 2**30}\n")
    (tmp_path / "memory.current").write_text(f"{2 * 2**30}\n")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    memory = next(machine.memory_and_disks())
    assert memory.found == "1.0 GiB free below the limit of the cgroup"
    assert memory.advice is not None


def test_no_compiler_and_a_folder_that_others_can_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither is broken: torch encodes then; advice where a kernel would be compiled."""
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "open"))
    found = {finding.topic: finding for finding in backends.compiler_and_cache()}
    assert found["C++ compiler"].found == "none"
    best = best_instruction_set() or best_instruction_set(torch.float32)  # a CPU without bf16 has a kernel in fp32
    assert (found["C++ compiler"].advice is not None) == (best is not None)
    assert f"{tmp_path / 'open'} can be written by others" in found["kernel's folder"].found
    assert not any(finding.broken for finding in found.values())


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    found = machine.disk("temporary files", tmp_path)
    assert found.advice == "name another by TMPDIR"
