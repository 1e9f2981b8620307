"""A run goes on only as the run that it was: options, data and the files of its state, and it says where it begins."""

from __future__ import annotations

import hashlib
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
from simcse.training.config import DataConfig, SourceConfig, TrainConfig
from simcse.training.interrupt import Interrupted
from simcse.training.resume import check_data, check_options, check_whole, data_facts, flat, read_config, seal
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
        DataError, r"pairs\.csv: holds 127 rows, but the run in .*seed-42 was started with 128; give",
    ),
    "other rows": (
        lambda data, run: swap(data / "pairs.csv"),
        DataError, r"pairs\.csv: holds other content than the run in .*seed-42 was started with; give",
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
        monkeypatch.setattr("simcse.training.resume.load_task", lambda task, name: [sets[task]] * (name == "folder"))
        return data_facts(DataConfig(train="rows", test="folder"), [rows])["test"]

    rows = datasets.Dataset.from_dict({"text": ["a"]})
    before = facts()
    assert before == facts()
    digest = "c77887c9a33b40dd267ff8a35a16744acae70bad9d6dbe77b9f8418859bf0b1e"  # as older states have it
    assert before == {"rows": 14, "fingerprint": digest}
    for number in (0, 6):
        for side, value in (("a", ["b", "a"]), ("b", ["c", "x"]), ("scores", np.array([1.0, 2.0]))):
            assert facts((number, side, value)) != before
    assert facts((0, "a", ["ab", ""])) != before
    assert facts((0, "a", ["a", "\ud800"])) != before  # half a character, as JSON may hold it


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_facts_are_rows_of_each_source_and_bytes_of_each_file(tmp_path: Path) -> None:
    """A name at the hub is no file; it has a revision of its own."""
    files = {name: str(tmp_path / name) for name in ("dev", "dev_corpus", "synonyms")}
    for name, file in files.items():
        Path(file).write_text(name)
    rows = [datasets.Dataset.from_dict({"text": texts}) for texts in (["a", "b"], ["c"])]
    two, one = ({"rows": len(own), "fingerprint": fingerprint(own)} for own in rows)
    assert data_facts(DataConfig(train="x", dev="owner/name"), rows[:1]) == {"train": two}
    assert data_facts(DataConfig(sources=[SourceConfig(), SourceConfig()], **files), rows) == {
        "sources[0]": two, "sources[1]": one, **{name: {"fingerprint": sha256(name.encode())} for name in files}
    }  # fmt: skip


def sealed(folder: Path) -> dict[str, Any]:
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "b").write_bytes(b"content")
    seal(folder, {"seed": 1}, {"train": {"rows": 2}})
    files = {"a/b": sha256(b"content")}
    return {"format": 1, "options": {"seed": 1}, "data": {"train": {"rows": 2}}, "files": files}


def test_a_sealed_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    facts = sealed(tmp_path)
    assert json.loads((tmp_path / "run.json").read_text()) == facts
    assert check_whole(tmp_path) == facts
    del facts["format"]  # the first ones did not say it
    (tmp_path / "run.json").write_text(json.dumps(facts))
    assert check_whole(tmp_path) == facts


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("run.json", None, "missing, so the state is not whole; restore a copy"),
        ("run.json", "{", r"damaged \(JSONDecodeError\); restore a copy"),
        ("run.json", "null", r"damaged \(TypeError\); restore a copy"),
        ("run.json", '{"files": {}, "options": {}}', r"damaged \(KeyError\); restore a copy"),
        ("run.json", '{"files": {}, "options": {}, "data": 5}', r"damaged \(TypeError\); restore a copy"),
        ("run.json", '{"files": {}, "options": 5, "data": {}}', r"damaged \(TypeError\); restore a copy"),
        ("run.json", '{"format": 2}', "found format version 2, this program knows 1; upgrade simcse"),
        ("a/b", None, "missing, so the state is not whole; restore a copy"),
        (
            "a/b", "other", f"damaged: its SHA-256 begins with {sha256(b'other')[:8]}, that of the file saved with "
            f"{sha256(b'content')[:8]}; restore a copy of the folder, or start anew with another output_dir$",
        ),
    ],
)  # fmt: skip
def test_a_state_that_is_not_whole(tmp_path: Path, name: str, content: str | None, told: str) -> None:
    sealed(tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ModelError, match=rf"^{tmp_path}/{name}: {told}"):
        check_whole(tmp_path)


@pytest.mark.parametrize("name", ["a", "x" * 300, "a\0b"])
def test_what_is_no_file_is_missing(tmp_path: Path, name: str) -> None:
    facts = sealed(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps(facts | {"files": {name: ""}}))
    with pytest.raises(ModelError, match=": missing, so the state is not whole"):
        check_whole(tmp_path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "missing, so nobody can tell whether this is the same run; restore it"),
        (b"a: [", r"damaged \(ParserError\); restore it"),
        (b"a: \xff\xfe", r"damaged \(ReaderError\); restore it"),
        (b"", "found nothing, expected options; restore it"),
        (b"- a", r"found \['a'\], expected options; restore it, or start anew with another output_dir$"),
    ],
)
def test_a_config_that_cannot_be_read(tmp_path: Path, content: bytes | None, told: str) -> None:
    (tmp_path / "config.yaml").write_bytes(b"seed: 7")
    assert read_config(tmp_path) == {"seed": 7}
    (tmp_path / "config.yaml").unlink()
    if content is not None:
        (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"^{tmp_path}/config\.yaml: {told}"):
        read_config(tmp_path)


def test_options_of_the_run_that_was(tmp_path: Path) -> None:
    """Those that decide what it becomes; what came after it had its default then, and what has gone counts, too."""
    options = TrainConfig().as_dict()

    def compare(before: dict[str, Any], now: dict[str, Any]) -> None:
        check_options(options | before, options | now, tmp_path)

    free = {"save_every": 7, "resume": "auto", "output_dir": "x", "teacher": options["teacher"] | {"cache": "x"}}
    compare({}, free | {"trackers": ["wandb"]})
    teacher = {key: value for key, value in options["teacher"].items() if key != "temperature"}
    compare({"teacher": teacher}, {})
    for before, now, told in (
        ({}, {"temperature": 1.0}, "temperature is 1.0, but the run in {} was started with 0.05; resume it"),
        ({"teacher": teacher}, {"teacher": teacher | {"temperature": 9.0}}, "teacher.temperature is 9.0, but the run"),
        ({"gone": 1}, {}, "gone is None, but the run in {} was started with 1; resume it with the same value, or name"),
        ({}, {"new": 1}, "new is 1, but the run in {} was started with None; resume it with the same value, or name"),
        ({"objective_args": {"a": 1}}, {"objective_args": {"b": 1}}, "objective_args is {{'b': 1}}, but"),
    ):
        with pytest.raises(ConfigError) as caught:
            compare(before, now)
        assert str(caught.value).startswith(told.format(tmp_path))


def test_options_by_dotted_name() -> None:
    """Values that users name themselves stay together; YAML knows names that are no texts."""
    nested = {
        "a": 1,
        5: None,
        "b": {"c": 2, "d": {"e": 3}},
        "objective_args": {"x": 1},
        "data": {"prompts": {"query": "q"}},
    }
    flattened = {"a": 1, "5": None, "b.c": 2, "b.d.e": 3, "objective_args": {"x": 1}, "data.prompts": {"query": "q"}}
    assert flat(nested) == flattened


def test_data_of_the_run_that_was(tmp_path: Path) -> None:
    """Each file is compared; one that the run did not have is another one."""
    before = {"train": {"rows": 3, "fingerprint": "a"}, "dev": {"fingerprint": "b"}}
    names = {"train": "t.csv", "dev": "d.csv", "synonyms": "s.csv"}
    check_data(before, before, names, tmp_path)
    other = f"holds other content than the run in {tmp_path} was started with; give it the same data, or name another"
    for name, now, told in (
        ("train", {"rows": 4}, f"t.csv: holds 4 rows, but the run in {tmp_path} was started with 3; give it the same"),
        ("train", {"rows": 3}, f"t.csv: {other}"),
        ("dev", {}, f"d.csv: {other}"),
        ("synonyms", {}, f"s.csv: {other}"),
    ):
        with pytest.raises(DataError) as caught:
            check_data(before, before | {name: now | {"fingerprint": "x"}}, names, tmp_path)
        assert str(caught.value).startswith(told)
