"""One look for all figures: colours that the colour-blind tell apart, thin axes, labels beside what they name."""

from __future__ import annotations

import functools
import itertools
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from simcse.errors import ConfigError, did_you_mean
from simcse.files import replaced_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "FORMATS",
    "MARKERS",
    "SCORES",
    "check_formats",
    "label_points",
    "legend_below",
    "line_styles",
    "new_figure",
    "save",
    "shortened",
    "styled",
]

P = ParamSpec("P")
R = TypeVar("R")

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette without yellow, which is too pale for a line on white."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
SCORES = "viridis"
"""The colour map of scores: even in lightness, so that it also reads in grey."""
FORMATS = ("png", "svg")
DPI = 200  # of PNG files
MARKER = 3  # pixels of a marker around its point, at the layout's 100 a inch
STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#555555",
    "axes.grid": True,
    "axes.labelcolor": "#222222",
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same figure everywhere
    "font.size": 9,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "svg.hashsalt": "simcse",  # the same file for the same numbers
    "xtick.color": "#555555",
    "ytick.color": "#555555",
}


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Run a drawing function under `STYLE`, whatever the user's own settings are.

    Raises:
        ConfigError: matplotlib is not installed.
    """

    @functools.wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            from matplotlib import style
        except ModuleNotFoundError as error:
            raise ConfigError("figures need matplotlib: pip install 'simcse-kit[plots]'") from error
        with style.context(["default", STYLE]):
            return draw(*args, **kwargs)

    return wrapped


def line_styles(count: int) -> Iterator[dict[str, str]]:
    """Colour and dashes of so many lines, no two of the first 28 alike: solid, then dashed, dotted and mixed."""
    styles = itertools.cycle(itertools.product(("-", "--", ":", "-."), COLOURS))
    return ({"color": colour, "linestyle": dashes} for dashes, colour in itertools.islice(styles, count))


def new_figure(width: float, height: float, *, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A figure in inches that no window knows, and its axes: one, or an array of them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, **options)


def check_formats(formats: Sequence[str]) -> None:
    """Raise a ConfigError for an unknown one."""
    for kind in formats:
        if kind not in FORMATS:
            raise ConfigError(f"formats: found {kind!r}, expected {' or '.join(FORMATS)}{did_you_mean(kind, FORMATS)}")


@styled
def save(figure: Figure, path: str | Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write `path`.png, `path`.svg, ...; the same bytes for the same figure.

    Raises:
        ConfigError: an unknown format.
    """
    check_formats(formats)
    written = []
    for kind in formats:
        target = Path(f"{path}.{kind}")
        with replaced_file(target) as new:
            figure.savefig(new, format=kind, dpi=DPI, metadata={"Date": None} if kind == "svg" else {"Software": None})
        written.append(target)
    return written


def shortened(text: str, width: int) -> str:
    """`text` on one line, cut at a word."""
    return textwrap.shorten(" ".join(text.split()), width, placeholder=" …") or text[:width]


def legend_below(figure: Figure) -> None:
    """Name all curves below the axes, in as many columns as the figure is wide."""
    for columns in range(4, 0, -1):
        legend = figure.legend(loc="outside lower center", ncols=columns)
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


def label_points(axis: Axes, points: Sequence[tuple[float, float]], texts: Sequence[str], **options: Any) -> None:
    """Write texts beside points, each at the first of several places where it meets no other text, point or edge.

    Args:
        axis: with its data drawn and its limits final.
        points: in data units.
        texts: theirs; one that fits nowhere goes where it meets the least.
        options: of the text.
    """
    figure: Any = axis.figure
    figure.draw_without_rendering()
    occupied = axis.transData.transform(list(points))  # (n, 2) pixels
    placed: list[Any] = []
    for point, text in zip(points, texts, strict=True):
        tried: list[tuple[int, int, Any, Any]] = []  # cost, place, text, box
        for offset, ha, va in _places():
            note = axis.annotate(
                text, point, xytext=offset, textcoords="offset points", ha=ha, va=va, **{"fontsize": 8, **options}
            )
            note.set_in_layout(False)
            box = note.get_window_extent().padded(MARKER)
            meets = sum(box.overlaps(other) for other in placed) + sum(box.contains(*other) for other in occupied)
            inside = (
                axis.bbox.x0 <= box.x0 and box.x1 <= axis.bbox.x1 and axis.bbox.y0 <= box.y0 <= box.y1 <= axis.bbox.y1
            )
            tried.append((meets + 2 * (not inside), len(tried), note, box))
            if tried[-1][0] == 0:
                break
        best = min(tried, key=lambda one: one[:2])
        for _, _, note, _ in tried:
            if note is not best[2]:
                note.remove()
        placed.append(best[3])


def _places() -> Iterator[tuple[tuple[float, float], str, str]]:
    """Offsets in points with the alignment that goes with them, near ones first."""
    for d in (6, 14, 24):
        yield (d, 0), "left", "center"
        yield (-d, 0), "right", "center"
        yield (0, d), "center", "bottom"
        yield (0, -d), "center", "top"
        for side, ha in ((d, "left"), (-d, "right")):
            yield (side, d), ha, "bottom"
            yield (side, -d), ha, "top"
