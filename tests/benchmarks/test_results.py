"""RESULTS.md's tables of speed are what benchmarks/results.py makes of the kept files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

Script = Callable[[str], ModuleType]
MACHINES = (
    {"cpu": "AMD EPYC", "generation": "Zen 4", "cores": 2, "instructions": ["avx2", "avx512_bf16"]},
    {"cpu": "Intel Xeon", "generation": "Granite Rapids", "cores": 4, "instructions": ["amx_bf16"]},
)


def test_the_page_is_what_the_files_say(script: Script) -> None:
    results = script("results")
    page = results.PAGE.read_text(encoding="utf-8")
    assert results.rewritten(page, results.read(results.FOLDER)) == page, "run python benchmarks/results.py"


def test_files_lie_in_the_folder_of_their_machine(script: Script) -> None:
    results, machine = script("results"), script("machine")
    files = list(results.FOLDER.glob("*/*.json"))
    assert files
    for file in files:
        found = json.loads(file.read_text(encoding="utf-8"))
        assert file.stem == found["benchmark"]
        known = found["machine"]["generation"] != "model not recorded"
        assert not known or file.parent.name == machine.slug(found["machine"])


def write(folder: Path, benchmark: str, machine: int, rows: list[dict[str, object]], **settings: object) -> None:
    file = folder / f"machine-{machine}" / f"{benchmark}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    found = {
        "benchmark": benchmark, "machine": MACHINES[machine], "versions": {"torch": "2.13.0"}, "date": "2026-11-29",
        "load": 0.1, "settings": settings, "rows": rows, "out": {"peer": "skipped: it is not installed"},
    }  # fmt: skip
    file.write_text(json.dumps(found))


def test_a_column_a_machine(script: Script, tmp_path: Path) -> None:
    results = script("results")
    write(tmp_path, "encode", 0, [{"name": "ours", "rate": 1234.5, "x peer": 3.14159, "note": "torch"}])
    write(tmp_path, "encode", 1, [{"name": "ours", "rate": 12.3}, {"name": "new", "rate": 0.5}])
    write(tmp_path, "search", 0, [{"name": "auto", **{f"m{n}": n for n in range(5)}, "note": "IVF"}], vectors="9 x 4")
    page = tmp_path / "page.md"
    empty = "<!-- results: {} -->\n<!-- end of results -->\n"
    page.write_text(f"before\n{empty.format('encode')}between\n{empty.format('search')}{empty.format('gpu')}after\n")
    results.main(page, tmp_path)
    text = page.read_text()
    for line in (
        "| --- | ---: | ---: |",
        "|  | AMD EPYC (Zen 4), avx512_bf16, 2 cores | Intel Xeon (Granite Rapids), amx_bf16, 4 cores |",
        "| ours | 1,234 · 3.142 (torch) | 12.3 · – |",
        "| new |  | 0.5 · – |",
        "|  | measure | AMD EPYC (Zen 4), avx512_bf16, 2 cores, 9 x 4 |",
        "| auto | m0 | 0 (IVF) |",
        "| auto | m4 | 4 |",
        "Not measured yet.",
    ):
        assert line in text.splitlines()
    assert "torch 2.13.0" in text
    assert "peer: skipped: it is not installed" in text
    results.main(page, tmp_path)
    assert page.read_text() == text


def test_no_benchmark_without_its_section(script: Script, tmp_path: Path) -> None:
    results = script("results")
    write(tmp_path, "encode", 0, [{"name": "ours", "rate": 1}])
    with pytest.raises(SystemExit, match="encode: results/ has rows of it"):
        results.rewritten("a page\n", results.read(tmp_path))
