"""What was measured of each model, and the page and figures made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from simcse.evaluation.geometry import Geometry, evaluate_geometry
from simcse.evaluation.items import pair_items
from simcse.evaluation.plots.runs import learning_curves, read_run, trajectory
from simcse.evaluation.plots.spaces import Place, alignment_uniformity, cosine_distributions, spectra
from simcse.evaluation.plots.style import save
from simcse.evaluation.plots.texts import similarity_heat_map
from simcse.evaluation.report import versions
from simcse.evaluation.statistics import Comparison, Interval, compare_encoders, mean_interval
from simcse.evaluation.sts import SEVEN, StsScore, load_task, score_sts
from simcse.files import replaced_file
from simcse.vectors import CachedEncoder, Encode, unit_vectors

__all__ = ["Contents", "write_page"]

SENTENCES = [
    "A man is playing a guitar.",
    "Someone plays an instrument.",
    "Nobody is playing music.",
    "A woman slices an onion.",
    "A lady is cutting vegetables.",
    "Shares fell sharply on Monday.",
    "The stock market dropped at the start of the week.",
    "A dog runs through the snow.",
    "Two puppies play outside in winter.",
]


@dataclass(frozen=True)
class Contents:
    """Everything the page says."""

    what: Mapping[str, str]
    scores: Mapping[str, list[dict[str, StsScore]]]
    """A seed each."""
    spaces: Mapping[str, Geometry]
    against_raw: Mapping[str, Comparison]
    runs: Mapping[str, Path]
    vectors: Mapping[str, Any]
    """Of `SENTENCES`."""

    @classmethod
    def measure(
        cls, encoders: Mapping[str, Sequence[Encode]], data_dir: Path, runs: Mapping[str, Path], what: Mapping[str, str]
    ) -> Contents:
        """Encode each sentence once an encoder, and measure; the first model is what the others are compared with."""
        once = {name: [CachedEncoder(encode) for encode in seeds] for name, seeds in encoders.items()}
        tasks = {task: load_task(task, data_dir) for task in SEVEN}
        items = [pair_items(task, subsets) for task, subsets in tasks.items()]
        [dev] = load_task("STS-B-dev", data_dir)
        raw = next(iter(once))
        return cls(
            what=what,
            scores={name: [score_sts(encode, tasks) for encode in seeds] for name, seeds in once.items()},
            spaces={name: evaluate_geometry(seeds[0], dev) for name, seeds in once.items()},
            against_raw={
                name: compare_encoders(once[raw], seeds, items) for name, seeds in once.items() if name != raw
            },
            runs=runs,
            vectors={name: unit_vectors(seeds[0], SENTENCES) for name, seeds in once.items()},
        )

    def average(self, name: str) -> Interval:
        """Of the seven tasks, over the seeds."""
        return mean_interval([fmean(score.spearman for score in seed.values()) for seed in self.scores[name]])


def write_page(contents: Contents, folder: Path) -> list[Path]:
    """Write report.md and figures/report-*.svg."""
    written = []
    for name, figure in figures(contents).items():
        written += save(figure, folder / "figures" / f"report-{name}", ["svg"])
    page = folder / "report.md"
    with replaced_file(page) as new:
        new.write_text(markdown(contents), encoding="utf-8")
    return [*written, page]


def figures(contents: Contents) -> dict[str, Any]:
    """Name -> figure."""
    spaces = contents.spaces
    runs = [read_run(folder, name) for name, folder in contents.runs.items()]
    places = [
        Place(name, space.alignment, space.uniformity, contents.average(name).mean) for name, space in spaces.items()
    ]
    first, *_, last = contents.vectors
    return {
        "scatter": alignment_uniformity(places),
        "trajectory": trajectory(runs),
        "learning": learning_curves(runs),
        "cosines": cosine_distributions({name: space.histograms for name, space in spaces.items()}),
        "spectrum": spectra({name: space.singular_values for name, space in spaces.items()}),
        "heat-before": similarity_heat_map(SENTENCES, contents.vectors[first]),
        "heat-after": similarity_heat_map(SENTENCES, contents.vectors[last]),
    }


def markdown(contents: Contents) -> str:
    """The page."""
    raw = next(iter(contents.scores))
    verdicts = "\n".join(
        f"- **{name}** against {raw}: {found.in_words(raw, name).split(' Seeds:')[0]}"
        for name, found in contents.against_raw.items()
    )
    seeds = max(map(len, contents.scores.values()))
    used = ", ".join(f"{name} {version}" for name, version in versions().items())
    return f"""# Raw, whitened, through a flow, trained: one encoder by many ways

`python -m benchmarks.report --data_dir data` wrote this page: a small masked language model
([examples/pretrain_mlm](../examples/pretrain_mlm/README.md)), and what pooling, post-processing and contrastive
training make of it. The data: [files of the recipes](evaluate.md#files-of-the-recipes).

## Semantic textual similarity

Spearman × 100 of the cosine, the sub-sets of a year put together (`all`); trained
rows: means over {seeds} seeds, and the standard deviation of their averages.

{sts_table(contents)}

Whether the differences are statistically significant, by a bootstrap over pairs (95 %):

{verdicts}

## The space

On the sentences of STS-B's development set. Alignment over pairs scored above 4, uniformity over all pairs of distinct
sentences (Wang and Isola 2020), for both lower is better; the mean cosine of all pairs is 0 for a space without a
preferred direction; the effective rank says how many directions are in use.

{space_table(contents)}

![Alignment against uniformity, a point a model, coloured by the average of seven tasks](figures/report-scatter.svg)

![Cosines of the pairs for each bin of gold scores, a panel a model](figures/report-cosines.svg)

![Singular values of each model's vectors, relative to the largest](figures/report-spectrum.svg)

## The way there

A point every ten steps.

![Alignment against uniformity while training, coloured by the development score](figures/report-trajectory.svg)

![Loss and development score over steps](figures/report-learning.svg)

## Some sentences

Before, and after supervised training:

![Cosines between nine sentences, raw](figures/report-heat-before.svg)

![Cosines between nine sentences, trained](figures/report-heat-after.svg)

Made with {used}.
"""


def sts_table(contents: Contents) -> str:
    """A row a model, a column a task."""
    rows = []
    for name, seeds in contents.scores.items():
        average = contents.average(name)
        means = [f"{fmean(seed[task].spearman for seed in seeds):.2f}" for task in SEVEN]
        spread = "" if average.n < 2 else f"{average.std:.2f}"
        rows.append([name, contents.what[name], *means, f"**{average.mean:.2f}**", spread])
    return as_markdown(["model", "how", *SEVEN, "average", "std"], rows)


def space_table(contents: Contents) -> str:
    """A row a model, a column a measure."""
    rows = [
        [name, f"{space.alignment:.3f}", f"{space.uniformity:.3f}", f"{space.mean_cosine:.3f}",
         f"{space.effective_rank:.0f}"]
        for name, space in contents.spaces.items()
    ]  # fmt: skip
    return as_markdown(["model", "alignment", "uniformity", "mean cosine", "effective rank"], rows)


def as_markdown(columns: list[str], rows: list[list[str]]) -> str:
    """Text to the left, numbers to the right."""
    numeric = [
        all(row[i].strip("*-").replace(".", "").isdigit() for row in rows if row[i]) for i in range(len(columns))
    ]
    rule = ["---:" if is_number else "---" for is_number in numeric]
    return "\n".join(f"| {' | '.join(row)} |" for row in [columns, rule, *rows])
