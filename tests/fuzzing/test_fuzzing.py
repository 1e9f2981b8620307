"""Whatever a file or a request holds, it is read, or refused in one line that names the file: no other error, no crash,
no loop without end, no memory without bound.

The short form reads some thousand damaged inputs. The long form (`make soak`) reads on every core for as long as it
has, each target in a process of its own; `campaign.py` goes on with one target.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from fuzzing.campaign import Campaign, limits
from fuzzing.targets import TARGETS
from soak import LONG, SECONDS, SEED

CAMPAIGN = Path(__file__).with_name("campaign.py")
CORPUS = Path(__file__).parents[2] / "build" / "corpus"  # of long forms
INPUTS = {"checkpoint": 4, "index": 40, "faiss": 40}
DEEP = 50_000
GROWTH = 400 * 2**20  # bytes that a process may have grown by at its end: caches, and what the allocator keeps


def put(place: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        assert place in content
        return content.replace(place, new, 1)

    return change


def at(offset: int, new: bytes) -> Callable[[bytes], bytes]:
    return lambda content: content[:offset] + new + content[offset + len(new) :]


def whole(new: bytes) -> Callable[[bytes], bytes]:
    return lambda content: new


def both(*changes: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    return lambda content: reduce(lambda so_far, change: change(so_far), changes, content)


def in_zip(name: str, change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """A member of an archive, with its right checksum."""

    def changed(content: bytes) -> bytes:
        found = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(found, "w") as new:
            for member in old.namelist():
                new.writestr(member, change(old.read(member)) if member == name else old.read(member))
        return found.getvalue()

    return changed


# what once raised another error: target, file, what is damaged
CASES: dict[str, tuple[str, str, Callable[[bytes], bytes]]] = {
    "manifest of many levels": ("manifest", "manifest.json", put(b"37,", b"[" * DEEP + b"]" * DEEP + b",")),
    "store with a schema that is no UTF-8": (
        "index", "store-000003.sqlite", put(b"INTEGER PRIMARY KEY, id", b"INTEGER PRIMARY \xcbEY, id"),
    ),
    "store with vectors of no dimension": ("index", "store-000003.sqlite", put(b'"dimension": 16', b'"dimensIon": 16')),
    "store with vectors in no file": ("index", "store-000003.sqlite", put(b'{"file": "vec', b'{"fi|e": "vec')),
    "store whose slots are no key": (
        "index", "store-000003.sqlite",
        both(put(b"INTEGER PRIMARY KEY, id", b"INTEGER PZIMARY KEY, id"), put(b"rows_1rows", b"rows_1row{")),
    ),
    "store with less than no vectors": ("index", "store-000003.sqlite", put(b'"count": 42', b'"count": -2')),
    "store with a field by another name": ("index", "store-000003.sqlite", put(b"\x02\x15even", b"\x02\x15evan")),
    "manifest whose probes are no numbers": ("index", "manifest.json", put(b'"probes": "DKws', b'"probes": "AH4A')),
    "npz with less than no rows": ("vectors", "v.npz", in_zip("vectors.npy", put(b"(48, 16)", b"(-1, 16)"))),
    "npy whose header never ends": ("vectors", "v.npy", put(b"(48, 16), }", b"(48,3.5, } ")),
    "report of many levels": ("run", "report.json", whole(b'{"average": ' + b"[" * DEEP + b"]" * DEEP + b"}")),
    "config of many levels": ("state", "config.yaml", whole(b"[" * 3000)),
    "log of many levels": ("state", "log.jsonl", put(b"\n", b"\n" + b"[" * DEEP + b"\n")),
    "log with a loss that is a list": ("state", "log.jsonl", put(b'"loss": ', b'"loss": [], "x": ')),
    "log with a loss that is a word": ("state", "log.jsonl", put(b'"loss": ', b'"loss": "bert", "x": ')),
    "log with a step without end": ("state", "log.jsonl", put(b'"step": 1,', b'"step": 1e999,')),
    "state of a file whose name no system has": (
        "state", "last/run.json", put(b'"model.safetensors"', b'"' + b"x" * 300 + b'"'),
    ),
    "owner of many levels": ("owner", ".lock", whole(b"[" * 4000)),
    "owner whose host has lines": ("owner", ".lock", put(b"node-7", b"node\\n7")),
    "log of a run with a step without end": ("run", "log.jsonl", put(b'"step": 1,', b'"step": 1e999,')),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_inputs_that_were_findings(name: str, tmp_path: Path) -> None:
    target, file, change = CASES[name]
    campaign = Campaign(target, 0, tmp_path)
    with limits():
        campaign.execute(file, change(campaign.whole[file]))
    assert not campaign.findings


def test_a_campaign_begins_with_the_corpus_of_the_last(tmp_path: Path) -> None:
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
    first = Campaign("owner", 1, tmp_path / "first", tmp_path / "corpus")
    first.warm()
    with limits():
        for _ in range(100):
            first.one()
    kept = [path.read_bytes() for path in sorted((tmp_path / "corpus" / "owner" / ".lock").iterdir())]
    assert kept
    second = Campaign("owner", 2, tmp_path / "second", tmp_path / "corpus")
    second.warm()
    assert second.pool[".lock"][1:] == kept
    assert first.answers.keys() == second.answers.keys()


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.skipif(LONG, reason="the long form reads more")
def test_damaged_inputs(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Some of each; and those that are whole are read."""
    campaign = Campaign(name, SEED, tmp_path)
    campaign.warm()
    assert campaign.answers["read"] >= len(campaign.target.files())
    with limits():
        for _ in range(INPUTS.get(name, 100)):
            campaign.one()
    capsys.readouterr()
    assert campaign.findings == {}
    assert len(campaign.answers) > 1, "damage is seen"


def run(name: str, seconds: float, folder: Path) -> dict[str, Any]:
    """A process of one target, and its report."""
    command = [sys.executable, str(CAMPAIGN), name, "--seed", str(SEED), "--seconds", str(seconds)]
    command += ["--corpus", str(CORPUS)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (CAMPAIGN.parents[1], CAMPAIGN.parents[2])))}
    with (folder / name).open("w+") as errors:
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, check=False,
            timeout=seconds + 300,
        )  # fmt: skip
        errors.seek(0)
        said = errors.read()
    if done.returncode:  # faiss or another library of C++ has crashed
        findings = {f"exit status {done.returncode}": [said.splitlines()[0], said[-2000:]]}
        return {"target": name, "executions": 0, "read": 0, "kinds": 0, "grown": 0, "cpu": 0, "findings": findings}
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


@pytest.mark.skipif(not LONG, reason="long form: make soak")
def test_damaged_inputs_for_as_long_as_there_is_time(tmp_path: Path) -> None:
    jobs = os.cpu_count() or 1
    share = SECONDS * jobs / sum(target.share for target in TARGETS.values())
    longest = sorted(TARGETS, key=lambda name: -TARGETS[name].share)
    with ThreadPoolExecutor(jobs) as pool:
        reports = list(pool.map(lambda name: run(name, share * TARGETS[name].share, tmp_path), longest))
    for report in reports:
        rate = report["executions"] / max(report["cpu"], 0.1)
        print(
            f"{report['target']}, seed {SEED}: {report['executions']:,} reads, {rate:,.0f} a second of a core, "
            f"{report['read']:,} of them whole, {report['kinds']} kinds of answers, grew by {report['grown']} MiB"
        )
    print(f"{sum(report['executions'] for report in reports):,} reads")
    assert {report["target"]: report["findings"] for report in reports if report["findings"]} == {}
    assert max(report["grown"] for report in reports) * 2**20 < GROWTH
