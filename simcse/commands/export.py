"""`simcse export`: any checkpoint as one folder that loads everywhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from simcse.errors import ConfigError

__all__ = ["export"]


def export(
    model: str,
    *,
    output: str,
    pooling: str | None = None,
    projection: Literal["none", "pooler"] | None = None,
    max_length: int | None = None,
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
) -> None:
    """Write a checkpoint as a folder that loads everywhere.

    Reads a hub id, a plain encoder, a sentence-transformers folder or a checkpoint of the original SimCSE, converted or
    not, and writes a folder that SentenceEncoder and SentenceTransformer load with the same vectors, and transformers'
    AutoModel with the same token states (docs/checkpoints.md).

    Args:
        model: folder of a checkpoint, hub id, or package:NAME
        output: the folder to write; one written before is replaced
        pooling: cls, mean, last_token, first_last_mean or top2_mean; default what the checkpoint says
        projection: pooler uses the head that converted checkpoints of the original SimCSE keep as pooler.dense, none
            drops a stored head; default what the checkpoint says
        max_length: tokens kept of each text; default what the checkpoint says
        dtype: of the weights written; bf16 and fp16 need half the space
    """
    folder = Path(output)
    if folder.exists() and not (folder / "simcse.json").is_file() and (folder.is_file() or any(folder.iterdir())):
        raise ConfigError(f"--output {output}: holds something else, expected a new name or an older export to replace")
    from simcse.encoder.model import SentenceEncoder

    encoder = SentenceEncoder.from_pretrained(
        model, pooling=pooling, projection=projection, max_length=max_length, device="cpu", dtype=dtype
    )
    encoder.save_pretrained(folder)
    print(
        f"{output}: {encoder.pooling} pooling, dimension {encoder.dimension}, {encoder.max_length} tokens, {dtype}",
        file=sys.stderr,
    )
