"""`SentenceEncoder`'s promises about any input."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from simcse import ConfigError, DataError, ModelError, SentenceEncoder
from simcse.encoder.pooling import POOLINGS


@pytest.fixture(scope="module")
def encoder(tiny_bert: Path) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(tiny_bert, pooling="mean", device="cpu", dtype="fp32")


def test_shapes(encoder: SentenceEncoder) -> None:
    assert encoder.encode("the dog runs").shape == (32,)
    assert encoder.encode(["the dog runs"]).shape == (1, 32)
    assert encoder.encode([]).shape == (0, 32)
    assert encoder.encode(["a", "b"]).dtype == np.float32


def test_unit_length_unless_asked(encoder: SentenceEncoder, sentences: list[str]) -> None:
    np.testing.assert_allclose(np.linalg.norm(encoder.encode(sentences), axis=1), 1, atol=1e-6)
    raw = encoder.encode(sentences, normalize=False)
    np.testing.assert_allclose(raw / np.linalg.norm(raw, axis=1, keepdims=True), encoder.encode(sentences), atol=1e-6)


def test_an_empty_text_is_its_special_tokens(encoder: SentenceEncoder) -> None:
    assert np.isfinite(encoder.encode("")).all()
    np.testing.assert_allclose(encoder.encode(""), encoder.encode("   "), atol=1e-6)


def test_a_text_of_100_000_characters_is_its_beginning(tiny_bert: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = SentenceEncoder.from_pretrained(tiny_bert, device="cpu", dtype="fp32")
    long = "dog " * 25_000
    with caplog.at_level(logging.WARNING, logger="simcse"):
        first = encoder.encode([long, "the cat", long])
        encoder.encode([long])
    assert encoder.truncated == 3
    assert [record.getMessage() for record in caplog.records] == [
        "2 texts are longer than max_length=64 tokens and cut (said once; encoder.truncated counts on)"
    ]
    np.testing.assert_allclose(first[0], encoder.encode("dog " * 62), atol=1e-5)  # 62 and two special tokens


class Slow(int):
    """A number in the midst of whose addition other threads run."""

    def __add__(self, other: int) -> Slow:
        time.sleep(0.05)
        return Slow(int(self) + other)


def test_no_cut_text_is_lost_between_threads(tiny_bert: Path) -> None:
    encoder = SentenceEncoder.from_pretrained(tiny_bert, max_length=4, device="cpu", dtype="fp32")
    encoder.encode("dog " * 9)
    encoder.truncated = Slow(0)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(encoder.encode, ["dog " * 9] * 8))
    assert encoder.truncated == 8


@pytest.mark.parametrize("pooling", POOLINGS)
def test_poolings_against_the_plain_formula(tiny_bert: Path, sentences: list[str], pooling: str) -> None:
    """Each sentence alone through the backbone, averaged in a loop over layers and tokens."""
    encoder = SentenceEncoder.from_pretrained(tiny_bert, pooling=pooling, device="cpu", dtype="fp32")
    vectors = encoder.encode(sentences[:8], normalize=False)
    for text, vector in zip(sentences[:8], vectors, strict=True):
        tokens = encoder.tokenizer([text], return_tensors="pt")
        with torch.no_grad():
            states = encoder.backbone(**tokens, output_hidden_states=True).hidden_states
        layers = {"first_last_mean": [1, -1], "top2_mean": [-2, -1]}.get(pooling, [-1])
        length = tokens["input_ids"].shape[1]
        rows = {"cls": [0], "last_token": [length - 1]}.get(pooling, range(length))
        expected = sum(states[layer][0, row] for layer in layers for row in rows) / (len(layers) * len(rows))
        np.testing.assert_allclose(vector, expected.numpy(), atol=1e-5)


def test_dtype_does_not_change_the_fingerprint_but_weights_do(tiny_bert: Path) -> None:
    prints = {
        dtype: SentenceEncoder.from_pretrained(tiny_bert, device="cpu", dtype=dtype).fingerprint
        for dtype in ("fp32", "bf16")
    }
    assert prints["fp32"] == prints["bf16"]
    other = SentenceEncoder.from_pretrained(tiny_bert, device="cpu", dtype="fp32")
    with torch.no_grad():
        next(other.parameters())[0] += 1
    assert other.fingerprint != prints["fp32"]
    assert SentenceEncoder.from_pretrained(tiny_bert, pooling="mean").fingerprint != prints["fp32"]


def test_encoding_leaves_the_mode_as_it_was(encoder: SentenceEncoder, sentences: list[str]) -> None:
    calm = encoder.encode(sentences)
    encoder.train()
    np.testing.assert_array_equal(encoder.encode(sentences), calm)  # no dropout while encoding
    assert encoder.training
    encoder.eval()


def test_similarity(encoder: SentenceEncoder) -> None:
    table = encoder.similarity(["the dog", "a cat"], ["the dog", "a cat", "red street"])
    assert table.shape == (2, 3)
    assert table.max() <= 1
    np.testing.assert_allclose([table[0, 0], table[1, 1]], 1, atol=1e-6)
    assert encoder.similarity("the dog", "a cat").shape == (1, 1)


def test_wrong_input(encoder: SentenceEncoder, tiny_bert: Path) -> None:
    with pytest.raises(DataError, match="text 1 is of type int"):
        encoder.encode(["a", 3])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="batch_size is 0"):
        encoder.encode(["a"], batch_size=0)
    with pytest.raises(ConfigError, match=r"pooling 'men' is not one of .* did you mean 'mean'"):
        SentenceEncoder.from_pretrained(tiny_bert, pooling="men")
    with pytest.raises(ConfigError, match="takes 3 to 64 tokens"):
        SentenceEncoder.from_pretrained(tiny_bert, max_length=65)
    with pytest.raises(ConfigError, match=r"dtype 'fp64' is not one of"):
        SentenceEncoder.from_pretrained(tiny_bert, dtype="fp64")
    with pytest.raises(ConfigError, match="device 'gpu' is not available here"):
        SentenceEncoder.from_pretrained(tiny_bert, device="gpu")


def test_a_vector_that_is_no_number_names_its_text(tiny_bert: Path) -> None:
    encoder = SentenceEncoder.from_pretrained(tiny_bert, device="cpu", dtype="fp32")
    embeddings = encoder.backbone.get_input_embeddings()
    token = encoder.tokenizer.convert_tokens_to_ids("guitar")
    with torch.no_grad():
        embeddings.weight[token] = float("nan")
    with pytest.raises(ModelError, match=r"text 1 \('a guitar'\) is not finite, as are 0 others"):
        encoder.encode(["a dog", "a guitar"])


@pytest.mark.parametrize("texts", [None, 3, 2.5, True, b"text", object()])
def test_what_is_neither_text_nor_list(encoder: SentenceEncoder, texts: object, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"texts is of type \w+, expected a text or a list of texts"):
        encoder.encode(texts)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"texts is of type \w+, expected an iterable of texts"):
        encoder.encode_to(tmp_path / "v.npy", texts)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_half_a_character(encoder: SentenceEncoder) -> None:
    with pytest.raises(DataError, match=r"text 1 holds '\\ud800', half of a character"):
        encoder.encode(["a", "b\ud800"])


def test_a_wrong_text_is_named_by_its_place_among_all(encoder: SentenceEncoder) -> None:
    """Also behind those that other threads take."""
    with pytest.raises(DataError, match="text 1999 is of type int"):
        encoder.encode(["a dog"] * 1999 + [3])  # type: ignore[list-item]


def test_similarity_of_vectors(encoder: SentenceEncoder) -> None:
    vectors = encoder.encode(["the dog", "a cat"])
    for sides in ((vectors, vectors), (vectors,), ("a", vectors[0]), (torch.from_numpy(vectors), "a")):
        with pytest.raises(DataError, match=r"similarity compares texts, found vectors of shape .* by a @ b\.T"):
            encoder.similarity(*sides)
    np.testing.assert_allclose(encoder.similarity(["the dog", "a cat"]), vectors @ vectors.T, atol=1e-6)


def test_a_name_in_place_of_a_backbone(encoder: SentenceEncoder) -> None:
    for arguments in (("all-MiniLM-L6-v2",), (Path("model"),), ("model", encoder.tokenizer), (encoder.backbone,)):
        with pytest.raises(ConfigError, match=r"a backbone and its tokenizer.*SentenceEncoder\.from_pretrained"):
            SentenceEncoder(*arguments)  # type: ignore[arg-type]


def test_maximum_length_is_what_the_backbone_takes(encoder: SentenceEncoder) -> None:
    assert SentenceEncoder(encoder.backbone, encoder.tokenizer).max_length == 64
