"""Writing that neither a kill nor a power cut can tear: what is synced before what, left-overs, links, full disks."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from simcse import files
from simcse.files import make_folder, moved, replaced_file, replaced_folder, sweep

ROOT = Path(__file__).parents[1]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def cannot_exchange(one: Path, other: Path) -> bool:
    return False


@pytest.fixture(params=["exchange", "rename aside"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of replacing a folder: in one step, and in two where the system cannot."""
    if request.param != "exchange":
        monkeypatch.setattr(files, "_exchanged", cannot_exchange)
    return str(request.param)


def fill(folder: Path, text: str) -> None:
    (folder / "inner").mkdir()
    (folder / "a").write_text(text)
    (folder / "inner" / "b").write_text(text)


def fill_and_fail(folder: Path, text: str) -> None:
    fill(folder, text)
    raise ValueError(text)


def test_a_folder_is_replaced_whole(tmp_path: Path, way: str) -> None:
    for text in ("one", "two"):
        with replaced_folder(tmp_path / "best") as new:
            fill(new, text)
        assert names(tmp_path) == ["best"]
        assert (tmp_path / "best" / "inner" / "b").read_text() == text
    with pytest.raises(ValueError, match="three"), replaced_folder(tmp_path / "best") as new:
        fill_and_fail(new, "three")
    assert names(tmp_path) == ["best"]
    assert (tmp_path / "best" / "a").read_text() == "two"


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What is synced, renamed and removed, in order; all of it is done, too."""
    done: list[tuple[str, ...]] = []

    def watched(name: str, function: Callable[..., object], where: object) -> None:
        def call(*arguments: object, **options: object) -> object:
            first = arguments[0]
            paths = (
                [str(Path(f"/proc/self/fd/{first}").readlink())]
                if name == "sync"
                else [str(path) for path in arguments[:2]]
            )
            done.append((name, *paths))
            return function(*arguments, **options)

        monkeypatch.setattr(where, function.__name__, call)

    watched("sync", os.fsync, os)
    watched("rename", os.rename, os)
    watched("rename", os.replace, os)
    watched("exchange", files._exchanged, files)
    watched("remove", files.shutil.rmtree, files.shutil)
    return done


def check_order(record: list[tuple[str, ...]], step: str, target: Path, inside: list[str]) -> None:
    """All that is new is synced, then takes the place, then the parent folder is synced, then the old state goes."""
    [placed] = [i for i, event in enumerate(record) if event[0] == step and event[2] == str(target)]
    new = record[placed][1]
    synced = [event[1] for event in record[:placed] if event[0] == "sync"]
    assert {f"{new}{name}" for name in inside} <= set(synced)
    parent = record.index(("sync", str(target.parent)), placed)
    removed = [i for i, event in enumerate(record) if event[0] == "remove"]
    assert placed < parent < min(removed)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_a_folder_is_durable_before_the_old_one_goes(tmp_path: Path, record: list[tuple[str, ...]]) -> None:
    with replaced_folder(tmp_path / "best") as new:
        fill(new, "one")
    record.clear()
    with replaced_folder(tmp_path / "best") as new:
        fill(new, "two")
    check_order(record, "exchange", tmp_path / "best", ["", "/a", "/inner", "/inner/b"])


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_a_file_is_durable_when_it_is_there(tmp_path: Path, record: list[tuple[str, ...]]) -> None:
    with replaced_file(tmp_path / "deep" / "down" / "report.json") as new:
        new.write_text("one")
    check_order(record, "rename", tmp_path / "deep" / "down" / "report.json", [""])
    assert {("sync", str(tmp_path)), ("sync", str(tmp_path / "deep"))} <= set(record)  # the folders made on the way


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_a_finished_file_is_durable_under_its_new_name(tmp_path: Path, record: list[tuple[str, ...]]) -> None:
    (tmp_path / "vectors.npy.partial").write_bytes(b"rows")
    moved(tmp_path / "vectors.npy.partial", tmp_path / "vectors.npy")
    partial, parent = str(tmp_path / "vectors.npy.partial"), str(tmp_path)
    assert record == [("sync", partial), ("rename", partial, str(tmp_path / "vectors.npy")), ("sync", parent)]


KILLED = """
import os, signal, sys
from pathlib import Path
from simcse import files
target, way = Path(sys.argv[1]), sys.argv[2]
if way == "between two renames":
    files._exchanged = lambda one, other: False
    seen = os.rename
    def rename(one, other):
        seen(one, other)
        os.kill(os.getpid(), signal.SIGKILL)
    os.rename = rename
with files.replaced_folder(target) as new:
    (new / "a").write_text("new")
    if way == "while writing":
        os.kill(os.getpid(), signal.SIGKILL)
    if way == "alive":
        print("writing", flush=True)
        sys.stdin.read()
"""


def start(target: Path, way: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", KILLED, str(target), way]
    return subprocess.Popen(command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@pytest.mark.parametrize("way", ["while writing", "between two renames"])
def test_a_killed_writer_is_cleared_up_after_by_the_next(tmp_path: Path, way: str) -> None:
    target = tmp_path / "best"
    target.mkdir()
    (target / "a").write_text("old")
    with start(target, way) as process:
        process.communicate(timeout=60)
    assert any(".simcse-" in name for name in names(tmp_path))
    sweep(tmp_path)
    assert names(tmp_path) == ["best"]
    assert (target / "a").read_text() == ("old" if way == "while writing" else "new")


def test_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    with start(tmp_path / "best", "alive") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        before = names(tmp_path)
        sweep(tmp_path)
        with replaced_folder(tmp_path / "best") as new:
            (new / "a").write_text("ours")
        assert names(tmp_path) == sorted([*before, "best"])
        process.communicate("", timeout=60)
    assert (tmp_path / "best" / "a").read_text() == "new"  # the later one wins
    assert names(tmp_path) == ["best"]


def test_what_is_not_ours_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "else").mkdir()
    theirs = [".best.old", ".best.123.tmp", "best.simcse-0123456789ab.tmp", ".best.simcse-0123.tmp"]
    for name in theirs:
        (tmp_path / name).mkdir()
    (tmp_path / ".x.simcse-0123456789ab.tmp").write_text("a file")
    (tmp_path / ".best.simcse-0123456789ab.tmp").symlink_to(tmp_path / "else")
    (tmp_path / "else" / "kept").write_text("x")
    before = names(tmp_path)
    with replaced_folder(tmp_path / "best") as new:
        (new / "a").write_text("x")
    sweep(tmp_path)
    assert names(tmp_path) == sorted([*before, "best"])
    assert names(tmp_path / "else") == ["kept"]


def test_a_link_stays_and_what_it_names_is_replaced(tmp_path: Path, way: str) -> None:
    (tmp_path / "disk" / "real").mkdir(parents=True)
    (tmp_path / "best").symlink_to(Path("disk") / "real")
    for text in ("one", "two"):
        with replaced_folder(tmp_path / "best") as new:
            fill(new, text)
        assert (tmp_path / "best").is_symlink()
        assert (tmp_path / "disk" / "real" / "a").read_text() == text
    (tmp_path / "report.json").symlink_to(tmp_path / "disk" / "not yet there.json")
    with replaced_file(tmp_path / "report.json") as file:
        file.write_text("{}")
    assert (tmp_path / "disk" / "not yet there.json").read_text() == "{}"
    assert names(tmp_path) == ["best", "disk", "report.json"]
    assert names(tmp_path / "disk") == ["not yet there.json", "real"]


def test_many_writers_and_readers_of_one_folder(tmp_path: Path) -> None:
    """A reader that opens at any moment finds a folder that is whole."""
    target = tmp_path / "best"
    with replaced_folder(target) as new:
        fill(new, "start")
    wrong: list[BaseException] = []

    def write(number: int) -> None:
        try:
            for turn in range(10):
                with replaced_folder(target) as new:
                    fill(new, f"{number} {turn}")
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    looks = 0
    while any(thread.is_alive() for thread in threads):
        handle = os.open(target, os.O_RDONLY)  # whatever happens to the name, this folder is one
        os.close(handle)
        looks += 1
    assert not wrong
    assert looks
    assert names(tmp_path) == ["best"]


def test_the_extension_is_kept_and_long_names_fit(tmp_path: Path) -> None:
    name = "é" * 120 + ".npy"  # 244 bytes
    with replaced_file(tmp_path / name) as new:
        assert new.suffix == ".npy"
        new.write_bytes(b"x")
    assert names(tmp_path) == [name]


@pytest.mark.parametrize("target", [".", "..", "/", "sub/.."])
def test_names_of_no_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match="names no file or folder of its own") as caught, replaced_folder(target) as new:
        fill(new, "x")
    told = (caught.value.errno, caught.value.strerror, caught.value.filename)
    assert told == (errno.EINVAL, "names no file or folder of its own", target)
    assert names(tmp_path) == ["sub"]


def test_what_stands_in_the_way_stays(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="is there already, and no folder"), replaced_folder(tmp_path / "file"):
        pytest.fail("was begun")
    for name in ("folder", "pipe"):
        with pytest.raises(OSError, match="is there already, and no regular file"), replaced_file(tmp_path / name):
            pytest.fail("was begun")
    with pytest.raises(NotADirectoryError), replaced_file(tmp_path / "file" / "below"):
        pytest.fail("was begun")
    assert names(tmp_path) == ["file", "folder", "pipe"]


def test_a_full_disk_names_the_target(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("old")
    with (
        pytest.raises(OSError, match="No space left") as caught,
        replaced_file(tmp_path / "x.json"),
        Path("/dev/full").open("w") as full,
    ):
        full.write("x")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "x.json"))
    assert (tmp_path / "x.json").read_text() == "old"
    assert names(tmp_path) == ["x.json"]


def test_folders_are_made_once(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError) as caught:
        make_folder(tmp_path / "file")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOTDIR, str(tmp_path / "file"))


def test_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    """A system takes any bytes for a name: a left-over's are cut to fit, and whole in its lock, for a sweep to read."""
    name = os.fsdecode(b"caf\xe9" * 50)
    with replaced_folder(tmp_path / name) as new:
        fill(new, "x")
        assert new.parent.name.startswith(".cafcaf")
        assert (new.parent / "lock").read_bytes() == os.fsencode(name)
        shutil.copytree(new.parent, tmp_path / "cut" / new.parent.name)
    assert names(tmp_path) == sorted([name, "cut"])
    [left] = (tmp_path / "cut").iterdir()
    (left / "new").rename(left / "old")
    sweep(tmp_path / "cut", name)
    assert names(tmp_path / "cut") == [name]


def test_what_another_target_left_is_for_its_own_writer(tmp_path: Path) -> None:
    """A writer looks for what was left of its target alone: another's may lie on a disk without locks."""
    other = tmp_path / ".other.simcse-0123456789ab.tmp"
    own = tmp_path / ".best.simcse-0123456789ab.tmp"
    for folder in (other, own):
        folder.mkdir()
    with replaced_folder(tmp_path / "best") as new:
        fill(new, "x")
    assert names(tmp_path) == [other.name, "best"]
