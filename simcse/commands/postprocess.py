"""`simcse postprocess`."""

from __future__ import annotations

import itertools
import sys
from functools import partial
from pathlib import Path
from typing import Literal

from simcse.commands.models import encoder_of
from simcse.commands.shared import load_encoder
from simcse.errors import ConfigError

__all__ = ["postprocess"]


def postprocess(
    input: str,
    *,
    model: str,
    output: str,
    kind: Literal["whitening", "flow"] = "whitening",
    dimensions: int | None = None,
    max_texts: int = 20_000,
    epochs: int = 10,
    blocks: int = 4,
    seed: int = 0,
    pooling: str | None = None,
    column: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> None:
    """Fit whitening or a normalising flow on an encoder's vectors.

    The folder written can be named wherever simcse evaluate, compare and plot accept a model. The encoder is
    not copied: the folder holds its name.

    Args:
        input: file of texts to fit on: txt, csv, tsv, jsonl or parquet
        model: folder of a run or a checkpoint, hub id, or package:NAME
        output: folder to write; an older one is replaced
        kind: whitening (Su et al. 2021) or flow (RealNVP, in place of BERT-flow's Glow; Li et al. 2020)
        dimensions: of the whitened vectors; default all
        max_texts: the first so many texts are taken
        epochs: of the flow
        blocks: couplings of the flow
        seed: of the flow
        pooling: cls, mean, last_token, first_last_mean or top2_mean; default what the checkpoint says
        column: the column that holds the text; default text, or the only one
        device: auto, cpu, cuda, cuda:1, ...
        dtype: precision: auto (bf16 where the device computes in it, else fp32), fp32, bf16, fp16, int8 (AVX2, AMX)
    """
    from simcse.data.readers import read_texts
    from simcse.evaluation.postprocess import fit
    from simcse.files import check_writable

    for name, value in {"max_texts": max_texts, "epochs": epochs, "blocks": blocks}.items():
        if value < 1:
            raise ConfigError(f"--{name} is {value}: at least 1")
    if Path(output).is_file():
        raise ConfigError(f"--output {output}: is a file, expected a folder")
    check_writable(output)
    texts = [text for text in itertools.islice(read_texts(input, column=column), max_texts) if text.strip()]
    encoder = load_encoder(encoder_of(model), device, dtype, pooling=pooling)
    shown = sys.stderr.isatty()
    flow = {"epochs": epochs, "blocks": blocks, "seed": seed, "show_progress": shown}
    fitted = fit(
        partial(encoder.encode, normalize=False, show_progress=shown),
        texts,
        kind=kind,
        dimensions=dimensions,
        metadata={
            "encoder": encoder.name,
            "fingerprint": encoder.fingerprint,
            "pooling": encoder.pooling,
            "fitted_on": input,
        },
        **(flow if kind == "flow" else {}),
    )
    fitted.save(output)
    metadata = fitted.metadata
    found = (
        f"nll {metadata['nll_before']:.3f} -> {metadata['nll_after']:.3f} nats a dimension on texts held out"
        if kind == "flow"
        else f"{100 * metadata['kept_variance']:.1f} % of the variance kept"
    )
    print(
        f"{output}: {kind}, {metadata['d']} -> {metadata['k']} dimensions, {metadata['texts']} texts; {found}",
        file=sys.stderr,
    )
