"""`simcse compare`, `plot` and `postprocess` as a user types them, on a tiny encoder."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import yaml
from tiny import WORDS, build_encoder

from simcse.cli import main
from simcse.commands.models import encoders_of, short_names
from simcse.errors import ModelError
from simcse.evaluation.sts import SEVEN, TASKS, StsTask


def sentence(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(3, 8)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two run folders, the second with two seeds, in the layout that train.py writes; scored pairs and texts."""
    root, rng = tmp_path_factory.mktemp("analysis"), random.Random(0)
    for number, run in enumerate(("one", "two/seed-1", "two/seed-2")):
        build_encoder(root / run / "best", seed=number)
        config = {"model": {"name": "bert-base-uncased", "projection": "train"}, "batch_size": 64, "max_steps": 20}
        (root / run / "config.yaml").write_text(yaml.safe_dump(config))
        with (root / run / "log.jsonl").open("w") as log:
            for step in (0, 10, 20):
                dev = {"spearman": 70.0 + step, "alignment": 0.2, "uniformity": -1.0 - step / 10}
                log.write(
                    json.dumps({"step": step, "dev": dev}) + "\n" + json.dumps({"step": step, "loss": 1.0}) + "\n"
                )
    pairs = "".join(f"{sentence(rng)}\t{sentence(rng)}\t{i % 6}\n" for i in range(40))
    (root / "pairs.tsv").write_text(pairs)
    (root / "texts.txt").write_text("".join(f"{sentence(rng)}\n" for _ in range(60)))
    (root / "few.txt").write_text("".join(f"{sentence(rng)}\n" for _ in range(4)))
    return root


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


def test_plot_draws_what_it_has_files_for(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIMCSE_DATA", raising=False)
    assert simcse("plot", folder / "one", folder / "two", "--output", tmp_path / "runs", "--formats", "svg") == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["learning.svg", "trajectory.svg"]
    inputs = ("--data", folder / "pairs.tsv", "--sentences", folder / "few.txt", "--corpus", folder / "texts.txt")
    assert simcse("plot", folder / "one", *inputs, "--output", tmp_path / "all", "--formats", "png") == 0
    drawn = sorted(path.stem for path in (tmp_path / "all").iterdir())
    assert drawn == ["cosines", "heat", "learning", "map", "scatter", "spectrum", "trajectory"]


def test_plot_names_what_is_missing(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SIMCSE_DATA", raising=False)
    checkpoint = folder / "one" / "best"
    for arguments, message in [
        ((checkpoint,), "nothing to draw"),
        ((checkpoint, "--kinds", "learning"), "--kinds learning needs run folders of train.py"),
        ((checkpoint, "--kinds", "heat"), "--kinds heat needs --sentences FILE"),
        ((folder / "one", "--kinds", "learnings"), "did you mean 'learning'"),
        ((folder / "one", "--formats", "jpg"), "--formats: found 'jpg'"),
    ]:
        assert simcse("plot", *arguments) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["whitening", "flow"])
def test_a_fitted_map_is_compared_with_its_encoder(
    kind: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best, fitted = folder / "one" / "best", tmp_path / kind
    assert simcse("postprocess", folder / "texts.txt", "--model", best, "--kind", kind, "--output", fitted) == 0
    assert f"{kind}, 32 -> " in capsys.readouterr().err
    assert simcse("compare", best, fitted, "--data", folder / "pairs.tsv", "--resamples", 100, "--format", "json") == 0
    [task] = json.loads(capsys.readouterr().out)["tasks"].values()
    assert task["a"] != task["b"]
    assert simcse("postprocess", folder / "few.txt", "--model", best, "--kind", kind, "--output", tmp_path / "x") == 1
    assert "found 4 distinct texts" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_what_a_name_stands_for(folder: Path, tmp_path: Path) -> None:
    assert encoders_of(str(folder / "two")) == [str(folder / "two" / f"seed-{n}" / "best") for n in (1, 2)]
    assert encoders_of(str(folder / "one")) == [str(folder / "one" / "best")]
    assert encoders_of("package:name") == ["package:name"]
    (tmp_path / "log.jsonl").touch()
    with pytest.raises(ModelError, match=r"a run without best/"):
        encoders_of(str(tmp_path))
    assert short_names(["runs/a/best", "runs/b"]) == ["a", "b"]
    assert short_names(["x/a", "y/a"]) == ["x/a", "y/a"]
