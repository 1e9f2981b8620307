"""Compiled code is loaded only from a place that is the user's alone, and only whole."""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from simcse.encoder.backends.native import compile as compiling
from simcse.encoder.backends.native.compile import cache_folder, compiled

OPTIONS = ("-shared", "-fPIC")
SOURCE = """
static int pages[1 << 16] = {1};  // in the file, so that a library cut short lacks them
extern "C" int answer() { pages[1 << 15] = 41; return pages[0] + pages[1 << 15]; }
"""
needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files to somebody else")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder, not made yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "simcse"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A library whose one function returns 42."""
    file = tmp_path / "answer.cpp"
    file.write_text(SOURCE, encoding="utf-8")
    return file


def built(source: Path) -> Path:
    path = compiled([source], OPTIONS)
    assert path is not None
    return path


def answer(source: Path) -> subprocess.CompletedProcess[str]:
    """What a process of its own gets: a library that cannot be paged in would kill it."""
    code = (
        "import ctypes, sys; from pathlib import Path; from simcse.encoder.backends.native.compile import compiled;"
        f"print(ctypes.CDLL(str(compiled([Path(sys.argv[1])], {OPTIONS}))).answer())"
    )
    return subprocess.run([sys.executable, "-c", code, str(source)], capture_output=True, text=True, check=False)


@needs_compiler
def test_compiled_once_for_the_user_alone(folder: Path, source: Path) -> None:
    before = os.umask(0)
    try:
        path = built(source)
    finally:
        os.umask(before)
    assert ctypes.CDLL(str(path)).answer() == 42
    assert path.parent == folder
    assert [file.stat().st_mode & 0o777 for file in (folder, path)] == [0o700, 0o700]
    written = path.stat().st_mtime_ns
    assert built(source) == path
    assert path.stat().st_mtime_ns == written
    assert list(folder.iterdir()) == [path]


@needs_compiler
def test_another_source_is_another_library(folder: Path, source: Path) -> None:
    first = built(source)
    source.write_text(SOURCE.replace("41", "40"), encoding="utf-8")
    second = built(source)
    assert [ctypes.CDLL(str(path)).answer() for path in (first, second)] == [42, 41]


@needs_compiler
def test_other_options_are_another_library(folder: Path, source: Path) -> None:
    """As for another instruction set."""
    other = compiled([source], (*OPTIONS, "-O1"))
    assert other is not None
    assert other != built(source)


@needs_compiler
@pytest.mark.parametrize("size", [0, 4096, 100_000])
def test_cut_short_it_is_made_anew(folder: Path, source: Path, size: int) -> None:
    """Loaded as it is, a library of 4,096 bytes ends the process by SIGBUS."""
    path = built(source)
    whole = path.read_bytes()
    with path.open("r+b") as file:
        file.truncate(size)
    done = answer(source)
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
    assert path.read_bytes() == whole


@needs_compiler
def test_a_bit_flipped_is_made_anew(folder: Path, source: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = built(source)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert built(source) == path
    assert path.read_bytes() == whole
    assert f"{path} is damaged, a link, or writable by others: not loaded" in caplog.text


@needs_compiler
def test_a_file_that_others_can_write_is_not_loaded(folder: Path, source: Path, tmp_path: Path) -> None:
    path = built(source)
    path.chmod(0o777)
    assert built(source).stat().st_mode & 0o777 == 0o700
    path.rename(tmp_path / "elsewhere.so")
    path.symlink_to(tmp_path / "elsewhere.so")
    assert not built(source).is_symlink()


@needs_compiler
@as_root
def test_a_file_of_somebody_else_is_not_loaded(folder: Path, source: Path) -> None:
    path = built(source)
    os.chown(path, 12345, -1)
    assert built(source).stat().st_uid == 0


@needs_compiler
def test_a_folder_that_others_could_write_is_closed(folder: Path, source: Path) -> None:
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    built(source)
    assert folder.stat().st_mode & 0o777 == 0o700


def unsafe(source: Path, caplog: pytest.LogCaptureFixture) -> str:
    """The one line that says why nothing is loaded."""
    with caplog.at_level(logging.INFO, "simcse"):
        assert compiled([source], OPTIONS) is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    return record.getMessage()


def test_a_link_as_folder(folder: Path, source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder.parent.mkdir()
    folder.symlink_to(tmp_path)
    assert f"{folder} is a link, so no library is loaded from it; name a folder" in unsafe(source, caplog)


@as_root
def test_a_folder_of_somebody_else(folder: Path, source: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder.mkdir(parents=True)
    os.chown(folder, 12345, -1)
    assert f"{folder} is owned by user 12345, not by 0" in unsafe(source, caplog)


def test_a_folder_above_that_others_can_write(folder: Path, source: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They could put a folder of theirs in its place between the check and the loading."""
    folder.parent.mkdir()
    folder.parent.chmod(0o777)
    line = unsafe(source, caplog)
    assert f"{folder.parent} can be written by others than user" in line
    assert "mode 777" in line


@as_root
def test_a_folder_above_that_a_group_can_write(folder: Path, source: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The user's own group, which some systems let write by default, is the user."""
    folder.parent.mkdir()
    folder.parent.chmod(0o775)
    assert cache_folder() == folder
    os.chown(folder.parent, -1, 12345)
    assert "mode 775" in unsafe(source, caplog)


@as_root
def test_a_folder_above_of_somebody_else(folder: Path, source: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder.parent.mkdir()
    os.chown(folder.parent, 12345, -1)
    assert "(owner 12345, mode 755)" in unsafe(source, caplog)


@needs_compiler
def test_a_sticky_folder_above_is_safe(folder: Path, source: Path) -> None:
    folder.parent.mkdir()
    folder.parent.chmod(0o1777)
    assert built(source).parent == folder


@needs_compiler
def test_a_link_on_the_way_is_followed_once(folder: Path, source: Path, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    folder.parent.symlink_to(tmp_path / "scratch")
    assert built(source).parent == tmp_path / "scratch" / "simcse"


def test_a_cache_folder_that_cannot_be_written(folder: Path) -> None:
    folder.parent.write_text("a file where the folder should be", encoding="utf-8")
    found = cache_folder()
    assert found.is_dir()
    assert found.stat().st_mode & 0o777 == 0o700
    assert found.parent != folder.parent


@needs_compiler
@as_root
def test_a_folder_that_is_read_only(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a user whom modes bind: a library that lies there is loaded, else one is compiled for the process."""
    with tempfile.TemporaryDirectory(dir="/tmp") as place:  # pytest's own folders are root's alone
        parent = Path(place)
        parent.chmod(0o755)
        own = Path(shutil.copy(source, parent / "answer.cpp"))
        own.chmod(0o644)
        cache = parent / "cache"
        cache.mkdir()
        os.chown(cache, NOBODY, NOBODY)
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
        assert as_nobody(lambda: built(own)) == "42"
        (library,) = (cache / "simcse").iterdir()
        (cache / "simcse").chmod(0o500)
        with monkeypatch.context() as patch:
            patch.setattr(compiling, "run", lambda *arguments: b"compiled anew")
            assert as_nobody(lambda: built(own)) == "42"
        library.unlink()
        assert as_nobody(lambda: built(own)) == "42"
        assert not list((cache / "simcse").iterdir())


NOBODY = 65534


def as_nobody(path: Callable[[], Path]) -> str:
    """What a library answers to a process of that user; "" if it fails."""
    reader, writer = os.pipe()
    if child := os.fork():
        os.close(writer)
        os.waitpid(child, 0)
        with os.fdopen(reader) as answers:
            return answers.read()
    try:
        compiling.process_folder.cache_clear()  # root's
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        os.write(writer, str(ctypes.CDLL(str(path())).answer()).encode())
    finally:
        os._exit(0)


@needs_compiler
def test_a_kill_while_writing_leaves_no_library(folder: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing stands under the name, and the next process compiles."""

    def killed(file: Path, content: bytes) -> int:
        with file.open("wb") as out:
            out.write(content[:1000])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(compiling.Path, "write_bytes", killed)
        with pytest.raises(KeyboardInterrupt):
            compiled([source], OPTIONS)
    assert not list(folder.glob("*.so"))
    assert ctypes.CDLL(str(built(source))).answer() == 42


def test_no_compiler_at_all(
    folder: Path, source: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(folder))
    with caplog.at_level(logging.INFO, "simcse"):
        assert compiled([source], OPTIONS) is None
    assert "no C++ compiler (c++, g++, clang++, or what CXX names)" in caplog.text
