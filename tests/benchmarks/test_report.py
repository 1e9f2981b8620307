"""The report: every row is made, the page and its figures are written, and a second call trains nothing again."""

from __future__ import annotations

import gzip
import random
import re
import zlib
from pathlib import Path

import pytest
from tiny import WORDS

from simcse.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def root_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """benchmarks/ is run from the root, as `python -m benchmarks.report`."""
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.fixture
def few_rows(data_dir: Path, tmp_path: Path) -> Path:
    """The real folders' layout with the first rows of each file, in words that the tiny encoder knows."""

    def known(word: re.Match[bytes]) -> bytes:
        return WORDS[zlib.crc32(word[0]) % len(WORDS)].encode()

    for path in (data_dir / "senteval").rglob("*"):
        if path.is_file() and path.parent.name.startswith(("STS", "SICK")):
            few = tmp_path / "data" / path.relative_to(data_dir)
            few.parent.mkdir(parents=True, exist_ok=True)
            head, *rows = path.read_bytes().splitlines(keepends=True)[:60]
            few.write_bytes(head + b"".join(re.sub(rb"[A-Za-z]{3,}", known, row) for row in rows))
    rng = random.Random(0)
    sentences = [" ".join(rng.choices(WORDS, k=rng.randint(4, 8))) + f" {i}" for i in range(210)]
    (tmp_path / "data" / "wiki").mkdir()
    with gzip.open(tmp_path / "data" / "wiki" / "enwiki2015_sents_1m.txt.gz", "wt") as file:
        file.writelines(f"{sentence}\n" for sentence in sentences)
    rows = [",".join(sentences[i : i + 3]) for i in range(0, 210, 3)]
    (tmp_path / "data" / "nli").mkdir()
    triplets = tmp_path / "data" / "nli" / "nli_triplets_derived_decontaminated.csv"
    triplets.write_text("\n".join(["sent0,sent1,hard_neg", *rows]))
    return tmp_path / "data"


def test_the_report_is_written_from_its_runs(few_rows: Path, tiny_bert: Path, tmp_path: Path) -> None:
    from benchmarks.report.__main__ import build_models, build_parser, main

    arguments = [
        "--data_dir", str(few_rows), "--model", str(tiny_bert), "--steps", "2", "--seeds", "2", "--texts", "40",
        "--runs", str(tmp_path / "runs"), "--output", str(tmp_path / "docs"),
    ]  # fmt: skip
    main(arguments)
    page = (tmp_path / "docs" / "report.md").read_text()
    rows = re.findall(r"^\| (.+?) \| (.+?) \| .*\*\*-?[\d.]+\*\* \| (.*) \|$", page, flags=re.MULTILINE)
    assert [name for name, _, _ in rows] == [
        "[CLS]", "mean", "first and last layer", "whitening", "flow",
        "Contrastive Tension", "SimCSE unsup", "SimCSE sup",
    ]  # fmt: skip
    assert [bool(spread) for *_, spread in rows] == [False] * 5 + [True] * 3  # of the runs' seeds
    assert "fitted on 40 sentences" in rows[3][1]
    assert rows[7][1] == "2 steps of 64 NLI triplets"
    for name, _, _ in rows[1:]:
        assert f"- **{name}** against [CLS]: " in page
    figures = re.findall(r"\((figures/.+?)\)", page)
    assert len(figures) == 7
    assert all((tmp_path / "docs" / figure).stat().st_size > 1000 for figure in figures)
    logs = {log: log.stat().st_mtime_ns for log in (tmp_path / "runs").rglob("log.jsonl")}
    assert len(logs) == 6
    models = build_models(build_parser().parse_args(arguments))
    assert [len(model.encoders) for model in models] == [1] * 5 + [2] * 3
    assert {log: log.stat().st_mtime_ns for log in logs} == logs  # nothing was trained again


@pytest.mark.parametrize("option", ["steps", "texts", "seeds"])
def test_a_number_below_one_is_refused(option: str, tmp_path: Path) -> None:
    from benchmarks.report.__main__ import main

    with pytest.raises(ConfigError, match=f"--{option} is 0: at least 1"):
        main(["--data_dir", str(tmp_path), f"--{option}", "0"])
