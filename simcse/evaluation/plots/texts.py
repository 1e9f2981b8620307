"""What an encoder makes of given texts: a heat map of their similarities, and a map of a corpus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simcse.errors import DataError
from simcse.evaluation.plots.style import SCORES, label_points, new_figure, shortened, styled
from simcse.vectors import principal_plane

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["corpus_map", "similarity_heat_map"]

MOST_SENTENCES = 40  # of a heat map: more cannot be read
WITH_NUMBERS = 14  # sentences up to which each cell says its cosine
NAMED = 14  # points of a map whose text is shown


@styled
def similarity_heat_map(sentences: Sequence[str], vectors: NDArray[Any]) -> Figure:
    """The cosine of each sentence with each other one.

    Args:
        sentences: n of them, 2 to 40.
        vectors: (n, d) of unit length.

    Raises:
        DataError: too few sentences, or more than can be read.
    """
    n = len(sentences)
    if not 2 <= n <= MOST_SENTENCES:
        raise DataError(f"found {n} sentences for a heat map, expected 2 to {MOST_SENTENCES}")
    cosines = np.clip(vectors @ vectors.T, -1, 1)  # (n, n)
    low = min(0.0, float(cosines.min()))
    labels = [f"{shortened(text, 44)}  {i}" for i, text in enumerate(sentences, 1)]
    side = max(1.6, 0.42 * n)  # of the square, in inches
    figure, axis = new_figure(side + 0.075 * max(map(len, labels)) + 0.9, side + 0.5)
    image = axis.imshow(cosines, cmap=SCORES, vmin=low, vmax=1)
    axis.set_yticks(range(n), labels)
    axis.set_xticks(range(n), [str(i) for i in range(1, n + 1)])
    axis.tick_params(length=0, colors="#222222")
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    if n <= WITH_NUMBERS:
        for row in range(n):
            for column in range(n):
                dark = cosines[row, column] < low + 0.6 * (1 - low)
                axis.text(
                    column,
                    row,
                    _two_digits(cosines[row, column]),
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="white" if dark else "black",
                )
    figure.colorbar(image, ax=axis, label="cosine", shrink=0.8)
    return figure


def _two_digits(cosine: float) -> str:
    text = f"{round(float(cosine), 2) + 0:.2f}"  # + 0: no minus before zero
    return "1" if text == "1.00" else text.replace("0.", ".").replace("-", "−")


@styled
def corpus_map(texts: Sequence[str], vectors: NDArray[Any]) -> Figure:
    """Texts on the two principal components of their vectors; texts spread over the map are shown.

    Args:
        texts: n of them, at least 3.
        vectors: (n, d).

    Raises:
        DataError: fewer than three vectors, or all of them equal.
    """
    if len(vectors) < 3 or vectors.shape[1] < 2:
        raise DataError(f"found vectors of shape {vectors.shape} for a map, expected at least (3, 2)")
    plane = principal_plane(vectors)
    at = plane(vectors)  # (n, 2)
    if np.ptp(at, axis=0).max() <= 1e-6:
        raise DataError(f"all {len(vectors)} vectors are equal: there is nothing to map")
    figure, axis = new_figure(7.2, 5.2)
    many = len(at) > 300
    axis.scatter(*at.T, s=5 if many else 18, alpha=0.35 if many else 0.8, color="#0072B2", lw=0, rasterized=many)
    shown = _spread(at, min(NAMED, len(at)))
    axis.scatter(*at[shown].T, s=16, color="#D55E00", lw=0, zorder=3)
    axis.set(
        xlabel=f"first principal component ({100 * plane.shares[0]:.0f} % of the variance)",
        ylabel=f"second principal component ({100 * plane.shares[1]:.0f} %)",
    )
    axis.margins(0.12)
    halo = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8}
    label_points(axis, at[shown].tolist(), [shortened(texts[i], 34) for i in shown], bbox=halo)
    return figure


def _spread(at: NDArray[np.float64], k: int) -> list[int]:
    """k points far from each other: the farthest from the centre, then ever the one farthest from those taken."""
    scaled = at / at.std(axis=0).clip(1e-12)
    distance = np.linalg.norm(scaled, axis=1)
    taken = [int(distance.argmax())]
    nearest = np.linalg.norm(scaled - scaled[taken[0]], axis=1)
    while len(taken) < k:
        taken.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(scaled - scaled[taken[-1]], axis=1))
    return taken
