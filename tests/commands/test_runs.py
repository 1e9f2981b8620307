"""`simcse runs` on runs that were trained here, and on what a kill or an editor leaves."""

from __future__ import annotations

import fcntl
import json
import shutil
from pathlib import Path
from statistics import fmean, stdev

import pytest

from simcse.cli import main


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """A run of two seeds, and one of a single seed with another rate and temperature, on 16 texts for 4 steps."""
    place = tmp_path_factory.mktemp("runs")
    (place / "texts.txt").write_text("".join(f"a man walks {i} miles\n" for i in range(16)))
    (place / "dev.tsv").write_text("a\tb\tscore\na man sings\ta man plays\t4\na dog\tthe rain\t0\nthe sun\ta cat\t1\n")
    common = [
        "train", "--data.train", str(place / "texts.txt"), "--data.dev", str(place / "dev.tsv"), "--model.name",
        str(tiny_bert), "--model.pooling", "mean", "--model.projection", "none", "--batch_size", "8", "--epochs", "2",
        "--eval_every", "2", "--log_every", "1",
    ]  # fmt: skip
    assert main([*common, "--output_dir", str(place / "all" / "two"), "--seeds", "2", "--json"]) == 0
    other = ["--output_dir", str(place / "all" / "deep" / "one"), "--optim.lr", "1e-4", "--temperature", "0.1"]
    assert main([*common, *other, "--json"]) == 0
    return place / "all"


def listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> list[dict]:
    capsys.readouterr()
    assert main(["runs", str(folder), "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_runs_are_listed_with_scores_and_what_differs(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = listed(trained, capsys)
    assert [row["dev"]["mean"] for row in rows] == sorted((row["dev"]["mean"] for row in rows), reverse=True)
    by_name = {Path(row["run"]).name: row for row in rows}
    assert set(by_name) == {"one", "two"}
    reports = [json.loads((trained / "two" / f"seed-{seed}" / "report.json").read_text()) for seed in (42, 43)]
    scores = [report["tasks"]["dev.tsv"]["spearman"] for report in reports]
    two = by_name["two"]
    assert two["dev"] == {"mean": pytest.approx(fmean(scores)), "std": pytest.approx(stdev(scores)), "n": 2}
    assert two["seconds"] == pytest.approx(fmean(report["training"]["seconds"] for report in reports))
    assert (two["state"], two["metric"], list(two["seeds"])) == ("finished", "spearman", ["seed-42", "seed-43"])
    assert by_name["one"]["options"] == {"optim.lr": 1e-4, "temperature": 0.1}
    assert two["options"] == {"optim.lr": 3e-5, "temperature": 0.05}
    assert main(["runs", str(trained), "--format", "text"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert f"{fmean(scores):.2f} ± {stdev(scores):.2f}" in shown
    assert "deep/one" in shown
    assert "0.0001" in shown
    assert "uncut" not in shown


def test_what_stopped_runs_or_is_damaged_says_so(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("stopped", "running", "config", "log"):
        shutil.copytree(trained / "deep" / "one", tmp_path / name)
        (tmp_path / name / "report.json").unlink()
        log = (tmp_path / name / "log.jsonl").read_text().splitlines(keepends=True)
        kept = [line for line in log if json.loads(line)["step"] <= 3]
        (tmp_path / name / "log.jsonl").write_text("".join(kept) + '{"step": 4, "lo')  # cut short by a kill
    (tmp_path / "config" / "config.yaml").write_text("- 1")
    (tmp_path / "log" / "log.jsonl").write_text("[]\n" + "".join(kept))
    with (tmp_path / "running" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        states = {Path(row["run"]).name: row["state"] for row in listed(tmp_path, capsys)}
    assert states == {
        "stopped": "stopped at step 3 of about 4", "running": "running at step 3 of about 4", "config": "damaged",
        "log": "damaged",
    }  # fmt: skip
    assert main(["runs", str(tmp_path), "--format", "text"]) == 0
    warned = capsys.readouterr().err
    assert f"warning: {tmp_path}/config/config.yaml: found" in warned
    assert f"warning: {tmp_path}/log/log.jsonl:1: " in warned
    (tmp_path / "stopped" / "report.json").write_text("{")
    [row] = listed(tmp_path / "stopped", capsys)
    assert row["state"] == "damaged"


def test_long_values_are_cut_and_what_does_not_fit_is_named(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import yaml

    for number in range(2):
        run = tmp_path / f"{'long-' * 8}{number}"
        shutil.copytree(trained / "deep" / "one", run)
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["optim"] = {"lr": number, "weight_decay": number, "clip": number, "warmup": number}
        config["model"]["name"] = f"models/{'of-a-long-name-' * 3}{number}"
        config |= {"hard_negative_weight": number, "objective": "x" * 20 + str(number), "temperature": number}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["runs", str(tmp_path), "--format", "text"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    for part in ("of-a-long-name-…", "did not fit", "--json has everything, uncut.", "…"):
        assert part in shown
    rows = listed(tmp_path, capsys)
    assert {row["options"]["objective"] for row in rows} == {"x" * 20 + "0", "x" * 20 + "1"}


def test_a_folder_without_runs_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(tmp_path)]) == 2
    assert f"no run below {tmp_path}; a run is a folder with config.yaml" in capsys.readouterr().err
    assert main(["runs", str(tmp_path / "gone")]) == 2
