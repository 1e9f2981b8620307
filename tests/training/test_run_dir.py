"""A run's folder by itself: who writes there, what a damaged state is told as, what the log says of its beginning."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from pathlib import Path
from types import FrameType

import pytest

from simcse import ConfigError, ModelError
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
