"""Streaming vectors to a file: killed at any moment, resumed, never mixed."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simcse import ConfigError, DataError, SentenceEncoder
from simcse.encoder import encode as inference
from simcse.encoder.bulk import npy
from simcse.vectors import Matrix

TEXTS = [f"text {i}" for i in range(25)]


def lengths(texts: list[str]) -> Matrix:
    return np.array([[len(text), ord(text[-1])] for text in texts], np.float32).reshape(-1, 2)


def stopped(path: Path) -> Path:
    """Encode all of `TEXTS` but the last; returns where the vectors lie, 20 of them noted."""

    def cut_off() -> Iterator[str]:
        yield from TEXTS[:-1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        npy.encode_to(path, cut_off(), lengths, made_by="e")
    return path.with_name(path.name + ".partial")


@pytest.fixture(scope="module")
def encoder(tiny_bert: Path) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(tiny_bert, pooling="mean", device="cpu", dtype="fp32")


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npy, "TEXTS_PER_CHUNK", 10)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("rows", [0, 5, 40])
def test_a_call_that_starts_anew_forgets_how_far_the_one_before_came(
    encoder: SentenceEncoder, sentences: list[str], tmp_path: Path, rows: int
) -> None:
    """Killed in its first chunk, it leaves a file as long as any, with whatever the disk held in place of vectors."""

    def cut_off(at: int) -> Iterator[str]:
        yield from sentences[:at]
        if at == 3:
            (tmp_path / "vectors.npy.partial").write_bytes(bytes(npy.HEADER + rows * 128))
            os._exit(0)
        raise KeyboardInterrupt

    path = tmp_path / "vectors.npy"
    with pytest.raises(KeyboardInterrupt):
        encoder.encode_to(path, cut_off(35))
    if (child := os.fork()) == 0:
        encoder.encode_to(path, cut_off(3), resume=False)
    os.waitpid(child, 0)
    encoder.encode_to(path, sentences)
    np.testing.assert_allclose(np.load(path), encoder.encode(sentences), atol=1e-6)


def test_what_a_kill_left_beside_a_note_is_cleared_up(
    encoder: SentenceEncoder, sentences: list[str], tmp_path: Path
) -> None:
    (tmp_path / ".vectors.npy.partial.json.simcse-0123456789ab.tmp").mkdir()
    of_another = tmp_path / ".other.npy.simcse-0123456789ab.tmp"
    of_another.mkdir()
    encoder.encode_to(tmp_path / "vectors.npy", [])
    assert set(tmp_path.iterdir()) == {tmp_path / "vectors.npy", of_another}


@pytest.mark.usefixtures("small_chunks")
def test_a_file_equals_encode(encoder: SentenceEncoder, sentences: list[str], tmp_path: Path) -> None:
    path = tmp_path / "deep" / "vectors.npy"
    assert encoder.encode_to(path, iter(sentences)) == len(sentences)
    stored = np.load(path, mmap_mode="r")
    assert stored.dtype == np.float32
    np.testing.assert_allclose(stored, encoder.encode(sentences), atol=1e-6)
    assert [file.name for file in path.parent.iterdir()] == ["vectors.npy"]
    saved = io.BytesIO()
    np.save(saved, stored)
    assert path.read_bytes() == saved.getvalue()
    assert encoder.encode_to(tmp_path / "none.npy", []) == 0
    assert np.load(tmp_path / "none.npy").shape == (0, 32)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("killed_at", [3, 10, 35])
def test_a_killed_call_goes_on(encoder: SentenceEncoder, sentences: list[str], tmp_path: Path, killed_at: int) -> None:
    def cut_off() -> Iterator[str]:
        yield from sentences[:killed_at]
        raise KeyboardInterrupt

    path = tmp_path / "vectors.npy"
    with pytest.raises(KeyboardInterrupt):
        encoder.encode_to(path, cut_off())
    assert not path.exists()
    partial = path.with_name("vectors.npy.partial")
    with partial.open("ab") as file:
        file.write(b"half a row")  # what a kill in the middle of a write leaves
    encoded: list[int] = []
    original = inference.encode

    def counting(texts: list[str], *args: object, **options: object) -> tuple[np.ndarray, int]:
        encoded.append(len(texts))
        return original(texts, *args, **options)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference, "encode", counting)
        encoder.encode_to(path, sentences)
    assert sum(encoded) == len(sentences) - killed_at // 10 * 10
    np.testing.assert_allclose(np.load(path), encoder.encode(sentences), atol=1e-6)


@pytest.mark.usefixtures("small_chunks")
def test_never_mixed_with_other_texts_or_weights(
    encoder: SentenceEncoder, tiny_roberta: Path, sentences: list[str], tmp_path: Path
) -> None:
    def cut_off() -> Iterator[str]:
        yield from sentences[:25]
        raise KeyboardInterrupt

    path = tmp_path / "vectors.npy"
    with pytest.raises(KeyboardInterrupt):
        encoder.encode_to(path, cut_off())
    remedy = "; give the same texts, or start anew with resume=False$"
    for first in ("another", "half of a character: \ud800"):
        with pytest.raises(ConfigError, match=rf"vectors.npy.partial: begun on other texts .*{remedy}"):
            encoder.encode_to(path, [first, *sentences])
    with pytest.raises(ConfigError, match="begun on other texts"):
        encoder.encode_to(path, sentences[:5])
    other = SentenceEncoder.from_pretrained(tiny_roberta, pooling="mean", device="cpu", dtype="fp32")
    with pytest.raises(ConfigError, match="finish with the first, or start anew with resume=False"):
        other.encode_to(path, sentences)
    for quantize in ("int8", "binary"):
        with pytest.raises(ConfigError, match="finish with the first, or start anew with resume=False"):
            encoder.encode_to(path, sentences, quantize=quantize)
    assert other.encode_to(path, sentences, resume=False) == len(sentences)
    np.testing.assert_allclose(np.load(path), other.encode(sentences), atol=1e-6)


@pytest.mark.usefixtures("small_chunks")
def test_a_prompt_by_role_and_arguments_of_other_packages(
    encoder: SentenceEncoder, sentences: list[str], tmp_path: Path
) -> None:
    encoder.prompts = {"query": "the man ", "passage": "the dog "}
    try:
        for role, prompt in (("query", "the man "), ("document", "the dog ")):
            encoder.encode_to(tmp_path / "v.npy", sentences, role=role, show_progress_bar=False)  # type: ignore[arg-type]
            np.testing.assert_allclose(np.load(tmp_path / "v.npy"), encoder.encode(sentences, prompt=prompt), atol=1e-6)
        with pytest.raises(ConfigError, match="role 'doc' is not one of query, document"):
            encoder.encode_to(tmp_path / "v.npy", sentences, role="doc")  # type: ignore[arg-type]
    finally:
        encoder.prompts = {}
    with pytest.raises(ConfigError, match=r"encode_to has no argument convert_to_tensor=True; the vectors are"):
        encoder.encode_to(tmp_path / "v.npy", sentences, convert_to_tensor=True)  # type: ignore[call-arg]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("wrong", [{"rows": -1}, {"rows": 1.5}, {"dimension": 0}, {"texts": 5}, {"cut": 1}])
def test_a_note_that_does_not_fit_is_damaged(tmp_path: Path, wrong: dict[str, Any]) -> None:
    partial = stopped(tmp_path / "v.npy")
    note = tmp_path / "v.npy.partial.json"
    os.truncate(partial, partial.stat().st_size - wrong.pop("cut", 0))
    note.write_text(json.dumps(json.loads(note.read_text()) | wrong))
    told = "v.npy.partial.json: damaged, .* v.npy.partial came; delete both, or start anew with resume=False$"
    with pytest.raises(ConfigError, match=told):
        npy.encode_to(tmp_path / "v.npy", TEXTS, lengths, made_by="e")
    note.write_text(json.dumps({"encoder": "e", "dimension": 2}))  # of no rows: there is nothing to lose
    assert npy.encode_to(tmp_path / "v.npy", TEXTS, lengths, made_by="e") == 25
    assert np.array_equal(np.load(tmp_path / "v.npy"), lengths(TEXTS))


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_what_cannot_be_written_is_named_as_asked_for(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"v{suffix}"
    path.with_name(path.name + ".partial").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        npy.encode_to(path, TEXTS, lengths, made_by="e")
    assert caught.value.filename == str(path)


@pytest.mark.parametrize("texts", ["abc", b"abc", 3])
def test_one_text_is_no_iterable_of_texts(tmp_path: Path, texts: Any) -> None:
    told = f"texts is of type {type(texts).__name__}, expected an iterable of texts"
    with pytest.raises(DataError, match=told):
        npy.encode_to(tmp_path / "v.npy", texts, lengths, made_by="e")


def test_an_array_goes_to_a_stream_as_numpy_writes_it() -> None:
    written, saved = io.BytesIO(), io.BytesIO()
    npy.write_array(written, lengths(TEXTS))
    np.save(saved, lengths(TEXTS))
    assert written.getvalue() == saved.getvalue()
