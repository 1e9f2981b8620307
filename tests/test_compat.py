"""The drop-in class: the calls of the original package's README, its shapes and defaults, on real weights."""

from __future__ import annotations

import copy
import inspect
import logging
import pickle
import shutil
import sys

import numpy as np
import pytest
import torch

from simcse import ConfigError, DataError, ModelError, SearchError, SentenceEncoder, SimCSE
from simcse.encoder.backends import select

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


def test_weights_are_prepared_once(model, monkeypatch):
    prepared = []
    monkeypatch.setattr(select, "prepare", lambda *args, prepare=select.prepare: prepared.append(1) or prepare(*args))
    for sentence in SENTENCES[:3]:
        model.encode(sentence)
        model.similarity(sentence, SENTENCES)
    assert len(prepared) <= 1


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


# as users of the original package write it: every call, every argument
SCRIPT = """
import sys
import numpy as np
from simcse import SimCSE

name, folder = sys.argv[1:]
simcse = SimCSE(name, device="cpu", num_cells=4, num_cells_in_search=2)
vector = simcse.encode(sentences[0])
assert vector.shape == simcse.encode(sentences[0], keepdim=True)[0].shape and vector.device.type == "cpu"
vectors = simcse.encode(sentences, device="cpu", return_numpy=True, normalize_to_unit=True, batch_size=3, max_length=64)
assert isinstance(vectors, np.ndarray) and abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-5
assert abs(simcse.encode(sentences, normalize_to_unit=False).norm(dim=1) - 1).max() > 1e-2
table = simcse.similarity(queries, sentences, device="cpu")
assert table.shape == (len(queries), len(sentences))
assert simcse.similarity(queries, vectors).shape == table.shape
one = simcse.similarity(queries[0], sentences[0])
assert type(one) is float and abs(one - table[0][0]) < 1e-5

simcse.build_index(sentences, use_faiss=False, batch_size=4)
assert not simcse.is_faiss_index
brute = [simcse.search(query, threshold=0.3, top_k=3) for query in queries]
simcse.build_index(sentences, use_faiss=True, faiss_fast=True, device="cpu")
assert simcse.is_faiss_index
with open(folder + "/sentences.txt", "w") as file:
    file.writelines(sentence + "\\n" for sentence in sentences[:6])
simcse.build_index(folder + "/sentences.txt")
simcse.add_to_index(sentences[6:], batch_size=2)
results = simcse.search(queries, device="cpu", threshold=0.3, top_k=3)
for query, result, before, row in zip(queries, results, brute, table):
    print("Retrieval results for query: {}".format(query))
    for (sentence, score), (_, near) in zip(result, before, strict=True):  # which may order equals otherwise
        assert abs(score - near) < 1e-5 and abs(score - row[sentences.index(sentence)]) < 1e-5
        print("    {}  (cosine similarity: {:.4f})".format(sentence, score))
assert simcse.index["sentences"] == sentences
inputs = simcse.tokenizer(sentences, padding=True, truncation=True, return_tensors="pt")
outputs = simcse.model(**inputs, output_hidden_states=True, return_dict=True)
assert outputs.pooler_output.shape == outputs.last_hidden_state[:, 0].shape
simcse.model.eval().to(simcse.device)
"""


def test_a_script_of_the_original_runs_unchanged(tiny_bert, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["script.py", str(tiny_bert), str(tmp_path)])
    exec(SCRIPT, {"sentences": list(SENTENCES), "queries": QUERIES})
    printed = capsys.readouterr()
    assert printed.out.count("(cosine similarity: ") == 6
    assert "10/10" in printed.err  # the bar, where batches are several


def test_the_pooler_can_be_read_and_set(tiny_bert, minilm, tmp_path, caplog):
    """As in the original: given, or guessed by the name; and what is set holds from the next call on."""
    assert SimCSE(str(minilm)).pooler == "avg"  # the checkpoint says so
    model = SimCSE(str(tiny_bert))
    assert model.pooler == "cls"
    vectors = {}
    for pooler in ("cls", "cls_before_pooler", "avg", "avg_top2", "avg_first_last", "cls"):
        model.pooler = pooler
        assert model.pooler == pooler
        vectors[pooler] = model.encode(SENTENCES[:3])
        fresh = SimCSE(str(tiny_bert), pooler=pooler)
        assert fresh.pooler == pooler
        torch.testing.assert_close(vectors[pooler], fresh.encode(SENTENCES[:3]))
    # of two layers the top two are the first and the last
    assert len({found.numpy().round(4).tobytes() for found in vectors.values()}) == 4
    unsup = shutil.copytree(tiny_bert, tmp_path / "unsup-simcse")
    assert SimCSE(str(unsup)).pooler == "cls_before_pooler"
    model.build_index(SENTENCES)
    with caplog.at_level(logging.WARNING):
        model.pooler = "avg"
    assert "built with pooler='cls': build it anew for pooler='avg'" in caplog.text
    with pytest.raises(ConfigError, match=r"pooler 'max' is not one of"):
        model.pooler = "max"
    assert model.pooler == "avg"


def test_a_head_that_is_not_there_cannot_be_set(tiny_bert, tmp_path):
    SentenceEncoder.from_pretrained(tiny_bert, pooling="mean", dtype="fp32").save_pretrained(tmp_path / "mean")
    model = SimCSE(str(tmp_path / "mean"))
    assert model.pooler == "avg"
    with pytest.raises(ModelError, match="no trained head"):
        model.pooler = "cls"
    model.pooler = "cls_before_pooler"
    assert model.model(**model.tokenizer("a man", return_tensors="pt")).pooler_output is None


@pytest.mark.parametrize("kind", ["tiny_bert", "tiny_roberta"])
def test_the_model_gives_the_heads_output(kind, request):
    """`model(**x).pooler_output` is what `AutoModel` gives; with pooler="cls" it is the vector, too."""
    from transformers import AutoModel

    folder = request.getfixturevalue(kind)
    model = SimCSE(str(folder), pooler="cls")
    inputs = model.tokenizer(SENTENCES[:4], padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        found = model.model(**inputs).pooler_output
        expected = AutoModel.from_pretrained(folder).eval()(**inputs).pooler_output
        as_tuple = model.model(**inputs, return_dict=False)[1]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(as_tuple, found)
    torch.testing.assert_close(model.encode(SENTENCES[:4], normalize_to_unit=False), found, atol=1e-5, rtol=1e-4)
    assert not any(
        "pooler" in key for key in model.encoder.backbone.state_dict()
    )  # no other fingerprint, no other file


def test_a_checkpoint_with_a_head_of_ours_gives_it_too(tiny_bert, tmp_path):
    from simcse.encoder.formats import Projection

    encoder = SentenceEncoder.from_pretrained(tiny_bert, pooling="cls", dtype="fp32")
    encoder.projection = Projection(32)
    encoder.save_pretrained(tmp_path / "best")
    model = SimCSE(str(tmp_path / "best"))
    assert model.pooler == "cls"
    with torch.no_grad():
        found = model.model(**model.tokenizer(SENTENCES[:1], return_tensors="pt")).pooler_output
    torch.testing.assert_close(found, model.encode(SENTENCES[:1], normalize_to_unit=False), atol=1e-5, rtol=1e-4)


def test_without_a_max_length_all_is_taken_that_the_encoder_takes(tiny_bert):
    model = SimCSE(str(tiny_bert), pooler="cls_before_pooler")
    long = "the man sings " * 100
    assert torch.equal(model.encode(long, max_length=None), model.encode(long, max_length=64))
    for wrong in (0, -1, 2.5, "long"):
        with pytest.raises(ConfigError, match="max_length is"):
            model.encode(long, max_length=wrong)


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_model_with_its_index_can_be_copied_and_pickled(tiny_bert, way):
    model = SimCSE(str(tiny_bert))
    model.build_index(SENTENCES)
    copied = way(model)
    assert copied.search(QUERIES, threshold=-1) == model.search(QUERIES, threshold=-1)
    assert copied.pooler == model.pooler
    copied.pooler = "avg"
    copied.encode("a man")
    if way is not copy.copy:  # of which, as in the original, encoder and index are the same objects
        copied.add_to_index(["It rains."])
        assert len(copied.search("It rains.", top_k=20, threshold=-1)) == 11
        assert (len(model.index["sentences"]), len(model.index["index"]), model.pooler) == (10, 10, "cls")
        copied.model.train()
        assert not model.model.training


def test_what_is_done_is_logged(tiny_bert, tmp_path, caplog, capsys):
    unsup = shutil.copytree(tiny_bert, tmp_path / "unsup-simcse")
    (tmp_path / "a.txt").write_text("\n".join(SENTENCES) + "\n")
    with caplog.at_level(logging.INFO, logger="simcse"):
        model = SimCSE(str(unsup))
        model.build_index(str(tmp_path / "a.txt"), batch_size=4)
        model.add_to_index(["It rains."])
    said = [record.getMessage() for record in caplog.records if record.name == "simcse.compat"]
    assert [line.split(str(tmp_path))[0].strip() for line in said] == [
        "", "reading sentences from", "encoding 10 sentences", "building the index", "the index holds 10 sentences",
        "encoding 1 sentences", "the index holds 11 sentences",
    ]  # fmt: skip
    assert "pooler='cls_before_pooler', by its name" in said[0]
    bars = capsys.readouterr().err
    assert bars.count("10/10") == 1  # of several batches; one sentence, where nobody watches, has none
    assert "1/1" not in bars
    model.encode(SENTENCES, batch_size=4)
    model.encode(SENTENCES)
    assert capsys.readouterr().err.count("10/10") == 1


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


def test_it_is_imported_as_from_the_original():
    from simcse import tool

    assert tool.SimCSE is SimCSE


def test_what_is_no_sentence_is_told(model):
    for call in (lambda: model.encode(None), lambda: model.similarity("a", None)):
        with pytest.raises(DataError, match="texts is of type NoneType, expected a text or a list of texts"):
            call()
