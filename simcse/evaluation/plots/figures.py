"""The figures of `simcse plot`: which can be drawn from what there is, and the numbers behind each."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from simcse.data.pairs import read_scored_pairs
from simcse.data.readers import read_texts
from simcse.errors import ConfigError, did_you_mean
from simcse.evaluation.geometry import Geometry, evaluate_geometry
from simcse.evaluation.pairs import evaluate_pairs
from simcse.evaluation.plots.runs import has_trajectory, learning_curves, read_run, trajectory
from simcse.evaluation.plots.spaces import Place, alignment_uniformity, cosine_distributions, spectra
from simcse.evaluation.plots.texts import corpus_map, similarity_heat_map
from simcse.evaluation.sts import evaluate_sts, load_task
from simcse.vectors import CachedEncoder, Encode, unit_vectors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["NEEDS", "Drawer", "Sources", "choose"]

NEEDS = {
    "learning": "runs",
    "trajectory": "evaluations",
    "scatter": "pairs",
    "cosines": "pairs",
    "spectrum": "pairs",
    "heat": "sentences",
    "map": "corpus",
}
NO_RUNS = "run folders of simcse train, with a log.jsonl"
NO_EVALUATIONS = (
    "a run with 2 evaluations of alignment and uniformity: simcse train --data.dev FILE and, as in the paper, "
    "--eval_every 10"
)
NO_PAIRS = "data=FILE of (a, b, score), or data_dir (or SIMCSE_DATA)"


@dataclass(frozen=True)
class Sources:
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
        if need == "evaluations":
            return self.has("runs") and any(has_trajectory(read_run(run)) for run in self.runs)
        if need == "pairs":
            return self.data is not None or self.data_dir is not None
        return getattr(self, need.removeprefix("--")) is not None


def choose(kinds: Sequence[str], sources: Sources) -> list[str]:
    """The figures to draw.

    Raises:
        ConfigError: an unknown kind; one that lacks what it needs; nothing is left.
    """
    for kind in kinds:
        if kind not in NEEDS:
            raise ConfigError(f"kinds: found {kind!r}, expected one of {', '.join(NEEDS)}{did_you_mean(kind, NEEDS)}")
        if not sources.has(NEEDS[kind]):
            need = {"runs": NO_RUNS, "evaluations": NO_EVALUATIONS, "pairs": NO_PAIRS}.get(
                NEEDS[kind], f"{NEEDS[kind]}=FILE"
            )
            raise ConfigError(f"kinds={kind} needs {need}")
    chosen = list(kinds) or [kind for kind, need in NEEDS.items() if sources.has(need)]
    if not chosen:
        raise ConfigError(
            f"nothing to draw: name run folders of simcse train, or {NO_PAIRS}, sentences=FILE, corpus=FILE"
        )
    return chosen


class Drawer:
    """Draws; what several figures need is computed once.

    Args:
        sources: where the numbers come from.
        names: of the runs, short ones.
        encoder_of: the encoder of a run.
    """

    def __init__(self, sources: Sources, names: Mapping[str, str], encoder_of: Callable[[str], Encode]) -> None:
        self._sources, self._names, self._encoder_of = sources, names, encoder_of
        self._encoders: dict[str, Encode] = {}
        self._geometries: dict[str, Geometry] = {}

    def draw(self, kinds: Sequence[str]) -> Iterator[tuple[str, Figure]]:
        """(file name, figure) of each kind, a key of `NEEDS`."""
        for kind in kinds:
            if kind == "heat":
                yield from self._of_texts(str(self._sources.sentences), kind, similarity_heat_map)
            elif kind == "map":
                yield from self._of_texts(str(self._sources.corpus), kind, corpus_map)
            else:
                yield kind, self._of_runs(kind)

    def _of_runs(self, kind: str) -> Figure:
        if NEEDS[kind] in ("runs", "evaluations"):
            logs = [read_run(run, name) for run, name in self._names.items()]
            return learning_curves(logs) if kind == "learning" else trajectory(logs)
        spaces = {self._names[run]: space for run, space in self._spaces().items()}
        if kind == "cosines":
            return cosine_distributions({name: space.histograms for name, space in spaces.items()})
        if kind == "spectrum":
            return spectra({name: space.singular_values for name, space in spaces.items()})
        scores, what = self._scores()
        places = [
            Place(name, space.alignment, space.uniformity, score)
            for (name, space), score in zip(spaces.items(), scores, strict=True)
        ]
        return alignment_uniformity(places, what)

    def _of_texts(self, file: str, kind: str, draw: Callable[..., Figure]) -> Iterator[tuple[str, Figure]]:
        """A figure a model."""
        texts = [text for text in itertools.islice(read_texts(file), self._sources.max_texts) if text.strip()]
        for run, name in self._names.items():
            vectors = unit_vectors(self._encode(run), texts, where=lambda i: f"{file}, text {i + 1}", nonzero=True)
            yield kind if len(self._names) == 1 else f"{kind}-{name.replace('/', '-')}", draw(texts, vectors)

    def _encode(self, run: str) -> Encode:
        """Its encoder; each text is encoded once."""
        if run not in self._encoders:
            self._encoders[run] = CachedEncoder(self._encoder_of(run))
        return self._encoders[run]

    def _spaces(self) -> dict[str, Geometry]:
        if not self._geometries:
            source = self._sources
            pairs = read_scored_pairs(source.data) if source.data else load_task("STS-B-dev", str(source.data_dir))[0]
            self._geometries = {run: evaluate_geometry(self._encode(run), pairs) for run in self._names}
        return self._geometries

    def _scores(self) -> tuple[list[float], str]:
        """Spearman x 100 of each run, and on what."""
        if self._sources.data:
            pairs = read_scored_pairs(self._sources.data)
            scores = [evaluate_pairs(self._encode(run), pairs).spearman for run in self._names]
            return scores, Path(pairs.name).name
        averages = []
        for run in self._names:
            tasks = evaluate_sts(self._encode(run), str(self._sources.data_dir)).values()
            averages.append(sum(task.spearman for task in tasks) / len(tasks))
        return averages, "average of 7 STS tasks"
