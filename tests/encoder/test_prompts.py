"""Prompts give sentence-transformers' vectors, stay with the checkpoint, and are part of who the encoder is."""

from __future__ import annotations

import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from simcse import ConfigError, DataError, ModelError, SearchError, SearchIndex, SentenceEncoder

PROMPTS = {"query": "two people: ", "passage": "the red book is ", "nothing": ""}


def load(folder: Path, **options: Any) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(folder, device="cpu", dtype="fp32", **options)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    return np.einsum("nd,nd->n", a, b)


def theirs(
    plain: Path, folder: Path, pooling: str = "mean", *, default: str | None = None, include_prompt: bool = True
) -> Path:
    """A folder as sentence-transformers writes it, with prompts."""
    peer = SentenceTransformer(str(load(plain, pooling=pooling).save_pretrained(folder / "plain")), device="cpu")
    peer.prompts, peer.default_prompt_name = dict(PROMPTS), default
    peer.set_pooling_include_prompt(include_prompt)
    peer.save(str(folder / "theirs"), create_model_card=False)
    return folder / "theirs"


@pytest.mark.parametrize(
    ("kind", "pooling", "include_prompt"),
    [
        ("tiny_bert", "mean", True),
        ("tiny_bert", "mean", False),
        ("tiny_bert", "cls", False),
        ("tiny_roberta", "mean", False),
    ],
)
def test_vectors_are_those_of_sentence_transformers(
    request: pytest.FixtureRequest, tmp_path: Path, sentences: list[str], kind: str, pooling: str, include_prompt: bool
) -> None:
    """With each prompt, the default one, none; as it is loaded there and as it is saved here."""
    plain = request.getfixturevalue(kind)
    folder = theirs(plain, tmp_path, pooling, default="query", include_prompt=include_prompt)
    peer, encoder = SentenceTransformer(str(folder), device="cpu"), load(folder)
    texts = [*sentences[:12], "", "dog " * 100]
    saved = encoder.save_pretrained(tmp_path / "ours")
    again, peer_again = load(saved), SentenceTransformer(str(saved), device="cpu")
    settings: list[dict[str, str]] = [
        {}, {"prompt": ""}, {"prompt": "a cat and "}, {"prompt_name": "passage"}, {"prompt_name": "nothing"},
    ]  # fmt: skip
    vectors = []
    for options in settings:
        vectors.append(encoder.encode(texts, **options))
        for other in (peer, again, peer_again):
            assert cosines(vectors[-1], other.encode(texts, **options)).min() >= 0.99999
    np.testing.assert_array_equal(vectors[0], encoder.encode(texts, prompt_name="query"))
    np.testing.assert_array_equal(vectors[1], vectors[4])
    assert not np.allclose(vectors[0], vectors[1], atol=1e-3)


def test_minilm_with_prompts(minilm: Path, tmp_path: Path, sentences: list[str]) -> None:
    """Punctuation, a prompt that runs into the text's first word, left out of the mean."""
    encoder = load(minilm)
    encoder.prompts, encoder.include_prompt = {"query": "Represent this, for retrieval:"}, False
    folder = encoder.save_pretrained(tmp_path / "ours")
    peer = SentenceTransformer(str(folder), device="cpu")
    texts = [*sentences[:3], "An unusual word: antidisestablishmentarianism.", ""]
    for options in ({"prompt_name": "query"}, {"prompt": "un"}):
        assert cosines(load(folder).encode(texts, **options), peer.encode(texts, **options)).min() >= 0.99999


def test_a_prompt_is_the_same_as_its_text(tiny_bert: Path, sentences: list[str]) -> None:
    encoder = load(tiny_bert, pooling="mean")
    by_hand = encoder.encode([f"two people: {text}" for text in sentences])
    np.testing.assert_array_equal(encoder.encode(sentences, prompt="two people: "), by_hand)
    alone = encoder.encode(f"two people: {sentences[0]}")
    np.testing.assert_array_equal(encoder.encode(sentences[0], prompt="two people: "), alone)


def test_names(tiny_bert: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = load(theirs(tiny_bert, tmp_path))
    assert encoder.prompts == PROMPTS
    assert encoder.default_prompt_name is None
    with pytest.raises(ConfigError, match=r"prompt_name 'qurey' is not one of .*query.*did you mean 'query'"):
        encoder.encode("a", prompt_name="qurey")
    with pytest.raises(ConfigError, match=r"prompt_name 'query' is unknown: this encoder has no named prompts"):
        load(tiny_bert).encode("a", prompt_name="query")
    with pytest.raises(ConfigError, match="prompt is of type int, expected a text"):
        encoder.encode("a", prompt=3)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="text 1 is of type int"):
        encoder.encode(["a", 3], prompt_name="query")  # type: ignore[list-item]
    with caplog.at_level(logging.WARNING, logger="simcse"):  # as in sentence-transformers
        both = encoder.encode("a", prompt="two people: ", prompt_name="passage")
    np.testing.assert_array_equal(both, encoder.encode("a", prompt_name="query"))
    assert "prompt counts" in caplog.text


def test_a_prompt_without_room_behind_it(tiny_bert: Path) -> None:
    """Every text would get the same vector."""
    encoder = load(tiny_bert)
    with pytest.raises(ConfigError, match=r"'dog dog dog dog ' has 6 tokens.* max_length is 6.*raise max_length"):
        encoder.encode(["a", "the"], prompt="dog " * 4, max_length=6)
    a, the = encoder.encode(["a", "the"], prompt="dog " * 4, max_length=7)
    assert not np.allclose(a, the, atol=1e-4)


def test_wrong_prompts(tiny_bert: Path, tmp_path: Path) -> None:
    plain = load(tiny_bert)
    for wrong, message in {"query: ": "'prompts' is", 3: "'prompts' is"}.items():
        with pytest.raises(ConfigError, match=message):
            SentenceEncoder(plain.backbone, plain.tokenizer, prompts=wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="'default_prompt_name' is 'b', expected the name of a prompt"):
        SentenceEncoder(plain.backbone, plain.tokenizer, prompts={"a": "b"}, default_prompt_name="b")
    file = theirs(tiny_bert, tmp_path) / "config_sentence_transformers.json"
    content = json.loads(file.read_text())
    for entries, message in [
        ({"prompts": ["query: "]}, r"'prompts' is \[\"query: \"\], expected an object"),
        ({"prompts": {"query": 3}}, r"prompt 'query' is 3, expected a text"),
        (
            {"default_prompt_name": "qurey"},
            r"'default_prompt_name' is 'qurey', expected the name of a prompt \(.*query",
        ),
        ({"default_prompt_name": 1}, r"'default_prompt_name' is 1, expected a text"),
    ]:
        file.write_text(json.dumps(content | entries))
        with pytest.raises(ModelError, match=rf"config_sentence_transformers\.json: {message}"):
            load(file.parent)


def test_the_default_prompt_is_part_of_the_fingerprint(tiny_bert: Path) -> None:
    encoder = load(tiny_bert, pooling="mean")
    prints = {encoder.fingerprint}
    encoder.prompts = {"query": "two people: ", "passage": "a book: "}
    assert encoder.fingerprint in prints  # a prompt that is not put there unasked changes no vector
    for name in encoder.prompts:
        encoder.default_prompt_name = name
        prints.add(encoder.fingerprint)
    encoder.include_prompt = False
    assert len(prints | {encoder.fingerprint}) == 4


def test_an_index_knows_the_prompt_that_built_it(tiny_bert: Path, tmp_path: Path, sentences: list[str]) -> None:
    encoder = load(tiny_bert, pooling="mean")
    encoder.prompts = {"query": "two people plays the guitar with music and "}
    asked = partial(encoder.encode, prompt_name="query")
    folder = tmp_path / "index"
    SearchIndex.build(sentences, partial(asked, batch_size=3)).save(folder)
    assert SearchIndex.load(folder, asked).info["prompt"] == encoder.prompts["query"]
    with pytest.raises(SearchError, match=r"with the prompt 'two people plays.*gives other vectors"):
        SearchIndex.load(folder, encoder.encode)
    encoder.default_prompt_name = "query"
    SearchIndex.load(folder, encoder.encode)
    assert SearchIndex.build(sentences, load(tiny_bert).encode).info["prompt"] is None


def test_encode_to_goes_on_with_the_same_prompt_only(tiny_bert: Path, tmp_path: Path, sentences: list[str]) -> None:
    encoder = load(tiny_bert, pooling="mean")
    encoder.prompts = {"query": "two people: "}
    path = tmp_path / "v.npy"
    assert encoder.encode_to(path, sentences, prompt_name="query") == len(sentences)
    np.testing.assert_array_equal(np.load(path), encoder.encode(sentences, prompt_name="query"))

    def stops() -> Any:
        yield from sentences * 300
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encoder.encode_to(path, stops(), prompt="a cat ")
    with pytest.raises(ConfigError, match="begun with"):
        encoder.encode_to(path, sentences * 300, prompt="a dog ")
    encoder.encode_to(path, sentences * 300, prompt="a cat ")
    np.testing.assert_allclose(np.load(path)[: len(sentences)], encoder.encode(sentences, prompt="a cat "), atol=1e-6)


def test_on_the_command_line(tiny_bert: Path, tmp_path: Path) -> None:
    from simcse.cli import main

    folder = theirs(tiny_bert, tmp_path)
    (tmp_path / "a.txt").write_text("a dog\nthe cat\n")
    command = ["encode", str(tmp_path / "a.txt"), "--model", str(folder), "--device", "cpu", "--dtype", "fp32"]
    for number, options in enumerate((["--prompt_name", "query"], ["--prompt", PROMPTS["query"]])):
        path = tmp_path / f"{number}.npy"
        assert main([*command, "--output", str(path), *options]) == 0
        expected = load(folder).encode(["a dog", "the cat"], prompt_name="query")
        np.testing.assert_allclose(np.load(path), expected, atol=1e-6)
    assert main([*command, "--output", str(tmp_path / "x.npy"), "--prompt_name", "qurey"]) == 2
    assert not list(tmp_path.glob("x.npy*"))


def test_training_keeps_the_prompts(tiny_bert: Path, tmp_path: Path) -> None:
    from simcse.training.model import ContrastiveModel

    folder = theirs(tiny_bert, tmp_path, default="passage", include_prompt=False)
    model = ContrastiveModel(load(folder), "train")
    kept = load(model.encoder.save_pretrained(tmp_path / "best"))
    assert (kept.prompts, kept.default_prompt_name, kept.include_prompt) == (PROMPTS, "passage", False)
