"""Calls written for sentence-transformers work where they mean the same, and are told what there is instead."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest

from simcse import ConfigError, DataError, SearchIndex, SentenceEncoder, train

TEXTS = ["a man plays", "rain falls on the city"]


@pytest.fixture(scope="module")
def encoder(tiny_bert: Path) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(tiny_bert, device="cpu", dtype="fp32")


def test_what_means_the_same_works(encoder: SentenceEncoder, tiny_bert: Path) -> None:
    expected = encoder.encode(TEXTS)
    theirs = {
        "normalize_embeddings": True,
        "show_progress_bar": False,
        "convert_to_numpy": True,
        "precision": "float32",
    }
    np.testing.assert_array_equal(encoder.encode(TEXTS, convert_to_tensor=False, device=None, **theirs), expected)
    np.testing.assert_array_equal(encoder.encode(sentences=TEXTS), expected)
    plain = encoder.encode(TEXTS, normalize_embeddings=False)
    np.testing.assert_array_equal(plain, encoder.encode(TEXTS, normalize=False))
    assert not np.allclose(np.linalg.norm(plain, axis=1), 1)
    np.testing.assert_array_equal(encoder.encode("a", prompt="the "), encoder.encode("the a"))
    loaded = SentenceEncoder.from_pretrained(
        model_name_or_path=tiny_bert, torch_dtype="float32", max_seq_length=7, trust_remote_code=False
    )
    assert loaded.max_length == 7


def test_an_index_and_training_know_them_too(encoder: SentenceEncoder) -> None:
    index = SearchIndex.build(texts=TEXTS, encoder=encoder)  # type: ignore[call-arg]
    [hits] = index.search(query="rain", k=1, threshold=-1.0)  # type: ignore[call-arg]
    assert hits == index.search("rain", 1)[0]
    with pytest.raises(ConfigError, match=r"search has no argument filters=\{\}; it accepts queries, top_k, "):
        index.search("rain", filters={})  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match=r"train has no argument data='f\.csv'; it accepts config"):
        train(data="f.csv")  # type: ignore[call-arg]


def test_attributes_that_are_called_otherwise_are_told(encoder: SentenceEncoder) -> None:
    for name, ours in {"save": "save_pretrained", "max_seq_length": "max_length", "fit": "train"}.items():
        assert not hasattr(encoder, name)
        with pytest.raises(AttributeError, match=f"SentenceEncoder has no attribute '{name}'; here it is: .*{ours}"):
            getattr(encoder, name)
    with pytest.raises(AttributeError, match="'max_seq_length'; here it is: max_length"):
        encoder.max_seq_length = 7  # it would change nothing
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        encoder.nothing  # noqa: B018
    assert copy.deepcopy(encoder).fingerprint == encoder.fingerprint


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"convert_to_tensor": True},
            "no argument convert_to_tensor=True; the vectors are a numpy array; torch.from_nu",
        ),
        ({"convert_to_numpy": False}, "torch.from_numpy"),
        ({"precision": "int8"}, "precision='int8'; the vectors are float32"),
        ({"device": "cuda"}, r"encoder.to\(device\) moves it"),
        ({"output_value": "token_embeddings"}, "states of tokens"),
        ({"normalise": True}, "did you mean 'normalize'"),
        ({"normalize": True, "normalize_embeddings": False}, "here it is normalize, which is given, too"),
        ({"zzz": 1}, "; it accepts texts, prompt, "),
    ],
)
def test_what_does_not_is_told(encoder: SentenceEncoder, options: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        encoder.encode(TEXTS, **options)  # type: ignore[arg-type]
    assert str(caught.value).startswith("encode has no argument ")
    with pytest.raises(ConfigError, match="code of a checkpoint is never run"):
        SentenceEncoder.from_pretrained("x", trust_remote_code=True)  # type: ignore[call-arg]


def test_wrong_values_are_told_what_to_do(encoder: SentenceEncoder) -> None:
    with pytest.raises(DataError, match=r"expected a TokenBatch; encoder\.encode\(texts\) gives vectors of texts"):
        encoder("a man")
    with pytest.raises(ConfigError, match="batch_size is '8': at least 1, a whole number"):
        encoder.encode(TEXTS, batch_size="8")  # type: ignore[arg-type]


def test_what_is_missing_is_told() -> None:
    with pytest.raises(ConfigError, match=r"^train: config missing, expected train\(config\)$"):
        train()
    with pytest.raises(ConfigError, match=r"^from_pretrained: name missing"):
        SentenceEncoder.from_pretrained()
    with pytest.raises(ConfigError, match=r"^build: sentences_or_file and encode missing"):
        SearchIndex.build()


def test_attributes_of_the_class_are_told() -> None:
    with pytest.raises(AttributeError, match=r"'load'; here it is: SentenceEncoder\.from_pretrained\(folder\)"):
        SentenceEncoder.load  # noqa: B018
    with pytest.raises(AttributeError, match="did you mean 'from_pretrained'"):
        SentenceEncoder.from_pretraind  # noqa: B018
