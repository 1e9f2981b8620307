"""LlamaIndex's own vector index over our encoders."""

from __future__ import annotations

import asyncio
import pickle

import numpy as np
import pytest

pytestmark = pytest.mark.filterwarnings("ignore")  # LlamaIndex's own deprecations


@pytest.fixture(scope="module")
def embedding(checkpoint):
    from simcse.integrations.llama_index import SimCSEEmbedding

    return SimCSEEmbedding(str(checkpoint), options={"dtype": "fp32"})


def test_queries_and_texts_have_their_prompts(embedding, encoder, sentences) -> None:
    texts = encoder.encode(sentences, prompt="the old city ")
    query = encoder.encode("a dog", prompt="read a book ")
    np.testing.assert_allclose(embedding.get_text_embedding_batch(sentences), texts, atol=1e-6)
    np.testing.assert_allclose(embedding.get_text_embedding(sentences[3]), texts[3], atol=1e-6)
    np.testing.assert_allclose(embedding.get_query_embedding("a dog"), query, atol=1e-6)
    np.testing.assert_allclose(asyncio.run(embedding.aget_text_embedding_batch(sentences)), texts, atol=1e-6)
    np.testing.assert_allclose(asyncio.run(embedding.aget_query_embedding("a dog")), query, atol=1e-6)


def test_a_vector_index_finds_what_our_index_finds(embedding, index, sentences) -> None:
    from llama_index.core import VectorStoreIndex
    from llama_index.core.schema import TextNode

    nodes = [TextNode(text=text, id_=str(n)) for n, text in enumerate(sentences)]
    retriever = VectorStoreIndex(nodes, embed_model=embedding).as_retriever(similarity_top_k=4)
    found = retriever.retrieve("two dogs run")
    [expected] = index.search("two dogs run", top_k=4)
    assert [node.node_id for node in found] == [str(hit.id) for hit in expected]
    np.testing.assert_allclose([node.score for node in found], [hit.score for hit in expected], atol=1e-5)


def test_it_is_stored_and_copied_by_the_checkpoints_name(embedding, checkpoint) -> None:
    from simcse.integrations.llama_index import SimCSEEmbedding

    stored = embedding.to_dict()
    assert stored["model_name"] == str(checkpoint)
    for other in (SimCSEEmbedding.from_dict(stored), pickle.loads(pickle.dumps(embedding))):
        np.testing.assert_array_equal(other.get_text_embedding("a dog"), embedding.get_text_embedding("a dog"))


def test_a_missing_package_is_named(named_where_missing) -> None:
    named_where_missing("simcse.integrations.llama_index", "llama_index.core.base.embeddings.base", "llama-index")
