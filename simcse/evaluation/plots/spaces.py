"""The shape of embedding spaces, model beside model: alignment and uniformity, cosines by gold score, spectrum."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simcse.errors import DataError
from simcse.evaluation.plots.style import SCORES, label_points, line_styles, new_figure, shortened, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Place", "alignment_uniformity", "cosine_distributions", "spectra"]


@dataclass(frozen=True)
class Place:
    """A model in the plane of alignment and uniformity."""

    name: str
    alignment: float
    uniformity: float
    score: float
    """Spearman x 100, by which it is coloured."""


@styled
def alignment_uniformity(places: Sequence[Place], score_name: str = "average of 7 STS tasks") -> Figure:
    """A point a model, coloured by score, its name and score beside it; lower is better for both axes."""
    figure, axis = new_figure(5.6, 4.0)
    x, y = [place.uniformity for place in places], [place.alignment for place in places]
    scores = [place.score for place in places]
    dots = axis.scatter(x, y, c=scores, cmap=SCORES, s=70, ec="#333333", lw=0.6, zorder=2)
    axis.margins(0.2)
    axis.set(xlabel="uniformity (lower is better)", ylabel="alignment (lower is better)")
    figure.colorbar(dots, ax=axis, label=f"Spearman × 100, {score_name}")
    label_points(axis, list(zip(x, y, strict=True)), [f"{place.name}  {place.score:.1f}" for place in places])
    return figure


@styled
def cosine_distributions(histograms: Mapping[str, Mapping[str, Sequence[int]]]) -> Figure:
    """Densities of the cosine for each bin of gold scores, a panel a model; the line marks the bin's mean.

    A good encoder moves the densities to the right from bin to bin, with little overlap.

    Args:
        histograms: model -> gold bin -> counts in equal bins of cosine from -1 to 1 (`geometry.cosine_histograms`).
    """
    from matplotlib import colormaps
    from matplotlib.ticker import MultipleLocator

    columns = min(len(histograms), 3)
    rows = math.ceil(len(histograms) / columns)
    figure, axes = new_figure(
        1.2 + 2.5 * columns, 0.5 + 2.7 * rows, rows=rows, columns=columns, squeeze=False, sharex=True, sharey=True
    )
    for axis in axes.flat[len(histograms) :]:
        axis.remove()
    shares = [max(counts) / sum(counts) for bins in histograms.values() for counts in bins.values() if sum(counts)]
    left = _lowest(histograms)
    for axis, (name, bins) in zip(axes.flat, histograms.items(), strict=False):
        shades = colormaps[SCORES](np.linspace(0.05, 0.85, len(bins)))
        for height, ((_, counts), shade) in enumerate(zip(bins.items(), shades, strict=True)):
            edges = np.linspace(-1, 1, len(counts) + 1)
            density = np.asarray(counts, dtype=float)
            if not density.sum():
                continue
            middles = (edges[1:] + edges[:-1]) / 2
            mean = float(np.average(middles, weights=density))
            curve = height + 1.9 * density / density.sum() / max(shares)  # the highest of all is 1.9 rows high
            x, curve = np.concatenate([[-1], middles, [1]]), np.pad(curve, 1, mode="edge")
            order = len(bins) - height  # lower rows in front
            axis.fill_between(x, height, curve, color=shade, alpha=0.85, lw=0, zorder=2 * order)
            axis.plot(x, curve, color="white", lw=0.8, zorder=2 * order)
            axis.plot([mean, mean], [height, height + 0.35], color="black", lw=1.2, zorder=2 * order + 1)
        axis.set_yticks(range(len(bins)), [label.replace("-", "–") for label in bins])
        axis.set_title(shortened(name, 32))
        axis.set_xlim(left, 1)
        axis.xaxis.set_major_locator(MultipleLocator(0.5))
        axis.tick_params(labelbottom=True)
    layout: Any = figure.get_layout_engine()
    layout.set(wspace=0.06)  # the last tick of a panel and the first of the next need room
    figure.supxlabel("cosine of the pair", fontsize=9)
    figure.supylabel("gold score", fontsize=9)
    return figure


def _lowest(histograms: Mapping[str, Mapping[str, Sequence[int]]]) -> float:
    """Where the axis of cosines begins: the last of -1, -0.5 and 0 that leaves none out."""
    every = [counts for bins in histograms.values() for counts in bins.values() if any(counts)]
    lowest = min((2 * int(np.flatnonzero(counts)[0]) / len(counts) - 1 for counts in every), default=0.0)
    return max(-1.0, min(0.0, math.floor(2 * lowest) / 2))


@styled
def spectra(values: Mapping[str, NDArray[np.float64] | Sequence[float]]) -> Figure:
    """Singular values, each model's divided by its largest, over their rank; a flat line uses all its directions.

    Raises:
        DataError: a model without a positive singular value.
    """
    figure, axis = new_figure(6.6, 3.4)
    lowest = 1.0
    for (name, singular), style in zip(values.items(), line_styles(len(values)), strict=True):
        falling = np.asarray(singular, dtype=float)
        if not len(falling) or falling[0] <= 0:
            raise DataError(f"{name}: found no positive singular value, expected a space of at least one direction")
        relative = falling / falling[0]
        lowest = min(lowest, float(relative[max(0, math.ceil(0.98 * len(relative)) - 1)]))
        axis.plot(np.arange(1, len(relative) + 1), relative, label=name, **style)
    axis.set(xlabel="rank of the singular value", ylabel="singular value / largest", yscale="log")
    axis.set_ylim(bottom=max(lowest / 2, 1e-6), top=1.3)
    if len(values) > 1:
        figure.legend(loc="outside right center")
    return figure
