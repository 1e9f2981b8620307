"""Write the speed tables of RESULTS.md from `results/MACHINE/BENCHMARK.json`, a column a machine.

    python benchmarks/results.py

A table stands between `<!-- results: BENCHMARK -->` and `<!-- end of results -->`; what is around it
is written by hand. Files are as `sheet.py` keeps them; one whose `source` is set was taken over from an older table.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from sheet import FOLDER, shown

PAGE = Path(__file__).parent / "RESULTS.md"
JOINED = 4  # measures that stand in one cell; more have a line each
SIZES = {"vectors": "", "documents": " documents"}  # columns of other sizes cannot be compared
SECTION = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end of results -->)", re.DOTALL)
Found = dict[str, Any]


def main(page: Path = PAGE, folder: Path = FOLDER) -> None:
    """Rewrite the page."""
    page.write_text(rewritten(page.read_text(encoding="utf-8"), read(folder)), encoding="utf-8")


def read(folder: Path) -> dict[str, list[Found]]:
    """The files of each benchmark, in the order of the machines' folders."""
    found: dict[str, list[Found]] = {}
    for file in sorted(folder.glob("*/*.json")):
        found.setdefault(file.stem, []).append(json.loads(file.read_text(encoding="utf-8")))
    return found


def rewritten(page: str, found: dict[str, list[Found]]) -> str:
    """The page with its sections written anew.

    Raises:
        SystemExit: a benchmark has no section.
    """
    if missing := found.keys() - {match[2] for match in SECTION.finditer(page)}:
        raise SystemExit(
            f"error: {', '.join(sorted(missing))}: results/ has rows of it, RESULTS.md no place for them; "
            "write <!-- results: NAME --> and <!-- end of results --> where they belong"
        )
    return SECTION.sub(lambda match: f"{match[1]}\n{section(found.get(match[2], []))}\n{match[3]}", page)


def section(files: list[Found]) -> str:
    """A table, and a line about each of its columns."""
    if not files:
        return "Not measured yet.\n"
    longest_first = sorted(files, key=lambda file: -len(file["rows"]))  # its rows are in their order
    names = list(dict.fromkeys(row["name"] for file in longest_first for row in file["rows"]))
    measures = list(dict.fromkeys(key for file in files for row in file["rows"] for key in row))
    measures = [key for key in measures if key not in ("name", "note")]
    rows = [{row["name"]: row for row in file["rows"]} for file in files]
    joined = len(measures) <= JOINED
    heads = ["", *([] if joined else ["measure"]), *map(titled, files)]
    lines = [heads, ["---", *([] if joined else ["---"]), *("---:" for _ in files)]]
    for name in names:
        for group in [measures] if joined else [[measure] for measure in measures]:
            cells = [cell(of.get(name), group) for of in rows]
            if any(cells):
                lines.append([name, *([] if joined else group), *cells])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    key = f"In each cell: {', '.join(measures)}.\n\n" if joined and len(measures) > 1 else ""
    return f"{key}{table}\n\n" + "\n".join(map(footnote, files)) + "\n"


def titled(file: Found) -> str:
    """A column's heading."""
    here = file["machine"]
    best = (here["instructions"] or ["plain"])[-1]
    if "accelerator" in here:
        return str(here["accelerator"])
    sizes = [f", {file['settings'][size]}{of}" for size, of in SIZES.items() if size in file["settings"]]
    return f"{here['cpu']} ({here['generation']}), {best}, {here['cores']} cores{''.join(sizes)}"


def cell(row: dict[str, Any] | None, measures: list[str]) -> str:
    """What a row says of some measures; nothing where it was not measured."""
    if row is None or not any(measure in row for measure in measures):
        return ""
    values = " · ".join(shown(row[measure]) if measure in row else "–" for measure in measures)
    first = next(key for key in row if key != "name")  # a note stands once
    return f"{values} ({row['note']})" if "note" in row and first in measures else values


def footnote(file: Found) -> str:
    """Where a column comes from, on which versions and settings, and who is missing."""
    parts = [
        file.get("source") or f"measured on {file['date']}, load average before it {file['load']}",
        f"instruction sets {' '.join(file['machine']['instructions']) or 'plain'}",
        ", ".join(f"{name} {version}" for name, version in file["versions"].items()),
        ", ".join(
            f"{name} {value if isinstance(value, str) else shown(value)}" for name, value in file["settings"].items()
        ),
        *(f"{name}: {why}" for name, why in file["out"].items()),
    ]
    return f"- {titled(file)}: {'; '.join(part for part in parts if part)}."


if __name__ == "__main__":
    main()
