"""An encoder as an OpenVINO model, made of its ONNX graph."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from simcse.encoder.export.onnx import VECTOR, least_cosine, write_graph

if TYPE_CHECKING:
    from simcse.encoder.model import SentenceEncoder

__all__ = ["export_openvino"]

MODEL = "openvino/openvino_model.xml"  # where sentence-transformers and optimum look for it


def export_openvino(encoder: SentenceEncoder, folder: Path) -> float:
    """Write the model beside the weights of an encoder; inputs, outputs, result and errors as `export_onnx`."""
    import openvino

    file = folder / MODEL
    file.parent.mkdir()
    core = openvino.Core()
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        graph = Path(temporary, "model.onnx")
        write_graph(encoder, graph)
        openvino.save_model(core.read_model(graph), file, compress_to_fp16=False)
    # by default OpenVINO computes in bf16 where the processor does
    compiled = core.compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(given: dict[str, np.ndarray]) -> np.ndarray:
        return np.array(compiled(given)[VECTOR])

    return least_cosine(encoder, run, file)
