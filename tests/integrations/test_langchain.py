"""LangChain's own classes over our encoders and indexes."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore

from simcse.errors import SearchError
from simcse.integrations.langchain import SimCSEEmbeddings, SimCSERetriever


def test_queries_and_documents_have_their_prompts(encoder, sentences) -> None:
    embeddings = SimCSEEmbeddings(encoder)
    documents = embeddings.embed_documents(sentences[:5])
    assert isinstance(documents[0][0], float)
    np.testing.assert_allclose(documents, encoder.encode(sentences[:5], prompt="the old city "), atol=1e-6)
    np.testing.assert_allclose(
        embeddings.embed_query("a dog"), encoder.encode("a dog", prompt="read a book "), atol=1e-6
    )
    assert embeddings.embed_documents([]) == []


def test_a_vector_store_finds_what_the_index_finds(encoder, index, sentences) -> None:
    store = InMemoryVectorStore(SimCSEEmbeddings(encoder))
    store.add_documents([Document(text, metadata={"n": n}) for n, text in enumerate(sentences)])
    found = store.similarity_search_with_score("two dogs run", k=4)
    [expected] = index.search("two dogs run", top_k=4)
    assert [document.metadata["n"] for document, _ in found] == [hit.id for hit in expected]
    np.testing.assert_allclose([score for _, score in found], [hit.score for hit in expected], atol=1e-5)
    assert asyncio.run(store.asimilarity_search("two dogs run", k=1))[0].metadata["n"] == expected[0].id


def test_the_retriever_gives_the_hits_as_documents(index) -> None:
    retriever = SimCSERetriever(index=index, top_k=3, where={"lang": "en"})
    assert isinstance(retriever, BaseRetriever)
    found = retriever.invoke("two dogs run")
    [expected] = index.search("two dogs run", top_k=3, where={"lang": "en"})
    assert [(one.page_content, one.id) for one in found] == [(hit.text, str(hit.id)) for hit in expected]
    assert [one.metadata for one in found] == [hit.metadata | {"score": hit.score} for hit in expected]
    assert asyncio.run(retriever.ainvoke("two dogs run")) == found
    chain = retriever | RunnableLambda(lambda documents: documents[0].page_content)
    assert chain.batch(["two dogs run"] * 2) == [expected[0].text] * 2


def test_the_least_score_and_wrong_queries_are_those_of_the_index(index) -> None:
    assert SimCSERetriever(index=index, min_score=1.0).invoke("two dogs run") == []
    with pytest.raises(SearchError, match="unknown field 'land'"):
        SimCSERetriever(index=index, where={"land": "en"}).invoke("two dogs run")
    with pytest.raises(SearchError, match="expected a text that is not blank"):
        SimCSERetriever(index=index).invoke(" ")


def test_a_missing_package_is_named(named_where_missing) -> None:
    named_where_missing("simcse.integrations.langchain", "langchain_core.callbacks", "langchain")
