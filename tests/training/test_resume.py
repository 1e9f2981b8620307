"""A run goes on only as the run that it was: options, data and the files of its state, and it says where it begins."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import yaml

from simcse import ConfigError, DataError, ModelError, SentenceEncoder, SimCSEError
from simcse.data.arrow import fingerprint
from simcse.data.pairs import ScoredPairs
from simcse.evaluation.sts import SEVEN
from simcse.training import trainer
from simcse.training.config import DataConfig, TrainConfig
from simcse.training.interrupt import Interrupted
from simcse.training.resume import data_facts
from simcse.training.run import train
from simcse.training.run_dir import RunDir


@pytest.fixture(scope="module")
def finished(files: Path, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, TrainConfig]:
    """A run of two seeds, with data of its own: (data, run, config)."""
    from simcse.training.config import DataConfig, ModelConfig

    place = tmp_path_factory.mktemp("finished")
    data, run = place / "data", place / "run"
    shutil.copytree(files, data)
    config = TrainConfig(
        model=ModelConfig(name=str(tiny_bert), pooling="mean", projection="none"),
        data=DataConfig(train=str(data / "pairs.csv"), dev=str(data / "dev.tsv")),
        output_dir=str(run), batch_size=32, max_steps=2, precision="fp32", seeds=2,
    )  # fmt: skip
    train(config)
    return data, run, config


@pytest.fixture
def again(finished: tuple[Path, Path, TrainConfig], tmp_path: Path) -> tuple[Path, Path, TrainConfig]:
    """A copy of it, to damage; the data stay under their name."""
    data, run, config = finished
    shutil.copytree(data, tmp_path / "data")
    shutil.copytree(run, tmp_path / "run")
    for seed in ("seed-42", "seed-43"):  # as if the copy had been trained on the copied files
        for file in ("config.yaml", "last/run.json", "report.json"):
            path = tmp_path / "run" / seed / file
            path.write_text(path.read_text().replace(str(data.parent), str(tmp_path)))
    named = replace(config.data, train=str(tmp_path / "data" / "pairs.csv"), dev=str(tmp_path / "data" / "dev.tsv"))
    return tmp_path / "data", tmp_path / "run", replace(config, data=named, output_dir=str(tmp_path / "run"))


def one_of(config: TrainConfig, seed: int = 42) -> TrainConfig:
    return replace(config, seed=seed, seeds=1, output_dir=f"{config.output_dir}/seed-{seed}", resume="auto")


def flip(file: Path, where: int = -100) -> None:
    content = bytearray(file.read_bytes())
    content[where] ^= 1
    file.write_bytes(content)


def shorten(file: Path) -> None:
    file.write_text("".join(line + "\n" for line in file.read_text().splitlines()[:-1]))


def swap(file: Path) -> None:
    lines = file.read_text().splitlines()
    file.write_text("".join(line + "\n" for line in [*lines[:-2], lines[-1], lines[-2]]))


Damage = Callable[[Path, Path], object]
DAMAGES: dict[str, tuple[Damage, type[SimCSEError], str]] = {
    "fewer rows": (
        lambda data, run: shorten(data / "pairs.csv"),
        DataError, r"pairs\.csv: holds 127 rows, but the run in .*seed-42 was started with 128 in its place",
    ),
    "other rows": (
        lambda data, run: swap(data / "pairs.csv"),
        DataError, r"pairs\.csv: holds other content but the run in .*seed-42 was started with in its place",
    ),
    "other dev": (lambda data, run: swap(data / "dev.tsv"), DataError, r"dev\.tsv: holds other content"),
    "no config.yaml": (
        lambda data, run: (run / "config.yaml").unlink(), ConfigError, r"config\.yaml: missing, so nobody can tell"
    ),
    "empty config.yaml": (
        lambda data, run: (run / "config.yaml").write_text(""), ConfigError, r"config\.yaml: found nothing, expected"
    ),
    "config.yaml not UTF-8": (
        lambda data, run: (run / "config.yaml").write_bytes(b"a: \xff\xfe"), ConfigError, r"config\.yaml: damaged"
    ),
    "no trainer.pt": (
        lambda data, run: (run / "last" / "trainer.pt").unlink(), ModelError, r"last/trainer\.pt: missing"
    ),
    "flipped trainer.pt": (
        lambda data, run: flip(run / "last" / "trainer.pt"), ModelError, r"last/trainer\.pt: damaged: its SHA-256"
    ),
    "no weights": (
        lambda data, run: (run / "last" / "model.safetensors").unlink(), ModelError, r"last/model\.safetensors: missing"
    ),
    "flipped weights": (
        lambda data, run: flip(run / "last" / "model.safetensors"), ModelError, r"last/model\.safetensors: damaged"
    ),
    "no run.json": (lambda data, run: (run / "last" / "run.json").unlink(), ModelError, r"last/run\.json: missing"),
    "run.json of another type": (
        lambda data, run: (run / "last" / "run.json").write_text("[]"), ModelError, r"last/run\.json: damaged"
    ),
}  # fmt: skip


@pytest.mark.parametrize("several", [False, True], ids=["single run", "per seed"])
@pytest.mark.parametrize("name", DAMAGES)
def test_another_run_is_not_gone_on_with(again: tuple[Path, Path, TrainConfig], name: str, several: bool) -> None:
    data, run, config = again
    damage, error, message = DAMAGES[name]
    damage(data, run / "seed-42")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(error, match=message) as caught:
        train(replace(config, resume="auto") if several else one_of(config))
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_other_options_get_no_old_scores(again: tuple[Path, Path, TrainConfig]) -> None:
    _, run, config = again
    other = replace(config, temperature=0.07, resume="auto")
    with pytest.raises(ConfigError, match=r"^temperature is 0\.07, but the run in .*seed-42 was started with 0\.05"):
        train(other)
    shutil.rmtree(run / "seed-42" / "last")  # a user may do that once there is a report
    with pytest.raises(ConfigError, match=r"^temperature is 0\.07"):
        train(other)
    assert train(replace(config, resume="auto"))["tasks"] == json.loads((run / "report.json").read_text())["tasks"]
    with pytest.raises(ConfigError, match="holds a finished run whose last/ is gone"):
        train(one_of(config))


def test_a_damaged_report_of_a_seed(again: tuple[Path, Path, TrainConfig]) -> None:
    _, run, config = again
    (run / "seed-43" / "report.json").write_text("null")
    with pytest.raises(ModelError, match=r"seed-43/report\.json: damaged .*; remove it"):
        train(replace(config, resume="auto"))
    (run / "seed-43" / "report.json").unlink()  # the remedy works
    train(replace(config, resume="auto"))
    assert (run / "seed-43" / "report.json").is_file()


def test_a_log_with_damage(again: tuple[Path, Path, TrainConfig]) -> None:
    """A half line at the end is what a kill leaves; damage before the state that the run goes on from is an error."""
    _, run, config = again
    log = run / "seed-42" / "log.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole + b'{"step": 3, "lo')
    train(one_of(config))
    assert [json.loads(line) for line in log.read_text().splitlines()] == list(map(json.loads, whole.splitlines()))
    steps = [json.loads(line)["step"] for line in whole.splitlines()]
    log.write_bytes(whole + bytes(512) + b"\n" + json.dumps({"step": steps[-1] + 2}).encode() + b"\n")
    train(one_of(config))  # what a power cut leaves of lines behind the state, which were never synced
    assert [json.loads(line) for line in log.read_text().splitlines()] == list(map(json.loads, whole.splitlines()))
    log.write_bytes(b"\xff\xfe\n" + whole)
    with pytest.raises(DataError, match=r"log\.jsonl:1: no JSON object with a step; delete the line"):
        train(one_of(config))


def test_an_evaluation_that_is_done_again_is_logged_once(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by a signal at step 6, which is to be evaluated; then killed behind that, before it is saved."""
    step = trainer.seed_step
    stopped = {6: lambda: os.kill(os.getpid(), signal.SIGTERM)}
    monkeypatch.setattr(trainer, "seed_step", lambda seed, at: (step(seed, at), stopped.get(at, int)()))
    with pytest.raises(Interrupted):
        train(config)
    monkeypatch.undo()
    for _ in range(2):
        monkeypatch.setattr(RunDir, "save_last", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(replace(config, resume="auto"))
        monkeypatch.undo()
    train(replace(config, resume="auto"))
    records = [json.loads(line) for line in (Path(config.output_dir) / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if "dev" in record] == [0, 6, 12]
    assert [record["step"] for record in records if "loss" in record] == list(range(1, 13))


def test_it_says_where_it_begins(config: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    """`save_every` is longer than the run: last/ is saved at each evaluation."""
    config = replace(config, save_every=500, resume="auto")
    train(config)
    assert f"nothing to resume in {config.output_dir}: starting at step 1\n" in capsys.readouterr().err
    assert yaml.safe_load((Path(config.output_dir) / "config.yaml").read_text())["resume"] == "auto"
    train(config)
    assert f"nothing left to train in {config.output_dir}/last: all 12 steps are done\n" in capsys.readouterr().err


def test_a_state_elsewhere(again: tuple[Path, Path, TrainConfig], tmp_path: Path) -> None:
    """A copied last/ alone still knows its options and its data."""
    data, run, config = again
    shutil.copytree(run / "seed-42" / "last", tmp_path / "copied")
    elsewhere = replace(one_of(config), resume=str(tmp_path / "copied"), output_dir=str(tmp_path / "new"))
    with pytest.raises(ConfigError, match=r"^temperature is 1\.0, but the run in .* was started with 0\.05"):
        train(replace(elsewhere, temperature=1.0))
    assert not (tmp_path / "new").exists()
    train(elsewhere)
    swap(data / "pairs.csv")
    with pytest.raises(DataError, match="other content"):
        train(replace(elsewhere, output_dir=str(tmp_path / "newer")))


def test_a_folder_that_another_run_was_faster_to_take(again: tuple[Path, Path, TrainConfig], tmp_path: Path) -> None:
    """Two runs begin at once in a new folder; and a state from elsewhere is no reason to write over a run."""
    _, run, config = again
    one, other = (RunDir(tmp_path / "new", config.as_dict(), "auto") for _ in range(2))
    one.open({})
    with pytest.raises(ConfigError, match="is writing a run there"):
        other.open({})
    one.close()
    with pytest.raises(ConfigError, match="holds another run"):
        other.open({})
    other.close()
    elsewhere = replace(one_of(config), resume=str(run / "seed-42" / "last"), output_dir=str(run / "seed-43"))
    with pytest.raises(ConfigError, match=r"seed-43 holds another run than resume=.*seed-42/last; name a new folder"):
        train(elsewhere)


def test_linked_states_are_gone_on_with_and_replaced(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "disk" / "best").mkdir(parents=True)
    run = Path(config.output_dir)
    run.mkdir()
    train(replace(config, max_steps=2))
    for name in ("best", "last"):
        shutil.rmtree(tmp_path / "disk" / name, ignore_errors=True)
        (run / name).rename(tmp_path / "disk" / name)
        (run / name).symlink_to(tmp_path / "disk" / name)
    (run / ".best.old").mkdir()
    (run / "report.json").unlink()
    train(replace(config, max_steps=2, resume="auto"))
    SentenceEncoder.from_pretrained(run / "best")
    assert (run / ".best.old").is_dir()
    assert all((run / name).is_symlink() for name in ("best", "last"))


def test_a_fingerprint_is_of_order_and_bytes() -> None:
    texts = [f"sentence {i}" for i in range(70_000)]  # more than are hashed at once
    one = datasets.Dataset.from_dict({"text": texts})
    found = fingerprint(one)
    assert fingerprint(datasets.concatenate_datasets([one.select(range(7)), one.select(range(7, len(one)))])) == found
    for other in (texts[:-1], [*texts[:-2], texts[-1], texts[-2]], [*texts[:-2], texts[-2] + "x", texts[-1][1:]]):
        assert fingerprint(datasets.Dataset.from_dict({"text": other})) != found
    assert fingerprint(one.rename_column("text", "anchor")) != found
    assert fingerprint(datasets.Dataset.from_dict({"text": []}, datasets.Features({"text": datasets.Value("string")})))


def test_test_sets_are_known_by_all_that_their_scores_depend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any text, either side, its order and its score; each of the seven tasks."""

    def facts(*changes: tuple[int, str, Any]) -> dict[str, Any]:
        sets = {task: ScoredPairs(["a", "b"], ["c", "d"], np.array([1.0, 2.5]), "x") for task in SEVEN}
        for number, side, value in changes:
            sets[SEVEN[number]] = replace(sets[SEVEN[number]], **{side: value})
        monkeypatch.setattr("simcse.training.resume.load_task", lambda task, folder: [sets[task]])
        return data_facts(DataConfig(train="rows", test="folder"), [rows])["test"]

    rows = datasets.Dataset.from_dict({"text": ["a"]})
    before = facts()
    assert before == facts()
    assert before["rows"] == 14
    for number in (0, 6):
        for side, value in (("a", ["b", "a"]), ("b", ["c", "x"]), ("scores", np.array([1.0, 2.0]))):
            assert facts((number, side, value)) != before
    assert facts((0, "a", ["ab", ""])) != before
