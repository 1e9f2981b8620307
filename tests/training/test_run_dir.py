"""A run's folder by itself: who writes there, what a damaged state is told as, what the log says of its beginning."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pickle
import shutil
import signal
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
import yaml

from simcse import ConfigError, DataError, ModelError
from simcse.training.config import TrainConfig
from simcse.training.interrupt import Interrupted, StopSignals
from simcse.training.run_dir import RunDir
from simcse.training.run_lock import RunLock


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(ConfigError, match=r"^output_dir=.*run: is a file, expected a folder or a name that is free$"):
        RunDir(tmp_path / "run", {})
    assert (tmp_path / "run").read_text() == "mine"


def test_the_second_process_reads_alone(tmp_path: Path) -> None:
    """All of its calls are those of the first one, which writes; it neither locks nor leaves anything."""
    own = RunDir(tmp_path / "run", {}, writes=False)
    own.open({})
    own.log({"step": 1})
    own.save_best(lambda folder: pytest.fail("was written"))
    own.save_last(lambda folder: pytest.fail("was written"), {})
    own.write_card("text")
    own.write_report({})
    own.close()
    assert list(tmp_path.iterdir()) == []


OPTIONS = TrainConfig().as_dict()
DATA = {"train": {"rows": 3, "fingerprint": "f"}}
REPORT = {"tasks": {}, "versions": {}, "protocol": "p", "data": DATA}


def made(folder: Path, log: Iterable[Mapping[str, Any]] = (), **state: Any) -> Path:
    """A run's folder with that log and, if a state is given, last/."""
    run = RunDir(folder, OPTIONS)
    run.open(DATA)
    for record in log:
        run.log(record)
    if state:
        run.save_last(lambda new: None, state)
    run.close()
    return folder


def gone_on_with(folder: Path, resume: str = "auto", **changes: Any) -> RunDir:
    """Such a run, opened only to look; it is locked for no longer than that."""
    run = RunDir(folder, OPTIONS | changes, resume)
    run.close()
    return run


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_the_config_keeps_the_order_of_the_options(tmp_path: Path) -> None:
    folder = made(tmp_path / "run")
    assert list(yaml.safe_load((folder / "config.yaml").read_text()).items()) == list(OPTIONS.items())


def test_the_log_is_cut_at_the_state(tmp_path: Path) -> None:
    """Behind it anything may lie. An evaluation that is due is done anew; without a state all is done anew."""
    log = [{"step": step, **kind} for step in (1, 2, 3) for kind in ({"loss": 1.0}, {"dev": {"spearman": 0.5}})]
    for state, kept in (
        ({}, []), ({"step": 2}, log[:4]), ({"step": 2, "due": True}, log[:3]), ({"step": 3, "due": False}, log),
    ):  # fmt: skip
        folder = made(tmp_path / f"run-{len(kept)}", [log[4], *log[:4], log[5]], **state)
        run = RunDir(folder, OPTIONS, "auto")
        run.open(DATA)
        run.close()
        assert sorted(map(str, logged(folder))) == sorted(map(str, kept))


def test_damage_in_the_log_counts_before_the_state_alone(tmp_path: Path) -> None:
    """A damaged line is named by its number, the first one if there are several."""
    folder = made(tmp_path / "run", step=2)
    good = [b'{"step": 1, "loss": 2.5}', b'{"step": 2}']
    for bad in (
        b"\xff", b"[]", b"{}", b'{"step": null}', b'{"step": 1e999}', b'{"step": 1, "loss": "x"}',
        b'{"step": 1, "dev": 5}', b"[" * 100_000,
    ):  # fmt: skip
        (folder / "log.jsonl").write_bytes(b"\n".join([good[0], bad, b'{"step": 3}', bad, good[1]]))
        run = RunDir(folder, OPTIONS, "auto")
        with pytest.raises(DataError, match=rf"^{folder}/log\.jsonl:2: no JSON object with a step; delete the line$"):
            run.open(DATA)
        (folder / "log.jsonl").write_bytes(b"\n".join([*good, bad, b'{"step": 3}']))
        run.open(DATA)
        run.close()
        assert logged(folder) == [json.loads(line) for line in good]


def test_what_a_log_says_of_its_beginning_and_end(tmp_path: Path) -> None:
    for log, losses in (
        ([], {}),
        ([{"step": 1, "dev": {"spearman": 0.5}}], {}),
        ([{"step": 1, "loss": 2}], {"first": None, "last": 2.0}),
        ([{"step": 1, "loss": 2}, {"step": 2, "loss": 1.5}, {"step": 3}], {"first": 2.0, "last": 1.5}),
    ):
        run = gone_on_with(made(tmp_path / f"run-{log}", log, step=3))
        assert (run.losses(), run.first_evaluation()) == (losses, {})
    (run.folder / "log.jsonl").unlink()
    assert run.losses() == {}


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    folder = made(tmp_path / "run")
    (folder / "log.jsonl").unlink()
    (folder / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        gone_on_with(folder).log({"step": 1})
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(folder / "log.jsonl"))


@pytest.mark.parametrize("name", ["config.yaml", "log.jsonl", "best", "last"])
def test_any_part_of_a_run_makes_the_folder_taken(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(ConfigError, match=rf"^output_dir={tmp_path} holds another run; go on with it by resume=auto"):
        RunDir(tmp_path, OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_state_is_gone_on_with_where_it_lies_or_in_a_new_folder(tmp_path: Path) -> None:
    folder = made(tmp_path / "run", step=1)
    last = folder / "last"
    for place, resume in ((folder, "auto"), (folder, "finished"), (folder, str(last)), (tmp_path / "new", str(last))):
        assert gone_on_with(place, resume).start == last
    for resume in ("sideways", str(folder)):
        with pytest.raises(
            ConfigError, match=rf"^resume={resume}: no trainer\.pt there; name the last/ folder of a run"
        ):
            gone_on_with(tmp_path / "new", resume)
    with pytest.raises(ConfigError, match=rf"^output_dir=.*/other holds another run than resume={last}; name a new"):
        gone_on_with(made(tmp_path / "other"), str(last))


def test_options_are_those_of_the_config_and_of_the_state(tmp_path: Path) -> None:
    folder = made(tmp_path / "run", step=1)
    for resume in ("auto", "finished", str(folder / "last")):
        with pytest.raises(ConfigError, match=rf"^temperature is 1\.0, but the run in {folder} was started with 0\.05"):
            gone_on_with(folder, resume, temperature=1.0)
    (folder / "config.yaml").write_text("temperature: 2.0\n")
    assert gone_on_with(folder, str(folder / "last")).start == folder / "last"  # which says all by itself
    for resume in ("auto", "finished"):
        with pytest.raises(ConfigError, match=rf"^temperature is 0\.05, but the run in {folder} was started with 2\.0"):
            gone_on_with(folder, resume)


def test_data_are_those_of_the_state_or_of_the_report(tmp_path: Path) -> None:
    """Of the report where last/ has been removed: then one can look, and not go on."""
    folder = made(tmp_path / "run", step=1)
    other = {"train": {"rows": 4, "fingerprint": "g"}}
    told = "^pairs\\.csv: holds {} rows, but the run in {} was started with {}; give it the same data"
    for place, resume in ((folder, "auto"), (folder, "finished"), (tmp_path / "new", str(folder / "last"))):
        run = gone_on_with(place, resume)
        run.check_data(DATA, {"train": "pairs.csv"})
        with pytest.raises(DataError, match=told.format(4, folder, 3)):
            run.check_data(other, {"train": "pairs.csv"})
    shutil.rmtree(folder / "last")
    run = gone_on_with(folder)
    assert run.start is None
    run.write_report({key: value for key, value in REPORT.items() if key != "data"})  # as older ones are
    with pytest.raises(
        ConfigError, match=rf"^output_dir={folder} holds a finished run whose last/ is gone, so nothing"
    ):
        gone_on_with(folder)
    with pytest.raises(DataError, match=told.format(3, folder, None)):
        gone_on_with(folder, "finished").check_data(DATA, {"train": "pairs.csv"})
    run.write_report(REPORT)
    run = gone_on_with(folder, "finished")
    run.check_data(DATA, {"train": "pairs.csv"})
    with pytest.raises(DataError, match=told.format(4, folder, 3)):
        run.check_data(other, {"train": "pairs.csv"})
    with pytest.raises(ConfigError, match=r"^temperature is 1\.0"):
        gone_on_with(folder, "finished", temperature=1.0)
    gone_on_with(tmp_path / "new").check_data(other, {})  # nothing to compare with


def test_a_damaged_report_is_named_with_what_helps(tmp_path: Path) -> None:
    run = gone_on_with(made(tmp_path / "run"))
    assert run.finished() is None
    for content, why in (("null", "TypeError"), ("{}", "KeyError"), ("{", "JSONDecodeError")):
        (run.folder / "report.json").write_text(content)
        told = rf"^{run.folder}/report\.json: damaged \({why}\); remove it, and resume=auto makes it anew$"
        with pytest.raises(ModelError, match=told):
            run.finished()


class Harmful:
    """What pickle makes of it is a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def test_a_state_of_somebody_else_runs_no_code(tmp_path: Path) -> None:
    run = gone_on_with(made(tmp_path / "run", step=1))
    torch.save({"step": Harmful(tmp_path / "done")}, run.last / "trainer.pt")
    with pytest.raises(ModelError, match=r"trainer\.pt: cannot be read \(UnpicklingError\); start the run anew$"):
        run.load_state()
    assert not (tmp_path / "done").exists()
    pickle.loads(pickle.dumps(Harmful(tmp_path / "done")))
    assert (tmp_path / "done").exists()


def test_a_state_of_a_gpu_is_read_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = gone_on_with(made(tmp_path / "run", step=1))
    monkeypatch.setattr("torch.serialization.location_tag", lambda storage: "cuda:0")
    torch.save({"weight": torch.ones(2)}, run.last / "trainer.pt")
    assert run.load_state()["weight"].device.type == "cpu"


def test_the_card_lies_beside_the_encoder(tmp_path: Path) -> None:
    run = gone_on_with(made(tmp_path / "run"))
    run.save_best(lambda new: (new / "model").touch())
    run.write_card("é\n")
    assert sorted(path.name for path in run.best.iterdir()) == ["README.md", "model"]
    assert (run.best / "README.md").read_text(encoding="utf-8") == "é\n"


def test_a_state_goes_through_a_folder_and_damage_is_told(tmp_path: Path) -> None:
    options = TrainConfig().as_dict()
    own = RunDir(tmp_path / "run", options)
    own.open({})
    for record in ({"step": 0, "loss": 9.5}, {"step": 0, "dev": {"spearman": 0.5}}, {"step": 1, "loss": 2}):
        own.log(record)
    own.save_last(lambda folder: None, {"step": 1})
    own.write_report({"tasks": {}, "versions": {}, "protocol": "p"})
    assert own.finished() == {"tasks": {}, "versions": {}, "protocol": "p"}
    own.close()
    again = RunDir(tmp_path / "run", options, "auto")
    assert again.start == tmp_path / "run" / "last"
    assert again.load_state() == {"step": 1}
    assert again.first_evaluation() == {"spearman": 0.5}
    assert again.losses() == {"first": 9.5, "last": 2.0}
    (tmp_path / "run" / "last" / "trainer.pt").write_bytes(b"damaged since it was checked")
    with pytest.raises(ModelError, match=r"last/trainer\.pt: cannot be read \(\w+\); start the run anew$"):
        again.load_state()
    again.close()


def test_a_lock_that_is_ours_is_not_asked_for_again(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    lock.acquire()
    before = lock.path.read_bytes()
    lock.acquire()
    assert lock.path.read_bytes() == before
    lock.release()
    lock.release()
    assert not lock.locked
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_was_removed_just_now_is_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is opened, then its owner removes it and lets go of it: whoever locks that locks nothing."""
    lock, real, locked = RunLock(tmp_path), fcntl.flock, []

    def late(handle: int, how: int) -> None:
        if not locked:
            lock.path.unlink()
        locked.append(os.fstat(handle).st_ino)
        real(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    lock.acquire()
    assert len(locked) == 2
    assert lock.path.stat().st_ino == locked[1]
    lock.release()


@pytest.fixture
def arrived(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Signals that reached what handled them before."""
    came: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    yield came
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("tells", [True, False])
def test_the_first_signal_asks_and_the_second_stops(
    arrived: list[int], capfd: pytest.CaptureFixture[str], tells: bool
) -> None:
    with StopSignals(tells=tells) as signals:
        assert signals.number == 0
        signal.raise_signal(signal.SIGINT)
        assert (signals.number, arrived) == (signal.SIGINT, [])
        signal.raise_signal(signal.SIGTERM)
        assert (signals.number, arrived) == (signal.SIGINT, [signal.SIGTERM])
        signal.raise_signal(signal.SIGTERM)
        assert arrived == [signal.SIGTERM] * 2
    signal.raise_signal(signal.SIGINT)
    assert arrived == [signal.SIGTERM, signal.SIGTERM, signal.SIGINT]
    told = "\nSIGINT: stopping behind this step, with last/ saved; once more stops at once\n"
    assert capfd.readouterr().err == (told if tells else "")


@pytest.mark.parametrize("before", [0, 1])
def test_the_signal_for_a_launcher_that_is_gone_is_no_second_wish(
    arrived: list[int], monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    """It comes with another parent: the first of all signals asks, and beside one that came before it does nothing."""
    with StopSignals(tells=False) as signals:
        for _ in range(before):
            signal.raise_signal(signal.SIGTERM)
        monkeypatch.setattr(os, "getppid", lambda: 1)
        signal.raise_signal(signal.SIGTERM)
        assert (signals.number, arrived) == (signal.SIGTERM, [])
        signal.raise_signal(signal.SIGTERM)
        assert arrived == [signal.SIGTERM]


def test_outside_of_the_main_thread_signals_keep_their_meaning(arrived: list[int]) -> None:
    inside, tried = threading.Event(), threading.Event()

    def work() -> None:
        with StopSignals(tells=True) as signals:
            inside.set()
            tried.wait(60)
            assert signals.number == 0

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(60)
    signal.raise_signal(signal.SIGTERM)
    tried.set()
    thread.join()
    assert arrived == [signal.SIGTERM]


def test_the_exit_status_of_an_interrupted_run_is_that_of_a_shell() -> None:
    stopped = Interrupted(signal.SIGTERM, "step 3 is done")
    with pytest.raises(KeyboardInterrupt, match=r"^step 3 is done; go on$") as caught:
        raise stopped.followed_by("go on")
    assert (caught.value.number, caught.value.exit_code) == (signal.SIGTERM, 143)
