"""`simcse plot`."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from simcse.commands.models import encoders_of, load_encode, short_names

if TYPE_CHECKING:
    from simcse.vectors import Encode

__all__ = ["plot"]


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
    dtype: str = "auto",
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
        dtype: precision: auto (bf16 where the device computes in it, else fp32), fp32, bf16, fp16, int8 (AVX2, AMX)
    """
    from simcse.evaluation.plots.figures import Drawer, Sources, choose
    from simcse.evaluation.plots.style import FORMATS, check_formats, save

    sources = Sources(runs, data, data_dir or os.environ.get("SIMCSE_DATA"), sentences, corpus, max_texts)
    chosen = choose(kinds or [], sources)
    check_formats(formats or FORMATS)
    first_seed = partial(_first_seed, device=device, dtype=dtype)
    for name, figure in Drawer(sources, dict(zip(runs, short_names(runs), strict=True)), first_seed).draw(chosen):
        for path in save(figure, Path(output) / name, formats or FORMATS):
            print(f"wrote {path}", file=sys.stderr)


def _first_seed(run: str, device: str, dtype: str) -> Encode:
    """The encoder of a run, of its first seed where it has several."""
    return load_encode(encoders_of(run)[0], device, dtype)
