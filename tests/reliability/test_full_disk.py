"""A full disk, a read-only one, a limit of file sizes: one line that names the target, and nothing half-written."""

from __future__ import annotations

import io
import json
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import evaluate
import train
from simcse import SentenceEncoder
from simcse.cli import main
from simcse.console import run
from simcse.encoder.bulk import npy
from simcse.errors import ConfigError

Mount = Callable[[str], Path]
TEXTS = [f"the man number {i} plays the guitar" for i in range(400)]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """A small disk of its own, with the options of a tmpfs; called again it changes them."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = False

    def mounting(options: str) -> Path:
        nonlocal mounted
        options = f"remount,{options}" if mounted else options
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"a disk of a few kilobytes needs the right to mount: {done.stderr.strip()}")
        mounted = True
        return place

    try:
        yield mounting
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """texts.txt, pairs.csv to mine from, scored.tsv."""
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    rows = [f"{a},{b}" for a, b in zip(TEXTS[:50], TEXTS[50:100], strict=True)]
    (tmp_path / "pairs.csv").write_text("\n".join(["anchor,positive", *rows]) + "\n", encoding="utf-8")
    scored = [f"{a}\t{b}\t{i % 6}" for i, (a, b) in enumerate(zip(TEXTS[:60], TEXTS[60:120], strict=True))]
    (tmp_path / "scored.tsv").write_text("\n".join(scored) + "\n", encoding="utf-8")
    return tmp_path


WRITERS = {
    "encode": ("v.npy", "encode {texts} --model {model} --output {target}"),
    "mine": ("o.csv", "mine {pairs} --model {model} --output {target} --margin 0 --count 20 --duplicate 1.1"),
    "postprocess": ("map", "postprocess {texts} --model {model} --output {target}"),
    "export": ("exported", "export {model} --output {target}"),
    "plot": ("plots", "plot {model} --data {scored} --output {target} --kinds spectrum"),
    "build": ("index", "index build --input {texts} --model {model} --output {target}"),
    "evaluate": ("report.json", "evaluate --model {model} --tasks {scored} --output {target}"),
}  # fmt: skip


def started(name: str, target: Path, inputs: Path, model: Path) -> int:
    """The exit status of a command that writes `target`."""
    names = {"texts": "texts.txt", "pairs": "pairs.csv", "scored": "scored.tsv"}
    paths = {key: inputs / file for key, file in names.items()}
    words = [word.format(model=model, target=target, **paths) for word in WRITERS[name][1].split()]
    return run(evaluate.main, words[1:]) if name == "evaluate" else main(words)


@contextmanager
def a_small_file_limit(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("options", ["size=4k", "size=64k,ro"])
@pytest.mark.parametrize("name", WRITERS)
def test_no_room_or_read_only(
    name: str, options: str, mount: Mount, inputs: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = mount(options)
    if name == "evaluate" and "ro" not in options:
        (disk / "filled").write_bytes(b"0" * 4096)
    before = sorted(disk.iterdir())
    target = disk / WRITERS[name][0]
    assert started(name, target, inputs, tiny_bert) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, errors
    assert "Read-only" in errors[0] or "space" in errors[0] or "disk is full" in errors[0]
    assert str(disk) in errors[0]
    if name != "build":  # an index says which of its files; what is begun goes on by the same command
        assert f"error: {target}" in errors[0]
        left = sorted(path for path in disk.iterdir() if path.is_file() or any(path.iterdir()))
        assert left == before


def test_a_full_disk_costs_no_vector(
    mount: Mount, inputs: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """400 rows of 32 float32 need 51,328 bytes: a disk of 32 KiB holds a part, a larger one the rest."""
    monkeypatch.setattr(npy, "TEXTS_PER_CHUNK", 64)
    target = mount("size=32k") / "v.npy"
    assert started("encode", target, inputs, tiny_bert) == 1
    assert f"error: {target}: No space left on device; free some space" in capsys.readouterr().err
    noted = json.loads(target.with_name("v.npy.partial.json").read_text(encoding="utf-8"))
    assert noted["rows"] in (64, 128)
    mount("size=1m")
    assert started("encode", target, inputs, tiny_bert) == 0
    assert [path.name for path in target.parent.iterdir()] == ["v.npy"]
    whole = inputs / "whole.npy"
    assert started("encode", whole, inputs, tiny_bert) == 0
    assert np.array_equal(np.load(target), np.load(whole))


def test_room_for_the_checkpoint_but_not_for_its_graph(
    mount: Mount, inputs: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert started("export", inputs / "plain", inputs, tiny_bert) == 0
    blocks = sum(-(-path.stat().st_size // 4096) + 1 for path in (inputs / "plain").rglob("*"))
    disk = mount(f"size={4 * blocks + 64}k")
    assert main(["export", str(tiny_bert), "--format", "onnx", "--output", str(disk / "out")]) == 1
    assert f"error: {disk / 'out'}: No space left on device; free some space" in capsys.readouterr().err
    assert list(disk.iterdir()) == []


@pytest.mark.parametrize("name", ["encode", "export", "postprocess"])
def test_a_limit_of_file_sizes(name: str, inputs: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = inputs / "out" / WRITERS[name][0]
    with a_small_file_limit(4096):
        status = started(name, target, inputs, tiny_bert)
    assert status == 1
    assert f"error: {target}: File too large; raise the limit" in capsys.readouterr().err
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("output", ["text", "array"])
def test_a_full_standard_output(
    output: str, inputs: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = {
        "text": ["similarity", "a man", "a woman", "--model", str(tiny_bert)],
        "array": ["encode", str(inputs / "texts.txt"), "--model", str(tiny_bert), "--output", "-"],
    }
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(words[output]) == 1
        assert capsys.readouterr().err == (
            "error: standard output: No space left on device; free some space, or name another place\n"
        )


def test_closed_streams(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`simcse ... <&- >&- 2>&-`: Python has no streams then; the status still tells."""
    for words, status in ((["a man", "a woman"], 0), (["--pairs", "-"], 1)):
        for name in ("stdin", "stdout", "stderr"):
            monkeypatch.setattr(sys, name, None)
        assert main(["similarity", *words, "--model", str(tiny_bert)]) == status
        for name in ("stdin", "stdout", "stderr"):
            getattr(sys, name).close()


def test_a_file_in_the_place_of_a_folder(inputs: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = inputs / "texts.txt" / "v.npy"
    assert started("encode", target, inputs, tiny_bert) == 1
    assert f"error: {target}: Not a directory; a part of the path is no folder" in capsys.readouterr().err


def test_an_array_in_a_pipe_is_what_numpy_writes(
    inputs: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    with io.TextIOWrapper(raw) as piped:
        monkeypatch.setattr(sys, "stdout", piped)
        assert main(["encode", str(inputs / "texts.txt"), "--model", str(tiny_bert), "--output", "-"]) == 0
        raw.seek(0)
        vectors = np.load(raw)
        raw.seek(0)
        again = io.BytesIO()
        np.save(again, vectors)
        assert again.getvalue() == raw.read()
    assert vectors.shape == (400, 32)


@pytest.mark.parametrize(
    "content",
    [b"", b"null", b"[]", b"{}", b"\xff", b"[" * 50_000, b'{"encoder": "x", "dimension": 32, "rows": -1, "texts": ""}',
     b'{"encoder": "x", "dimension": 32, "rows": 1000000, "texts": ""}'],
)  # fmt: skip
def test_a_damaged_note_of_progress(
    content: bytes, inputs: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = inputs / "v.npy"
    (inputs / "v.npy.partial").write_bytes(b"0" * 1000)
    (inputs / "v.npy.partial.json").write_bytes(content)
    assert started("encode", target, inputs, tiny_bert) == ConfigError.exit_code
    assert "v.npy.partial.json: damaged, it does not say how far v.npy.partial came" in capsys.readouterr().err
    words = [
        "encode",
        str(inputs / "texts.txt"),
        "--model",
        str(tiny_bert),
        "--output",
        str(target),
        "--resume",
        "false",
    ]
    assert main(words) == 0
    assert np.load(target).shape == (400, 32)


def training(output: Path, inputs: Path, model: Path, *options: str) -> int:
    words = {
        "model.name": model, "model.pooling": "mean", "model.projection": "none", "data.train": inputs / "pairs.csv",
        "data.dev": inputs / "scored.tsv", "output_dir": output, "batch_size": 8, "max_steps": 4, "eval_every": 2,
        "log_every": 1, "precision": "fp32",
    }  # fmt: skip
    return run(train.main, [*(f"--{name}={value}" for name, value in words.items()), *options])


@pytest.mark.parametrize("size", ["4k", "16k", "150k", "400k"])
def test_training_goes_on_when_there_is_room_again(
    size: str, mount: Mount, inputs: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A disk that holds nothing, the options alone, best/ alone, best/ and last/ but not the next ones beside them."""
    disk = mount(f"size={size}")
    assert training(disk / "run", inputs, tiny_bert) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith(f"error: {disk / 'run'}")
    assert "No space left on device; free some space" in errors[0]
    left = {path.name for path in (disk / "run").iterdir()} if (disk / "run").exists() else set()
    assert left <= {"config.yaml", "log.jsonl", "best", "last"}
    for name in left & {"best", "last"}:
        SentenceEncoder.from_pretrained(disk / "run" / name)
    mount("size=8m")
    assert training(disk / "run", inputs, tiny_bert, "--resume=auto") == 0
    assert training(inputs / "undisturbed", inputs, tiny_bert) == 0
    for name in ("best", "last"):
        weights = [(run / name / "model.safetensors").read_bytes() for run in (disk / "run", inputs / "undisturbed")]
        assert weights[0] == weights[1]


def test_training_on_a_read_only_disk(
    mount: Mount, inputs: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = mount("size=8m")
    assert training(disk / "run", inputs, tiny_bert, "--max_steps=2") == 0
    mount("size=8m,ro")
    before = sorted(disk.rglob("*"))
    for output, options in ((disk / "new", []), (disk / "run", ["--resume=auto"]), (disk / "run", [])):
        capsys.readouterr()
        assert training(output, inputs, tiny_bert, "--max_steps=2", *options) == 1
        [error] = capsys.readouterr().err.splitlines()
        assert error.startswith(f"error: {output}")
        assert error.endswith("Read-only file system; name a place that can be written to")
    assert sorted(disk.rglob("*")) == before
