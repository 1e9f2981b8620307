"""`simcse export`: any checkpoint as one folder that loads everywhere."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from simcse.errors import ConfigError

__all__ = ["export"]

NEEDED = {"onnx": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino")}


def export(
    model: str,
    *,
    output: str,
    format: Literal["safetensors", "onnx", "openvino"] = "safetensors",
    pooling: str | None = None,
    projection: Literal["none", "pooler"] | None = None,
    max_length: int | None = None,
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
) -> None:
    """Write a checkpoint as a folder that loads everywhere.

    Reads a hub id, a plain encoder, a sentence-transformers folder or a checkpoint of the original SimCSE, converted or
    not, and writes a folder that SentenceEncoder and SentenceTransformer load with the same vectors, and transformers'
    AutoModel with the same token states (docs/loading.md has the lines).

    Args:
        model: folder of a checkpoint, hub id, or package:NAME
        output: the folder to write; one written before is replaced
        format: onnx adds onnx/model.onnx, a graph from tokens to vectors with pooling and head inside, for ONNX
            Runtime; openvino adds openvino/openvino_model.xml, the same for OpenVINO
        pooling: cls, mean, last_token, first_last_mean or top2_mean; default what the checkpoint says
        projection: pooler uses the head that converted checkpoints of the original SimCSE keep as pooler.dense, none
            drops a stored head; default what the checkpoint says
        max_length: tokens kept of each text; default what the checkpoint says
        dtype: of the weights written; bf16 and fp16 need half the space; onnx and openvino are fp32
    """
    folder = Path(output)
    if folder.exists() and not (folder / "simcse.json").is_file() and (folder.is_file() or any(folder.iterdir())):
        raise ConfigError(f"--output {output}: holds something else, expected a new name or an older export to replace")
    if format != "safetensors" and dtype != "fp32":
        raise ConfigError(f"--dtype {dtype}: --format {format} is written in fp32; leave --dtype out")
    if missing := [package for package in NEEDED.get(format, ()) if find_spec(package) is None]:
        raise ConfigError(f"--format {format}: {missing[0]} is not installed: pip install 'simcse-kit[{format}]'")
    from simcse.display.progress import waiting
    from simcse.encoder.device import DTYPES
    from simcse.encoder.model import SentenceEncoder
    from simcse.files import replaced_folder

    encoder = SentenceEncoder.from_pretrained(
        model, pooling=pooling, projection=projection, max_length=max_length, device="cpu", dtype="fp32"
    ).to(DTYPES[dtype])  # to be written: what is slow to compute in here may be stored
    worst = None
    with replaced_folder(folder) as new, waiting(f"writing {output}"):
        encoder.write(new)
        if format == "onnx":
            from simcse.encoder.export.onnx import export_onnx

            worst = export_onnx(encoder, new)
        elif format == "openvino":
            from simcse.encoder.export.openvino import export_openvino

            worst = export_openvino(encoder, new)
    print(
        f"{output}: {encoder.pooling} pooling, dimension {encoder.dimension}, {encoder.max_length} tokens, {dtype}",
        file=sys.stderr,
    )
    if worst is not None:
        print(f"{format}: cosine with the encoder's own vectors at least {worst:.6f}", file=sys.stderr)
