"""Encoders for scikit-learn.

make_pipeline(SentenceVectorizer("runs/x/best"), LogisticRegression()).fit(texts, labels)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from simcse.encoder.model import SentenceEncoder
from simcse.encoder.prompts import with_role
from simcse.errors import ConfigError, DataError

try:
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
except ImportError as error:
    raise ConfigError("this needs scikit-learn: pip install 'simcse-kit[evaluation]'") from error

__all__ = ["SentenceVectorizer"]


class SentenceVectorizer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Texts to unit vectors (n, d). It learns nothing; clones and pickles hold the name of the checkpoint alone.

    Args:
        model, max_length, device, dtype: as in `SentenceEncoder.from_pretrained`.
        role: `query` or `document`, whose prompt is put before each text, if the checkpoint has one; default none.
    """

    def __init__(
        self, model: str, *, role: str | None = None, max_length: int | None = None, device: str = "auto",
        dtype: str = "auto",
    ) -> None:  # fmt: skip
        self.model, self.role, self.max_length, self.device, self.dtype = model, role, max_length, device, dtype

    def fit(self, X: Any = None, y: Any = None) -> SentenceVectorizer:  # noqa: N803
        """Load the checkpoint; `transform` does it, too, where there was no `fit`."""
        self._encoder = SentenceEncoder.from_pretrained(
            self.model, max_length=self.max_length, device=self.device, dtype=self.dtype
        )
        self._prompt = with_role(self.role, self._encoder.prompts, {})
        self._n_features_out = self._encoder.dimension
        return self

    def transform(self, X: Any) -> np.ndarray:  # noqa: N803
        """n texts, as a list, an array (n,) or a column of a table -> (n, d)."""
        if isinstance(X, str) or getattr(X, "ndim", 1) != 1:
            raise DataError(f"found {getattr(X, 'shape', 'a text')}, expected n texts: a list, or a column by its name")
        if not hasattr(self, "_encoder"):
            self.fit()
        return self._encoder.encode(list(X), **self._prompt)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name not in ("_encoder", "_prompt")}
