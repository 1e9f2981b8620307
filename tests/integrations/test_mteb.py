"""mteb on tasks built here: its scores are those of our own evaluation and of trec_eval's definitions."""

from __future__ import annotations

from collections.abc import Callable

import datasets
import numpy as np
import pytest

from simcse.data.pairs import ScoredPairs
from simcse.errors import ModelError
from simcse.evaluation.pairs import evaluate_pairs
from simcse.evaluation.retrieval import METRICS, Collection, evaluate_retrieval
from simcse.integrations.mteb import MtebEncoder, register

pytestmark = pytest.mark.filterwarnings("ignore")  # mteb's own deprecations, which move from version to version

A = ["a man plays", "a cat sleeps", "two dogs run", "rain in the city", "an old book"]
B = ["a man sings", "a cat sleeps", "the sun", "rain and snow", "a young man"]
SCORES = [3.0, 5.0, 0.2, 2.6, 0.9]


def sts_task() -> object:
    from mteb.abstasks.sts import AbsTaskSTS
    from mteb.abstasks.task_metadata import TaskMetadata

    class LocalSTS(AbsTaskSTS):
        metadata = TaskMetadata(
            name="LocalSTS", description="five pairs", dataset={"path": "local/sts", "revision": "1"}, type="STS",
            category="t2t", modalities=["text"], eval_splits=["test"], eval_langs=["eng-Latn"],
            main_score="cosine_spearman", date=("2024-01-01", "2024-01-02"), domains=[], task_subtypes=[],
            license=None, annotations_creators=None, dialect=[], sample_creation=None, bibtex_citation="",
        )  # fmt: skip

        def load_data(self, **_: object) -> None:
            rows = datasets.Dataset.from_dict({"sentence1": A, "sentence2": B, "score": SCORES})
            self.dataset = datasets.DatasetDict({"test": rows})
            self.data_loaded = True

    return LocalSTS()


def test_mtebs_score_is_ours(word_vectors: Callable) -> None:
    import mteb

    encoder = MtebEncoder(word_vectors, name="runs/x/best", revision="0123")
    result = mteb.evaluate(encoder, sts_task(), cache=None, co2_tracker=False, show_progress_bar=False)
    [task] = result.task_results
    [scores] = task.scores["test"]
    ours = evaluate_pairs(word_vectors, ScoredPairs(A, B, np.array(SCORES), "local"))
    assert 100 * scores["cosine_spearman"] == pytest.approx(ours.spearman, abs=1e-3)
    assert 100 * scores["cosine_pearson"] == pytest.approx(ours.pearson, abs=1e-3)
    assert (result.model_name, result.model_revision) == ("x/best", "0123")


def test_mtebs_retrieval_is_ours_where_queries_and_documents_are_numbered_alike(word_vectors: Callable) -> None:
    """Cranfield's way: both count from 1, and document 1 has nothing to do with query 1 but may answer it."""
    import mteb
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    words = ["man", "cat", "dogs", "rain", "book", "sun", "snow", "piano"]
    rng = np.random.default_rng(0)
    bags = {" ".join(sorted(rng.choice(words, 4))) for _ in range(200)}  # in another order the words give a tie
    texts = rng.permutation(sorted(bags))[:40].tolist()
    documents = {str(i): text for i, text in enumerate(texts, 1)}
    queries = {str(i): " ".join(rng.choice(words, 2, replace=False)) for i in range(1, 9)}
    relevant = {query: {query: 1, str(int(query) + 20): 2} for query in queries}

    class LocalRetrieval(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="LocalRetrieval", description="numbered", dataset={"path": "local/ir", "revision": "1"},
            type="Retrieval", category="t2t", modalities=["text"], eval_splits=["test"], eval_langs=["eng-Latn"],
            main_score="ndcg_at_10", date=("2024-01-01", "2024-01-02"), domains=[], task_subtypes=[],
            license=None, annotations_creators=None, dialect=[], sample_creation=None, bibtex_citation="",
        )  # fmt: skip

        def load_data(self, **_: object) -> None:
            self.queries, self.corpus = {"test": queries}, {"test": documents}
            self.relevant_docs = {"test": relevant}
            self.data_loaded = True

    encoder = MtebEncoder(word_vectors, name="x", revision="1")
    result = mteb.evaluate(encoder, LocalRetrieval(), cache=None, co2_tracker=False, show_progress_bar=False)
    [scores] = result.task_results[0].scores["test"]
    ours = evaluate_retrieval(word_vectors, Collection("local", documents, queries, relevant, "test"))
    others = {"map": "map_at_1000"} | {name: name.replace("@", "_at_") for name in METRICS if "@" in name}
    assert len(others) == len(METRICS)
    for name, theirs in others.items():
        assert ours[name] == pytest.approx(scores[theirs], abs=1e-4), name  # mteb rounds to 5 places


def test_a_real_encoder_is_taken_directly(tiny_bert) -> None:
    import mteb

    from simcse import SentenceEncoder

    encoder = SentenceEncoder.from_pretrained(tiny_bert, pooling="mean", device="cpu", dtype="fp32")
    model = MtebEncoder(encoder.encode, name="me/tiny", revision=encoder.fingerprint)
    assert isinstance(model, mteb.models.EncoderProtocol)
    result = mteb.evaluate(model, sts_task(), cache=None, co2_tracker=False, show_progress_bar=False)
    ours = evaluate_pairs(encoder.encode, ScoredPairs(A, B, np.array(SCORES), "local"))
    [scores] = result.task_results[0].scores["test"]
    assert 100 * scores["cosine_spearman"] == pytest.approx(ours.spearman, abs=1e-3)
    assert (result.model_name, result.model_revision) == ("me/tiny", encoder.fingerprint)


def test_text_is_all_it_takes(word_vectors: Callable) -> None:
    model = MtebEncoder(word_vectors, name="x", revision="1")
    np.testing.assert_allclose(
        model.encode([{"text": ["a", "b"]}, {"text": ["c"]}]), word_vectors(["a", "b", "c"]), 1e-5
    )
    with pytest.raises(ModelError, match="local/x encodes text only; this task has image"):
        model.encode([{"image": [1]}])
    assert float(model.similarity(np.eye(2), np.eye(2))[0, 1]) == 0
    assert model.similarity_pairwise(np.eye(2), np.eye(2)).tolist() == [1, 1]


def test_queries_and_documents_have_their_prompts(tiny_bert) -> None:
    from mteb.types import PromptType

    from simcse import SentenceEncoder

    encoder = SentenceEncoder.from_pretrained(tiny_bert, device="cpu", dtype="fp32", pooling="mean")
    encoder.prompts = {"query": "two people plays the guitar ", "passage": "red snow on the "}
    model, batches = MtebEncoder(encoder.encode, "x", encoder.fingerprint), [{"text": ["a dog", "the cat"]}]
    for prompt_type, expected in (
        (PromptType.query, encoder.encode_query),
        (PromptType.document, encoder.encode_document),
        (None, encoder.encode),
    ):
        found = model.encode(batches, prompt_type=prompt_type, hf_split="test")
        np.testing.assert_array_equal(found, expected(["a dog", "the cat"]))


def test_a_checkpoint_is_a_model_by_its_name(tiny_bert, tmp_path) -> None:
    """Under the last parts of its path, with its own prompts and fingerprint."""
    import mteb

    from simcse import SentenceEncoder

    encoder = SentenceEncoder.from_pretrained(tiny_bert, pooling="mean", dtype="fp32")
    encoder.prompts = {"query": "red snow on the "}
    encoder.save_pretrained(tmp_path / "pets" / "best")
    assert register(str(tmp_path / "pets" / "best"), dtype="fp32") == "pets/best"
    model = mteb.get_model("pets/best")
    assert (model.mteb_model_meta.name, model.mteb_model_meta.revision) == ("pets/best", encoder.fingerprint)
    result = mteb.evaluate(model, sts_task(), cache=None, co2_tracker=False, show_progress_bar=False)
    ours = evaluate_pairs(encoder.encode, ScoredPairs(A, B, np.array(SCORES), "local"))
    assert 100 * result.task_results[0].scores["test"][0]["cosine_spearman"] == pytest.approx(ours.spearman, abs=1e-3)
    found = model.encode([{"text": ["a dog"]}], prompt_type=mteb.types.PromptType.query)
    np.testing.assert_allclose(found, encoder.encode(["a dog"], prompt="red snow on the "), atol=1e-6)


def test_a_missing_package_is_named(named_where_missing) -> None:
    named_where_missing("simcse.integrations.mteb", "mteb.models.abs_encoder", "mteb")
