"""`simcse compare` as a user types it, on a tiny encoder."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from tiny import WORDS

from simcse import SentenceEncoder
from simcse.cli import main
from simcse.evaluation.sts import SEVEN, TASKS, StsTask


def sentence(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(3, 8)))


def simcse(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_compare_prints_a_table_a_verdict_and_the_reference(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--data", folder / "pairs.tsv", "--resamples", 100)
    assert simcse("compare", folder / "one", folder / "two", *options, "--format", "text") == 0
    shown = capsys.readouterr().out
    assert "difference" in shown
    assert "Seeds: 1 against 2" in " ".join(shown.split())  # a line may end anywhere
    assert "two: 2 seeds, mean" in shown
    assert simcse("compare", folder / "one", folder / "two", *options, "--format", "json") == 0
    found = json.loads(capsys.readouterr().out)
    [task] = found["tasks"].values()
    assert task["difference"] == pytest.approx(task["b"] - task["a"])
    assert task["low"] <= task["difference"] <= task["high"]
    assert len(found["b"]["seeds"]) == 2
    published = found["a"]["published"]
    assert published["average"] == 76.25  # bert-base with a head in training: the paper's recipe
    assert published["departures"] == ["max_steps 20 (paper: unset)"]


def test_compare_on_queries_and_on_test_rows(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(3)
    (tmp_path / "qa.csv").write_text(
        "query,document\n" + "".join(f"{sentence(rng)},{sentence(rng)}\n" for _ in range(30))
    )
    (tmp_path / "MR").mkdir()
    for name, words in (("neg", WORDS[:12]), ("pos", WORDS[8:20])):
        lines = (" ".join(rng.choices(words, k=5)) for _ in range(40))
        (tmp_path / "MR" / f"rt-polarity.{name}").write_text("".join(f"{line}\n" for line in lines))
    options = ("--tasks", tmp_path / "qa.csv", "MR", "--data_dir", tmp_path, "--resamples", 200)
    assert simcse("compare", folder / "one", folder / "two", *options, "--json") == 0
    transfer, retrieval = map(json.loads, capsys.readouterr().out.splitlines())
    assert (transfer["kind"], transfer["unit"], list(transfer["tasks"])) == ("transfer", "rows", ["MR"])
    assert (retrieval["kind"], retrieval["unit"], list(retrieval["tasks"])) == ("retrieval", "queries", ["qa"])
    from simcse.evaluation.suite import evaluate

    encode = SentenceEncoder.from_pretrained(folder / "one" / "best").encode
    own = evaluate(encode, [str(tmp_path / "qa.csv"), "MR"], tmp_path).to_dict()["tasks"]
    assert transfer["a"]["seeds"] == [[pytest.approx(own["MR"]["accuracy"])]]
    assert retrieval["a"]["seeds"] == [[pytest.approx(100 * own["qa"]["ndcg@10"])]]
    assert len(retrieval["b"]["seeds"]) == 2
    assert simcse("compare", folder / "one", folder / "two", *options, "--format", "text") == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    for part in ("accuracy, %", "nDCG@10 × 100", "queries"):
        assert part in shown
    assert simcse("compare", folder / "one", folder / "two", "--tasks", "geometry", "--data_dir", tmp_path) != 0


def test_runs_with_the_same_seeds_are_paired(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run and its copy differ in nothing: paired, the interval is empty, which it is not by seeds drawn apart."""
    shutil.copytree(folder / "two", tmp_path / "same")
    shutil.copytree(folder / "two", tmp_path / "other")
    (tmp_path / "other" / "seed-2").rename(tmp_path / "other" / "seed-3")
    options = ("--data", folder / "pairs.tsv", "--resamples", 100, "--json")
    assert simcse("compare", folder / "two", tmp_path / "same", *options) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["paired_seeds"]
    assert found["over_seeds"] == [0, 0]
    [row] = found["tasks"].values()
    assert (row["low"], row["high"], row["more"]) == (0, 0, None)
    assert simcse("compare", folder / "two", tmp_path / "other", *options) == 0
    found = json.loads(capsys.readouterr().out)
    assert not found["paired_seeds"]
    [row] = found["tasks"].values()
    assert row["low"] < 0 < row["high"]


@pytest.mark.parametrize("content", [b"", b"\xff", b"- 1", b"a: [", b"[" * 400, b"model: x", b"model: [1]"])
def test_compare_a_run_whose_config_is_damaged(
    folder: Path, tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder / "one", tmp_path / "one")
    (tmp_path / "one" / "config.yaml").write_bytes(content)
    options = ("--data", folder / "pairs.tsv", "--resamples", 100, "--format", "json")
    status, told = simcse("compare", folder / "one", tmp_path / "one", *options), capsys.readouterr().err
    if content.startswith(b"model"):  # options of another kind follow no recipe
        assert status == 0
    else:
        assert status == 1
        assert told.startswith(f"error: {tmp_path}/one/config.yaml")
        assert "encoders on" not in told


def test_beside_a_recipe_stand_the_paper_the_reference_and_the_runs(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(1)
    for name, task in TASKS.items():
        if name in SEVEN:
            write_task(tmp_path, task, rng)
    options = ("--data_dir", tmp_path, "--resamples", 100, "--format", "text")
    assert simcse("compare", folder / "one", folder / "two", *options) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    words = " ".join(shown.split())
    assert "Beside unsup-bert-base task paper reference, 50 seeds one two" in words
    assert "STS12 68.40" in words
    assert "average 76.25 75.11 ± 0.84" in words
    assert "two beside unsup-bert-base, from whose settings it departs: max_steps 20 (paper: unset)." in words
    assert "The paper has 76.25 by one run, yours is" in words
    assert "standard deviations below it" in words
    # a recipe that is named holds for both; of the supervised ones no spread over seeds is known
    assert simcse("compare", folder / "one", folder / "two", *options, "--recipe", "sup-bert-base") == 0
    assert "average 81.57 not known" in " ".join(capsys.readouterr().out.split())


def write_task(root: Path, task: StsTask, rng: random.Random) -> None:
    """Twelve scored pairs for each sub-set, in the task's own layout."""
    (root / task.folder).mkdir(parents=True, exist_ok=True)
    for subset in task.subsets:
        rows = [(sentence(rng), sentence(rng), f"{1 + i % 5}") for i in range(12)]
        if task.is_semeval:
            (root / task.folder / f"STS.input.{subset}.txt").write_text("".join(f"{a}\t{b}\n" for a, b, _ in rows))
            (root / task.folder / f"STS.gs.{subset}.txt").write_text("".join(f"{score}\n" for *_, score in rows))
        elif task.name == "SICK-R":
            header = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n"
            lines = "".join(f"{i}\t{a}\t{b}\t{score}\tNEUTRAL\n" for i, (a, b, score) in enumerate(rows))
            (root / task.folder / subset).write_text(header + lines)
        else:
            (root / task.folder / subset).write_text("".join(f"g\tf\ty\t0\t{s}\t{a}\t{b}\n" for a, b, s in rows))


def test_compare_refuses_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SIMCSE_DATA", raising=False)
    one, pairs = folder / "one", folder / "pairs.tsv"
    for arguments, message in [
        ((one, one), "pass --data FILE"),
        ((one, one, "--data", pairs, "--tasks", "STS12"), "leave out --data_dir and --tasks"),
        ((one, one, "--data", pairs, "--confidence", 2), "--confidence is 2.0"),
        ((one, one, "--data", pairs, "--resamples", 3), "--resamples is 3: at least 100"),
        ((one, one, "--data", pairs, "--recipe", "unsup-bert"), "--recipe: found 'unsup-bert'"),
    ]:
        assert simcse("compare", *arguments) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert message in error
