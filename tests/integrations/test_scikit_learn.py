"""scikit-learn's own pipelines, clones and searches over our encoders."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from simcse.errors import ConfigError, DataError, ModelError
from simcse.integrations.scikit_learn import SentenceVectorizer


@pytest.fixture
def vectorizer(checkpoint) -> SentenceVectorizer:
    return SentenceVectorizer(str(checkpoint), dtype="fp32")


def test_any_column_of_texts_gives_the_vectors_of_the_encoder(vectorizer, encoder, sentences) -> None:
    expected = encoder.encode(sentences)
    for texts in (sentences, tuple(sentences), np.array(sentences), np.array(sentences, object), pd.Series(sentences)):
        np.testing.assert_allclose(vectorizer.transform(texts), expected, atol=1e-6)
    np.testing.assert_allclose(vectorizer.fit_transform(sentences, [0] * 64), expected, atol=1e-6)
    assert len(vectorizer.get_feature_names_out()) == encoder.dimension


@pytest.mark.parametrize(("role", "prompt"), [("query", "read a book "), ("document", "the old city ")])
def test_a_role_puts_its_prompt(vectorizer, encoder, role, prompt) -> None:
    found = clone(vectorizer).set_params(role=role).fit_transform(["a dog"])
    np.testing.assert_allclose(found, encoder.encode(["a dog"], prompt=prompt), atol=1e-6)


def test_a_pipeline_learns_is_searched_and_pickled_by_the_checkpoints_name(vectorizer, sentences) -> None:
    labels = [int("dog" in text or "cat" in text) for text in sentences]
    pipeline = make_pipeline(vectorizer, LogisticRegression(C=100))
    search = GridSearchCV(pipeline, {"sentencevectorizer__max_length": [8, 64]}, cv=2).fit(sentences, labels)
    assert search.best_params_["sentencevectorizer__max_length"] in (8, 64)
    fitted = clone(pipeline).fit(sentences, labels)
    packed = pickle.dumps(fitted)
    assert len(packed) < 5000, "the weights are not among it"
    np.testing.assert_array_equal(pickle.loads(packed).predict(sentences), fitted.predict(sentences))


def test_parameters_are_those_of_the_constructor(vectorizer, checkpoint) -> None:
    expected = {"model": str(checkpoint), "role": None, "max_length": None, "device": "auto", "dtype": "fp32"}
    assert vectorizer.get_params() == clone(vectorizer.fit()).get_params() == expected
    assert not hasattr(clone(vectorizer), "_encoder")


def test_a_column_of_a_table(vectorizer, encoder, sentences) -> None:
    table = pd.DataFrame({"text": sentences, "n": range(64)})
    columns = ColumnTransformer([("vectors", vectorizer, "text")], remainder="passthrough")
    found = columns.set_output(transform="pandas").fit_transform(table)
    np.testing.assert_allclose(found.iloc[:, :-1], encoder.encode(sentences), atol=1e-6)
    assert found.columns[0] == "vectors__sentencevectorizer0"


def test_mistakes_are_told(vectorizer, sentences) -> None:
    with pytest.raises(DataError, match=r"found \(64, 1\), expected n texts: a list, or a column"):
        vectorizer.transform(pd.DataFrame({"text": sentences}))
    with pytest.raises(DataError, match="text 1 is of type NoneType"):
        vectorizer.transform(["a dog", None])
    with pytest.raises(ConfigError, match="role 'passage' is not one of query, document"):
        SentenceVectorizer(vectorizer.model, role="passage").fit()
    with pytest.raises(ModelError, match="no-such"):
        SentenceVectorizer("./no-such").fit()
    with pytest.raises(DataError, match="found a text, expected n texts"):
        vectorizer.transform("a dog")


def test_a_missing_package_is_named(named_where_missing) -> None:
    named_where_missing("simcse.integrations.scikit_learn", "sklearn.base", "evaluation")
