"""`simcse plot`."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simcse.commands.models import encoders_of, load_encode, short_names
from simcse.commands.shared import Dtype
from simcse.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from simcse.vectors import Encode

__all__ = ["plot"]

NEEDS = {
    "learning": "runs",
    "trajectory": "runs",
    "scatter": "pairs",
    "cosines": "pairs",
    "spectrum": "pairs",
    "heat": "--sentences",
    "map": "--corpus",
}
NO_PAIRS = "--data FILE of (a, b, score), or --data_dir (or SIMCSE_DATA)"


def plot(
    runs: list[str],
    *,
    output: str = "plots",
    kinds: list[str] | None = None,
    data: str | None = None,
    data_dir: str | None = None,
    sentences: str | None = None,
    corpus: str | None = None,
    max_texts: int = 2000,
    formats: list[str] | None = None,
    device: str = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Draw runs and the spaces of their encoders.

    learning: loss and score over steps. trajectory: alignment against uniformity at each evaluation. scatter: the same
    of the best encoders, coloured by STS score. cosines: their distribution for each bin of gold scores. spectrum:
    singular values. heat: the similarities of given sentences. map: a corpus on its two principal components.

    Args:
        runs: run folders; for all but learning and trajectory also checkpoints, hub ids, folders of simcse postprocess
        output: folder of the figures
        kinds: which of the above; default all for which there is what they need
        data: file of (a, b, score) for scatter, cosines and spectrum
        data_dir: instead, SentEval's folder or the one above it: STS-B's development set, and the average of seven for
            the colours; default the environment's SIMCSE_DATA
        sentences: file of 2 to 40 sentences, a line each, for heat
        corpus: file of texts for map
        max_texts: the first so many texts of the corpus
        formats: png, svg; default both
        device: auto, cpu, cuda, cuda:1, ...
        dtype: precision of the weights; auto is bf16 where the device computes in it; int8 needs a CPU with AMX or VNNI
    """
    from simcse.evaluation.plots import style

    given = Given(runs, data, data_dir or os.environ.get("SIMCSE_DATA"), sentences, corpus, max_texts)
    chosen = _choose(kinds or [], given)
    formats = formats or list(style.FORMATS)
    if unknown := next((kind for kind in formats if kind not in style.FORMATS), None):
        raise ConfigError(f"--formats: found {unknown!r}, expected {' or '.join(style.FORMATS)}")
    drawer = Drawer(given, device, dtype)
    for kind in chosen:
        for name, figure in getattr(drawer, kind)():
            for path in style.save(figure, Path(output) / name, formats):
                print(f"wrote {path}", file=sys.stderr)


@dataclass(frozen=True)
class Given:
    """What there is to draw from."""

    runs: list[str]
    data: str | None
    data_dir: str | None
    sentences: str | None
    corpus: str | None
    max_texts: int

    def has(self, need: str) -> bool:
        """Whether a need of `NEEDS` is met."""
        if need == "runs":
            return all(
                (Path(run) / "log.jsonl").is_file() or any(Path(run).glob("seed-*/log.jsonl")) for run in self.runs
            )
        if need == "pairs":
            return self.data is not None or self.data_dir is not None
        return getattr(self, need.removeprefix("--")) is not None


def _choose(kinds: list[str], given: Given) -> list[str]:
    """The figures to draw.

    Raises:
        ConfigError: an unknown kind; one that lacks what it needs; nothing is left.
    """
    for kind in kinds:
        if kind not in NEEDS:
            raise ConfigError(f"--kinds: found {kind!r}, expected one of {', '.join(NEEDS)}{did_you_mean(kind, NEEDS)}")
        if not given.has(NEEDS[kind]):
            need = {"runs": "run folders of train.py, with a log.jsonl", "pairs": NO_PAIRS}.get(
                NEEDS[kind], f"{NEEDS[kind]} FILE"
            )
            raise ConfigError(f"--kinds {kind} needs {need}")
    chosen = kinds or [kind for kind, need in NEEDS.items() if given.has(need)]
    if not chosen:
        raise ConfigError(
            f"nothing to draw: name run folders of train.py, or {NO_PAIRS}, --sentences FILE, --corpus FILE"
        )
    return chosen


class Drawer:
    """A method a kind of figure, each giving (file name, figure); what several need is computed once.

    Args:
        given: where the numbers come from.
        device, dtype: of the encoders.
    """

    def __init__(self, given: Given, device: str, dtype: str) -> None:
        self._given, self._device, self._dtype = given, device, dtype
        self._names = dict(zip(given.runs, short_names(given.runs), strict=True))
        self._encoders: dict[str, Encode] = {}
        self._geometries: dict[str, Any] = {}

    def learning(self) -> list[tuple[str, Figure]]:
        from simcse.evaluation.plots.runs import learning_curves

        return [("learning", learning_curves(self._logs()))]

    def trajectory(self) -> list[tuple[str, Figure]]:
        from simcse.evaluation.plots.runs import trajectory

        return [("trajectory", trajectory(self._logs()))]

    def scatter(self) -> list[tuple[str, Figure]]:
        from simcse.evaluation.plots.spaces import Place, alignment_uniformity

        scores, what = self._scores()
        places = [
            Place(self._names[run], space.alignment, space.uniformity, scores[run])
            for run, space in self._spaces().items()
        ]
        return [("scatter", alignment_uniformity(places, what))]

    def cosines(self) -> list[tuple[str, Figure]]:
        from simcse.evaluation.plots.spaces import cosine_distributions

        spaces = self._spaces()
        return [("cosines", cosine_distributions({self._names[run]: spaces[run].histograms for run in spaces}))]

    def spectrum(self) -> list[tuple[str, Figure]]:
        from simcse.evaluation.plots.spaces import spectra

        spaces = self._spaces()
        return [("spectrum", spectra({self._names[run]: spaces[run].singular_values for run in spaces}))]

    def heat(self) -> list[tuple[str, Figure]]:
        from simcse.evaluation.plots.texts import similarity_heat_map

        return self._of_texts(str(self._given.sentences), "heat", similarity_heat_map)

    def map(self) -> list[tuple[str, Figure]]:
        from simcse.evaluation.plots.texts import corpus_map

        return self._of_texts(str(self._given.corpus), "map", corpus_map)

    def _of_texts(self, file: str, kind: str, draw: Callable[..., Figure]) -> list[tuple[str, Figure]]:
        """A figure a model."""
        from simcse.data.readers import read_texts
        from simcse.vectors import unit_vectors

        texts = [text for text in itertools.islice(read_texts(file), self._given.max_texts) if text.strip()]
        figures = []
        for run in self._given.runs:
            vectors = unit_vectors(self._encode(run), texts, where=lambda i: f"{file}, text {i + 1}", nonzero=True)
            name = kind if len(self._given.runs) == 1 else f"{kind}-{self._names[run].replace('/', '-')}"
            figures.append((name, draw(texts, vectors)))
        return figures

    def _logs(self) -> list[Any]:
        from simcse.evaluation.plots.runs import read_run

        return [read_run(run, self._names[run]) for run in self._given.runs]

    def _encode(self, run: str) -> Encode:
        """The encoder of a run, of its first seed where it has several; each text is encoded once."""
        from simcse.vectors import CachedEncoder

        if run not in self._encoders:
            self._encoders[run] = CachedEncoder(load_encode(encoders_of(run)[0], self._device, self._dtype))
        return self._encoders[run]

    def _spaces(self) -> dict[str, Any]:
        from simcse.data.readers import read_scored_pairs
        from simcse.evaluation.geometry import evaluate_geometry
        from simcse.evaluation.sts import load_task

        if not self._geometries:
            given = self._given
            pairs = read_scored_pairs(given.data) if given.data else load_task("STS-B-dev", str(given.data_dir))[0]
            self._geometries = {run: evaluate_geometry(self._encode(run), pairs) for run in given.runs}
        return self._geometries

    def _scores(self) -> tuple[dict[str, float], str]:
        """Spearman x 100 of each run, and on what."""
        from simcse.data.readers import read_scored_pairs
        from simcse.evaluation.pairs import evaluate_pairs
        from simcse.evaluation.sts import evaluate_sts

        if self._given.data:
            pairs = read_scored_pairs(self._given.data)
            scores = {run: evaluate_pairs(self._encode(run), pairs).spearman for run in self._given.runs}
            return scores, Path(pairs.name).name
        averages = {}
        for run in self._given.runs:
            tasks = evaluate_sts(self._encode(run), str(self._given.data_dir)).values()
            averages[run] = sum(task.spearman for task in tasks) / len(tasks)
        return averages, "average of 7 STS tasks"
