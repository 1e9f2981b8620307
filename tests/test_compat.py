"""The drop-in class: the calls of the original package's README, its shapes and defaults, on real weights."""

from __future__ import annotations

import inspect
import shutil

import numpy as np
import pytest
import torch

from simcse import ConfigError, DataError, ModelError, SearchError, SentenceEncoder, SimCSE

SENTENCES = [
    "An animal is biting a persons finger.",
    "A woman is reading.",
    "A man is lifting weights in a garage.",
    "A man plays the violin.",
    "A man is eating food.",
    "A man plays the piano.",
    "A panda is climbing.",
    "A man plays a guitar.",
    "A woman is slicing a meat.",
    "A woman is taking a picture.",
]
QUERIES = ["A man is playing music.", "A woman is making a photo."]


@pytest.fixture(scope="module")
def model(minilm):
    return SimCSE(str(minilm))


@pytest.mark.parametrize(
    ("method", "defaults"),
    [
        ("__init__", "device=None num_cells=100 num_cells_in_search=10 pooler=None"),
        ("encode", "device=None return_numpy=False normalize_to_unit=True keepdim=False batch_size=64 max_length=128"),
        ("similarity", "device=None"),
        ("build_index", "use_faiss=None faiss_fast=False device=None batch_size=64"),
        ("add_to_index", "device=None batch_size=64"),
        ("search", "device=None threshold=0.6 top_k=5"),
    ],
)
def test_arguments_have_the_order_and_defaults_of_the_original(method, defaults):
    parameters = list(inspect.signature(getattr(SimCSE, method)).parameters.values())
    assert " ".join(f"{p.name}={p.default}" for p in parameters if p.default is not p.empty) == defaults


def test_encode_shapes_and_types(model):
    assert isinstance(model.encode("A woman is reading."), torch.Tensor)
    assert model.encode("A woman is reading.").shape == (384,)
    assert model.encode("A woman is reading.", keepdim=True).shape == (1, 384)
    assert model.encode(SENTENCES).shape == (10, 384)
    array = model.encode(SENTENCES, return_numpy=True, batch_size=3)
    assert isinstance(array, np.ndarray)
    np.testing.assert_allclose(np.linalg.norm(array, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(array, model.encode(SENTENCES).numpy(), atol=1e-5)
    raw = model.encode(SENTENCES, return_numpy=True, normalize_to_unit=False)
    assert np.linalg.norm(raw, axis=1).std() > 1e-3
    np.testing.assert_allclose(raw / np.linalg.norm(raw, axis=1, keepdims=True), array, atol=1e-5)


def test_max_length_cuts_and_never_exceeds_what_the_encoder_takes(tiny_bert):
    model = SimCSE(str(tiny_bert), pooler="cls_before_pooler")
    long = "the man sings " * 100
    assert torch.equal(model.encode(long), model.encode(long + "and eats"))
    assert not torch.equal(model.encode("the man sings", max_length=4), model.encode("the man sings"))


def test_similarity_shapes(model):
    table = model.similarity(QUERIES, SENTENCES)
    assert table.shape == (2, 10)
    assert table[0].argmax() in (3, 5, 7)
    assert table[1].argmax() == 9
    np.testing.assert_allclose(model.similarity(QUERIES[0], SENTENCES), table[0], atol=1e-5)
    assert model.similarity(QUERIES, SENTENCES[0]).shape == (2, 1)
    one = model.similarity(QUERIES[0], SENTENCES[0])
    assert type(one) is float
    assert one == pytest.approx(table[0, 0], abs=1e-5)
    vectors = model.encode(SENTENCES, return_numpy=True, normalize_to_unit=False)
    np.testing.assert_allclose(model.similarity(QUERIES, vectors), table, atol=1e-5)


@pytest.mark.parametrize("use_faiss", [None, True, False])
def test_search_as_in_the_readme(minilm, use_faiss):
    model = SimCSE(str(minilm))
    model.build_index(SENTENCES, use_faiss=use_faiss)
    results = model.search(QUERIES, threshold=0.3)
    assert len(results) == 2
    assert all(isinstance(pair, tuple) and type(pair[1]) is float for result in results for pair in result)
    assert results[1][0][0] == "A woman is taking a picture."
    table = model.similarity(QUERIES, SENTENCES)
    for row, result in zip(table, results, strict=True):
        expected = [(SENTENCES[i], row[i]) for i in np.argsort(-row)[:5] if row[i] >= 0.3]
        assert [text for text, _ in result] == [text for text, _ in expected]
        np.testing.assert_allclose([score for _, score in result], [score for _, score in expected], atol=1e-5)
    assert model.search(QUERIES[1], threshold=0.3) == results[1]
    assert len(model.search(QUERIES[0], top_k=1, threshold=-1)) == 1
    assert len(model.search(QUERIES[0], top_k=50, threshold=-1)) == 10
    assert model.search(QUERIES[0], threshold=0.999) == []
    assert model.search([]) == []


def test_an_index_from_a_file_and_additions(minilm, tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(SENTENCES[:5]) + "\n")
    (tmp_path / "b.txt").write_text("\n".join(SENTENCES[5:]) + "\n")
    model = SimCSE(str(minilm))
    model.build_index(str(tmp_path / "a.txt"), faiss_fast=True, batch_size=2)
    assert model.index["sentences"] == SENTENCES[:5]
    model.add_to_index(str(tmp_path / "b.txt"))
    model.add_to_index(["It rains."])
    assert model.index["sentences"] == [*SENTENCES, "It rains."]
    assert model.search("It is raining.", top_k=1)[0][0] == "It rains."


def test_the_pooler_says_which_vector(tiny_bert, tmp_path):
    """`cls` is the head of the checkpoint, tanh(W h + b), on the vector that `cls_before_pooler` gives."""
    before = SimCSE(str(tiny_bert), pooler="cls_before_pooler")
    raw = before.encode(SENTENCES[:2], normalize_to_unit=False)
    head = before.model.__class__.from_pretrained(tiny_bert).pooler
    with torch.no_grad():
        expected = torch.tanh(head.dense(raw))
    after = SimCSE(str(tiny_bert), pooler="cls").encode(SENTENCES[:2], normalize_to_unit=False)
    torch.testing.assert_close(after, expected, atol=1e-5, rtol=1e-4)
    # a folder that says nothing: the original package went by its name
    torch.testing.assert_close(SimCSE(str(tiny_bert)).encode(SENTENCES[:2], normalize_to_unit=False), after)
    unsup = shutil.copytree(tiny_bert, tmp_path / "unsup-simcse")
    torch.testing.assert_close(SimCSE(str(unsup)).encode(SENTENCES[:2], normalize_to_unit=False), raw)
    mean = SentenceEncoder.from_pretrained(tiny_bert, pooling="mean", dtype="fp32").encode(SENTENCES[:2])
    np.testing.assert_allclose(SimCSE(str(tiny_bert), pooler="avg").encode(SENTENCES[:2]).numpy(), mean, atol=1e-5)


def test_wrong_use_is_told(model, minilm, tmp_path):
    with pytest.raises(ConfigError, match=r"pooler 'clss' is not one of .*; did you mean 'cls'"):
        SimCSE(str(minilm), pooler="clss")
    with pytest.raises(ModelError, match="nowhere"):
        SimCSE(str(tmp_path / "nowhere"))
    fresh = SimCSE(str(minilm))
    for call in (fresh.search, fresh.add_to_index):
        with pytest.raises(SearchError, match="call build_index first"):
            call(["x"])
    with pytest.raises(DataError, match=r"missing\.txt: no such file"):
        fresh.build_index(str(tmp_path / "missing.txt"))
    with pytest.raises(SearchError, match="no text"):
        fresh.build_index([])
    fresh.build_index(["x"])
    with pytest.raises(SearchError, match="top_k: found 0"):
        fresh.search("x", top_k=0)
