"""Queries and documents get each their prompt: in the encoder, the index, mining, evaluation, service and commands."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from simcse import ConfigError, SearchError, SearchIndex, SentenceEncoder
from simcse.cli import main

# long ones: the two-layer encoder would hardly notice a word
QUERY, DOCUMENT = "two people plays the guitar with music and ", "red snow on the old mountain river not "


def load(folder: Path, **options: Any) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(folder, device="cpu", dtype="fp32", **options)


def prompted(
    plain: Path, folder: Path, prompts: dict[str, str], *, default: str | None = None, include_prompt: bool = True
) -> Path:
    """A checkpoint of sentence-transformers as hubs have them: no file of ours, prompts under the names given."""
    load(plain, pooling="mean").save_pretrained(folder)
    (folder / "simcse.json").unlink()
    settings = folder / "config_sentence_transformers.json"
    content = json.loads(settings.read_text())
    settings.write_text(json.dumps(content | {"prompts": prompts, "default_prompt_name": default}))
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps(json.loads(pooling.read_text()) | {"include_prompt": include_prompt}))
    return folder


@pytest.fixture
def both(tiny_bert: Path, tmp_path: Path) -> SentenceEncoder:
    return load(prompted(tiny_bert, tmp_path / "both", {"query": QUERY, "document": DOCUMENT}))


def same(a: Any, b: Any) -> bool:
    return bool(np.allclose(a, b, atol=2e-6))


@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize(
    ("prompts", "default"),
    [
        ({"query": QUERY, "document": DOCUMENT}, None),
        ({"query": QUERY, "document": DOCUMENT, "passage": "a dog "}, "query"),
        ({"query": QUERY}, None),  # as in BGE
        ({"clustering": QUERY}, None),
        ({}, None),
    ],
)
def test_vectors_are_those_of_sentence_transformers(
    tiny_bert: Path,
    tmp_path: Path,
    sentences: list[str],
    prompts: dict[str, str],
    default: str | None,
    include_prompt: bool,
) -> None:
    """As the checkpoint is loaded there, and as it is saved here."""
    folder = prompted(tiny_bert, tmp_path / "theirs", prompts, default=default, include_prompt=include_prompt)
    encoder, texts = load(folder), [*sentences[:8], ""]
    saved = encoder.save_pretrained(tmp_path / "ours")
    for other in (SentenceTransformer(str(folder), device="cpu"), SentenceTransformer(str(saved), device="cpu")):
        assert same(encoder.encode_query(texts), other.encode_query(texts))
        assert same(encoder.encode_document(texts), other.encode_document(texts))
    assert same(load(saved).encode_document(texts), encoder.encode_document(texts))
    assert same(encoder.encode_query(texts), encoder.encode(texts, prompt=prompts.get("query")))


@pytest.mark.parametrize(
    ("prompts", "default", "query", "document"),
    [
        ({"query": QUERY, "passage": DOCUMENT}, None, QUERY, DOCUMENT),  # as in E5
        ({"query": QUERY, "passage": DOCUMENT, "corpus": "a dog "}, None, QUERY, DOCUMENT),
        ({"query": QUERY, "corpus": DOCUMENT}, None, QUERY, DOCUMENT),
        ({"instruction": QUERY}, "instruction", QUERY, QUERY),  # one for everything, as `encode` has it
    ],
)
def test_prompts_that_sentence_transformers_passes_over(
    tiny_bert: Path,
    tmp_path: Path,
    sentences: list[str],
    prompts: dict[str, str],
    default: str | None,
    query: str,
    document: str,
) -> None:
    """It names passage and corpus in its docs, but finds an empty `document` first that it has added when it loaded.

    Saved here, where the roles have their own names, such a checkpoint gives the same vectors there.
    """
    encoder = load(prompted(tiny_bert, tmp_path / "theirs", prompts, default=default))
    np.testing.assert_array_equal(encoder.encode_query(sentences), encoder.encode(sentences, prompt=query))
    np.testing.assert_array_equal(encoder.encode_document(sentences), encoder.encode(sentences, prompt=document))
    saved = encoder.save_pretrained(tmp_path / "ours")
    assert load(saved).prompts == prompts
    peer = SentenceTransformer(str(saved), device="cpu")
    assert same(encoder.encode_query(sentences), peer.encode_query(sentences))
    assert same(encoder.encode_document(sentences), peer.encode_document(sentences))


def test_what_is_asked_for_counts_more_than_the_role(both: SentenceEncoder, sentences: list[str]) -> None:
    np.testing.assert_array_equal(both.encode_query(sentences, prompt=""), both.encode(sentences))
    np.testing.assert_array_equal(
        both.encode_query(sentences, prompt_name="document", normalize=False),
        both.encode_document(sentences, normalize=False),
    )
    assert both.encode_query(sentences[0]).shape == (32,)
    assert both.resolve_prompt(role="document") == DOCUMENT
    with pytest.raises(ConfigError, match="role 'qurey' is not one of query, document; did you mean 'query'"):
        both.resolve_prompt(role="qurey")


def test_an_index_encodes_queries_and_texts_each_with_their_prompt(
    both: SentenceEncoder, tmp_path: Path, sentences: list[str]
) -> None:
    """By the encoder, by its method `encode`, which stands for it, and by that with options."""
    documents = both.encode_document(sentences)
    expected = (both.encode_query(sentences[:4]) @ documents.T).max(1)
    for number, form in enumerate((both, both.encode, partial(both.encode, batch_size=3))):
        index = SearchIndex.build(sentences[:60], form)
        index.save(tmp_path / str(number))
        index.add(sentences[60:])
        assert same(index.vectors(range(len(sentences))), documents)
        assert index.info["prompt"] == DOCUMENT
        for opened in (index, SearchIndex.load(tmp_path / str(number), both)):
            found = [hits[0].score for hits in opened.search(sentences[:4], 1)]
            np.testing.assert_allclose(found, expected, atol=1e-5)
        index.optimize(sample_queries=sentences[:4])


def test_the_prompt_of_queries_is_free_and_that_of_documents_is_not(
    both: SentenceEncoder, tmp_path: Path, sentences: list[str]
) -> None:
    SearchIndex.build(sentences, both).save(tmp_path / "index")
    both.prompts["query"] = "a cat "
    SearchIndex.load(tmp_path / "index", both)
    both.prompts["document"] = "a cat "
    with pytest.raises(SearchError, match=r"built by .* with the prompt 'red snow.*gives other vectors"):
        SearchIndex.load(tmp_path / "index", both)
    with pytest.raises(SearchError, match="gives other vectors"):
        SearchIndex.load(tmp_path / "index", partial(both.encode, prompt=""))


def test_a_function_encodes_both(both: SentenceEncoder, sentences: list[str]) -> None:
    index = SearchIndex.build(sentences, lambda texts: both.encode(texts))
    assert same(index.vectors([0, 1]), both.encode(sentences[:2]))
    assert index.search(sentences[:1], 1)[0][0].score > 0.99999


def test_mining_takes_anchors_for_queries(both: SentenceEncoder, sentences: list[str]) -> None:
    from simcse.search.tools.mine import mine_negatives

    pairs = list(zip(sentences[:16], sentences[16:32], strict=True))
    cosines = both.encode_query(sentences[:16]) @ both.encode_document(sentences[16:32]).T
    for anchor, positive, negative in mine_negatives(pairs, both, margin=0.0, duplicate=1.01):
        row = cosines[sentences.index(anchor)]
        below = [score for score in row if score < row[sentences.index(positive) - 16] - 1e-6]
        assert row[sentences.index(negative) - 16] == pytest.approx(max(below), abs=1e-6)


def test_retrieval_is_evaluated_with_roles(both: SentenceEncoder, tmp_path: Path, sentences: list[str]) -> None:
    from simcse.evaluation.evaluators import RetrievalEvaluator
    from simcse.evaluation.suite import evaluate

    queries, corpus = sentences[:20], sentences[20:40]
    cosines = both.encode_query(queries) @ both.encode_document(corpus).T
    ranks = 1 + (cosines > np.diag(cosines)[:, None]).sum(1)
    expected = np.where(ranks <= 10, 1 / ranks, 0).mean()
    for form in (both.encode, partial(both.encode, batch_size=4)):
        assert RetrievalEvaluator(queries, corpus, corpus, "dev")(form)["mrr@10"] == pytest.approx(100 * expected)
    file = tmp_path / "pairs.csv"
    file.write_text("query,document\n" + "\n".join(map(",".join, zip(queries, corpus, strict=True))) + "\n")
    [result] = evaluate(both.encode, [str(file)]).results
    assert result.metrics["mrr@10"] == pytest.approx(expected)


def test_the_service_searches_with_the_prompt_of_queries(both: SentenceEncoder, sentences: list[str]) -> None:
    from starlette.testclient import TestClient

    from simcse.serving.app import create_app

    index = SearchIndex.build(sentences, both)
    query, documents = both.encode_query(sentences[0]), both.encode_document(sentences)
    with TestClient(create_app(index, both), "http://localhost") as client:
        [found] = client.post("/api/search", json={"query": sentences[0], "top_k": 3}).json()["results"]
        scores = [hit["score"] for hit in found["hits"]]
        np.testing.assert_allclose(scores, np.sort(documents @ query)[::-1][:3], atol=1e-4)
        for role, expected in {"query": query, "document": documents[0], None: both.encode(sentences[0])}.items():
            answer = client.post("/api/encode", json={"texts": [sentences[0]], "role": role})
            np.testing.assert_allclose(answer.json()["vectors"], [expected], atol=1e-5)
        refused = client.post("/api/encode", json={"texts": ["a"], "role": "passage"})
        assert (refused.status_code, "role" in refused.json()["detail"]) == (422, True)
        facts = client.get("/api/info").json()["encoder"]
        assert (facts["query_prompt"], facts["document_prompt"]) == (QUERY, DOCUMENT)


def test_texts_of_several_roles_in_one_batch(both: SentenceEncoder, sentences: list[str]) -> None:
    from simcse.serving.answers import Answers, Task
    from simcse.serving.metrics import Metrics

    encoders = {None: both.encode, "query": both.encode_query, "document": both.encode_document}
    answers = Answers(SearchIndex.build(sentences, both), encoders, Metrics(int, int, float))
    roles = ["query", None, "document", "query", "document"]
    found = answers([Task(text, role=role) for text, role in zip([*sentences[:3], *sentences[:2]], roles, strict=True)])
    for answer, text, role in zip(found, [*sentences[:3], *sentences[:2]], roles, strict=True):
        assert same(answer.vector, encoders[role]([text])[0])  # type: ignore[union-attr]


def test_on_the_command_line(
    both: SentenceEncoder, tmp_path: Path, sentences: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("\n".join(sentences) + "\n")
    exact = ["--device", "cpu", "--dtype", "fp32"]
    build = ["index", "build", "--input", str(tmp_path / "a.txt"), "--output", str(tmp_path / "index")]
    build += ["--model", both.name]
    assert main([*build, *exact]) == 0
    capsys.readouterr()
    assert main(["index", "search", str(tmp_path / "index"), sentences[0], "--top_k", "1", *exact]) == 0
    [hit] = json.loads(capsys.readouterr().out)["hits"]
    best = (both.encode_document(sentences) @ both.encode_query(sentences[0])).max()
    assert hit["score"] == pytest.approx(best, abs=1e-4)
    encode = ["encode", str(tmp_path / "a.txt"), "--model", both.name, *exact]
    for role, expected in (("query", both.encode_query(sentences)), ("document", both.encode_document(sentences))):
        assert main([*encode, "--role", role, "--output", str(tmp_path / f"{role}.npy")]) == 0
        assert same(np.load(tmp_path / f"{role}.npy"), expected)
    assert main([*encode, "--role", "qurey", "--output", str(tmp_path / "x.npy")]) == 2
