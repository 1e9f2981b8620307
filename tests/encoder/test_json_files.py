"""A checkpoint's JSON: whatever lies in its place, or stands in it, is one line that names the file."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simcse import ModelError
from simcse.encoder.json_files import as_json, entry, read_json, read_object, within, write_json

DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda file: None, "missing; the checkpoint is incomplete"),
    "a folder": (lambda file: file.mkdir(), "no plain file; the checkpoint is damaged"),
    "a pipe": (os.mkfifo, "no plain file; the checkpoint is damaged"),
    "a link in a circle": (lambda file: file.symlink_to(file), r"cannot be read \(Too many levels of symbolic links\)"),
    "nested too deep": (lambda file: file.write_text("[" * 100_000), r"no valid JSON \(nested too deep\)"),
    "no UTF-8": (lambda file: file.write_bytes(b'"\xff"'), r"no valid JSON \(.*can't decode"),
    "half of it": (lambda file: file.write_text('{"a": '), r"no valid JSON \(Expecting value"),
    "a number too long": (lambda file: file.write_text("9" * 5000), r"no valid JSON \(Exceeds the limit"),
    "a list": (lambda file: file.write_text("[1, 2]"), r"holds \[1, 2\], expected an object"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_no_object_in_a_file(tmp_path: Path, name: str) -> None:
    damage, told = DAMAGES[name]
    damage(tmp_path / "config.json")
    with pytest.raises(ModelError, match=rf"^{tmp_path}/config\.json: {told}") as caught:
        read_object(tmp_path / "config.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [{}, {"a": [1, None, "é"]}, [], None, 1.5])
def test_what_is_written_is_read(tmp_path: Path, content: Any) -> None:
    write_json(tmp_path / "x.json", content)
    assert read_json(tmp_path / "x.json") == content
    assert (tmp_path / "x.json").read_text().endswith("\n")
    if isinstance(content, dict):
        assert read_object(tmp_path / "x.json") == content


VALUES: list[tuple[Any, type]] = [
    ("x", str), (5, int), (True, bool), ([1], list), ({"a": 1}, dict), (1.5, float),
]  # fmt: skip


@pytest.mark.parametrize("kind", [kind for _, kind in VALUES])
def test_entries_are_of_the_type_that_is_asked_for(kind: type) -> None:
    """`true` is no integer; what is missing or null is the default, where there is one."""
    for value, own in VALUES:
        if own is kind:
            assert entry({"k": value}, "k", kind, Path("f")) is value
        else:
            with pytest.raises(ModelError, match=rf"^f: 'k' is {re.escape(as_json(value))}, expected (a|an|true) "):
                entry({"k": value}, "k", kind, Path("f"), None)
    for settings, found in (({}, "missing"), ({"k": None}, "null")):
        assert entry(settings, "k", kind, Path("f"), "default") == "default"
        assert entry(settings, "k", kind, Path("f"), None) is None
        with pytest.raises(ModelError, match=rf"^f: 'k' is {found}, expected .*; the checkpoint is incomplete$"):
            entry(settings, "k", kind, Path("f"))


def test_long_values_are_cut_to_a_line() -> None:
    assert as_json("x" * 58) == f'"{"x" * 58}"'
    assert as_json("x" * 59) == f'"{"x" * 56}...'
    assert as_json({"é": None}) == '{"é": null}'


def test_names_of_folders_lead_into_the_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "out").symlink_to(tmp_path)
    (folder / "circle").symlink_to(folder / "circle")
    (folder / "in").symlink_to(folder / "1_Pooling")
    for name in ("", "1_Pooling", "in", "not/there"):
        assert within(folder, name, Path("f")) == folder / name
    for name in ("..", "a/../b", "..\\x", "/etc", str(folder), "out", "out/x", "a\0b", "circle", None, 5, ["x"]):
        told = rf"^f: {re.escape(as_json(name))} leads out of the checkpoint, expected the plain name"
        with pytest.raises(ModelError, match=told):
            within(folder, name, Path("f"))
