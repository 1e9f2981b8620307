"""Encoding many texts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from simcse import ConfigError, DataError, ModelError, SentenceEncoder
from simcse.encoder import encode as inference


@pytest.fixture(scope="module")
def encoder(tiny_bert: Path) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(tiny_bert, pooling="mean", device="cpu", dtype="fp32")


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_chunks_and_threads_change_nothing(
    encoder: SentenceEncoder, sentences: list[str], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = encoder.encode(sentences * 20)
    assert torch.get_num_threads() == threads
    monkeypatch.setattr(inference, "TEXTS_PER_CHUNK", 7)
    monkeypatch.setattr(inference, "LEAST_TOKENS", 8)
    np.testing.assert_allclose(encoder.encode(sentences * 2), whole[: 2 * len(sentences)], atol=1e-5)


def test_training_mode_comes_back_even_after_an_error(encoder: SentenceEncoder) -> None:
    encoder.train()
    encoder.encode(["dog"])
    assert encoder.training
    with pytest.raises(ConfigError, match="batch_size is 0: at least 1"):
        encoder.encode(["dog"], batch_size=0)
    with pytest.raises(DataError, match="texts is of type int"):
        encoder.encode_to("nowhere.npy", 3)  # type: ignore[arg-type]
    encoder.eval()


def test_a_vector_that_is_not_finite_is_named(tiny_bert: Path, sentences: list[str]) -> None:
    encoder = SentenceEncoder.from_pretrained(tiny_bert, device="cpu", dtype="fp32")
    with torch.no_grad():
        encoder.backbone.embeddings.word_embeddings.weight[encoder.tokenizer.vocab["piano"]] = torch.inf
    texts = [text for text in sentences if "piano" not in text]
    encoder.encode(texts)
    texts.insert(5, "the piano")
    with pytest.raises(ModelError, match=r"the vector of text 5 \('the piano'\) is not finite, as are 0 others"):
        encoder.encode(texts)
