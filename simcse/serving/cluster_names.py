"""Names for the parts of a map: the words that are typical of the texts that lie there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["named_clusters"]

LEAST_TEXTS = 60  # fewer need no names
TEXTS_A_CLUSTER = 50  # at least, on average
MOST_CLUSTERS = 20
WORDS = 2  # of a name
WORD = r"(?u)\b[^\W\d_][\w'’-]+\b"
LEAST = 3  # texts of a cluster that hold a word of its name
COMMON = 0.2  # share of all texts: a word in more of them names nothing


def named_clusters(flat: npt.NDArray[np.float64], texts: Sequence[str]) -> list[dict[str, Any]]:
    """Clusters of n points by k-means: `x`, `y` of the middle, `texts` in it, `name`.

    A name is the words of largest class-based TF-IDF, with a cluster as one document; a cluster without such words is
    left out.

    Args:
        flat: points (n, 2).
        texts: of the points.
    """
    from sklearn.cluster import KMeans
    from sklearn.feature_extraction.text import CountVectorizer

    if len(texts) < LEAST_TEXTS:
        return []
    count = min(MOST_CLUSTERS, max(2, len(texts) // TEXTS_A_CLUSTER))
    labels = KMeans(count, n_init=3, random_state=0).fit_predict(flat)  # (n,)
    reader = CountVectorizer(
        stop_words="english", token_pattern=WORD, max_df=COMMON, min_df=LEAST, binary=True, dtype=np.int32
    )
    try:
        held = reader.fit_transform(texts)  # (n, w): whether a text holds a word
    except ValueError:  # no word is in several texts, but not in too many
        return []
    members = np.arange(count)[:, None] == labels  # (k, n)
    inside = np.asarray(members.astype(np.int32) @ held)  # (k, w): texts of a cluster that hold a word
    # the root makes less of words that are frequent everywhere
    weight = np.sqrt(inside / inside.sum(axis=1, keepdims=True).clip(1))
    weight *= np.log1p(inside.sum() / count / inside.sum(axis=0))
    weight[inside < LEAST] = 0
    words = reader.get_feature_names_out()
    found = []
    for cluster in range(count):
        ranked = [str(words[w]) for w in np.argsort(-weight[cluster], kind="stable") if weight[cluster, w] > 0]
        if name := _distinct(ranked):
            x, y = np.median(flat[members[cluster]], axis=0).tolist()
            texts_in = int(members[cluster].sum())
            found.append({"x": round(x, 4), "y": round(y, 4), "texts": texts_in, "name": ", ".join(name)})
    return found


def _distinct(ranked: Sequence[str]) -> list[str]:
    """The first words, without a second form of one, such as game and games."""
    chosen: list[str] = []
    for word in ranked:
        if len(chosen) == WORDS:
            break
        if not any(word.startswith(other) or other.startswith(word) for other in chosen):
            chosen.append(word)
    return chosen
