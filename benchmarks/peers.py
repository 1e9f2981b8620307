"""Who encodes: this package and its peers. Same weights, tokenizing included, unit vectors out.

What takes padded batches gets them sorted by length, 64 texts each; sentence-transformers sorts by itself. Engines
that read ONNX read one file: the graph that `simcse export --format onnx` writes, and int8 forms of it.

Some peers ask for older packages than this one does. They can lie in a folder of their own, named by PYTHONPATH:

    pip install --target peers --no-deps ctranslate2 fastembed loguru mmh3 py-rust-stemmers nncf ninja pydot tabulate
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["CONTESTANTS", "PACKAGES", "Contestant", "Encode", "Kit", "backend_of"]

Encode = Callable[[list[str]], np.ndarray]
"""n texts -> (n, d) vectors."""
BATCH = 64  # texts that padded peers get at once
LONGEST = 256  # tokens, as the model's own limit
PACKAGES = (
    "torch", "transformers", "sentence-transformers", "onnxruntime", "openvino", "nncf", "ctranslate2", "fastembed",
)  # fmt: skip


@dataclass(frozen=True)
class Kit:
    """What a contestant is made of.

    Attributes:
        model: as for `SentenceEncoder.from_pretrained`.
        folder: where its files lie.
        workspace: for graphs that several of them read.
        sample: texts that fix the scales of int8; none of them is measured.
        device: of torch; the other engines compute on the CPU.
    """

    model: str
    folder: str
    workspace: Path
    sample: tuple[str, ...] = ()
    device: str = "cpu"


@dataclass(frozen=True)
class Contestant:
    """One row.

    Attributes:
        name: of the row.
        load: makes it, from a kit and its options.
        options: of `load`.
        install: the packages for pip.
        bf16: whether it needs a CPU that computes in it.
    """

    name: str
    load: Callable[..., Encode]
    options: tuple[Any, ...] = ()
    install: str = ""
    bf16: bool = False


class Ours:
    """This package's encode; it finds its own batch size."""

    def __init__(self, kit: Kit, dtype: str) -> None:
        from simcse import SentenceEncoder

        self.encoder = SentenceEncoder.from_pretrained(kit.model, device=kit.device, dtype=dtype)

    def __call__(self, texts: list[str]) -> np.ndarray:
        """(n, d) vectors."""
        return self.encoder.encode(texts)

    @property
    def backend(self) -> str:
        """What computed them."""
        return backend_of(self.encoder)


def backend_of(encoder: Any) -> str:
    """The name of what computes the vectors of one of this package's encoders."""
    from simcse.encoder.backends.int8 import calibration_batch
    from simcse.encoder.backends.select import prepared_backend

    return prepared_backend(encoder.backbone, encoder.asked_backend, lambda: calibration_batch(encoder.tokenize())).name


def sentence_transformer(kit: Kit, dtype: str, batch: int = 32) -> Encode:
    """Its encode, in batches of 32 as it comes."""
    import torch
    from sentence_transformers import SentenceTransformer

    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    options = {} if dtype == "fp32" else {"dtype": torch.bfloat16}
    peer = SentenceTransformer(kit.folder, device=kit.device, model_kwargs=options)
    return lambda texts: peer.encode(texts, batch_size=batch, normalize_embeddings=True, show_progress_bar=False)


def tokenizer_of(kit: Kit) -> Callable[[list[str]], list[list[int]]]:
    """Texts -> ids, as all peers without a tokenizer of their own get them."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(kit.folder)
    return lambda texts: tokenizer(texts, truncation=True, max_length=LONGEST)["input_ids"]


def in_batches(tokenize: Callable[[list[str]], list[list[int]]], batch: Callable[[list[list[int]]], Any]) -> Encode:
    """Encode by batches of ids (s, ragged) -> (s, d), the longest first."""

    def encode(texts: list[str]) -> np.ndarray:
        ids = tokenize(texts)
        order = np.argsort([-len(row) for row in ids], kind="stable")
        parts = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
        found = np.concatenate([batch([ids[row] for row in part]) for part in parts])
        vectors = np.empty_like(found)
        vectors[order] = found
        return vectors

    return encode


def padded(ids: list[list[int]]) -> dict[str, np.ndarray]:
    """(s, l) inputs of a BERT; its padding has the id 0."""
    mask = np.arange(max(map(len, ids))) < np.array([[len(row)] for row in ids])
    full = np.zeros(mask.shape, dtype=np.int64)
    full[mask] = np.concatenate(ids)
    return {"input_ids": full, "attention_mask": mask.astype(np.int64), "token_type_ids": np.zeros_like(full)}


def graph_of(kit: Kit) -> Path:
    """The ONNX file: padded ids in, token states and unit vectors out."""
    import onnx  # noqa: F401 - said by name if it is missing

    from simcse import SentenceEncoder
    from simcse.encoder.export.onnx import write_graph

    file = kit.workspace / "model.onnx"
    if not file.exists():
        encoder = SentenceEncoder.from_pretrained(kit.model, device="cpu", dtype="fp32")
        write_graph(encoder, file.with_suffix(".part"))
        file.with_suffix(".part").replace(file)
    return file


def calibration(kit: Kit) -> Iterator[dict[str, np.ndarray]]:
    """Batches of the sample."""
    ids = sorted(tokenizer_of(kit)(list(kit.sample)), key=len)
    yield from (padded(ids[start : start + 16]) for start in range(0, len(ids), 16))


def onnx_runtime(kit: Kit, form: str) -> Encode:
    """ONNX Runtime: fp32, dynamic (scales of activations at run time) or static (calibrated, per channel)."""
    import onnxruntime

    graph = graph_of(kit) if form == "fp32" else quantized(kit, form)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.force_spinning_stop", "1")  # between its turns the others have the cores
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    names = {given.name for given in session.get_inputs()}

    def batch(ids: list[list[int]]) -> np.ndarray:
        given = {key: value for key, value in padded(ids).items() if key in names}
        return np.asarray(session.run(["sentence_embedding"], given)[0])

    return in_batches(tokenizer_of(kit), batch)


def quantized(kit: Kit, form: str) -> Path:
    """The graph with products in int8, by ONNX Runtime's own tools."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared, made = kit.workspace / "prepared.onnx", kit.workspace / f"{form}.onnx"
    quant_pre_process(str(graph_of(kit)), str(prepared), skip_symbolic_shape=True)
    if form == "dynamic":
        quantization.quantize_dynamic(prepared, made, weight_type=quantization.QuantType.QInt8)
        return made
    batches = calibration(kit)

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(batches, None)

    quantization.quantize_static(
        prepared, made, Reader(), per_channel=True, op_types_to_quantize=["MatMul", "Gemm"],
        extra_options={"MatMulConstBOnly": True},  # products with weights, as dynamic; the others lose most
        quant_format=quantization.QuantFormat.QDQ, activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )  # fmt: skip
    return made


def openvino(kit: Kit, form: str) -> Encode:
    """OpenVINO of the same graph: fp32 or bf16 by its precision hint, int8 by NNCF, calibrated."""
    import openvino as ov

    model = ov.Core().read_model(graph_of(kit))
    if form == "int8":
        import nncf

        batches = list(calibration(kit))
        model = nncf.quantize(
            model, nncf.Dataset(batches), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(batches),
            preset=nncf.QuantizationPreset.MIXED,
        )  # fmt: skip
    hints = {"fp32": {"INFERENCE_PRECISION_HINT": "f32"}, "bf16": {"INFERENCE_PRECISION_HINT": "bf16"}}
    compiled = ov.compile_model(model, "CPU", hints.get(form, {}))
    names = {port.get_any_name() for port in compiled.inputs}

    def batch(ids: list[list[int]]) -> np.ndarray:
        given = {key: value for key, value in padded(ids).items() if key in names}
        return np.array(compiled(given)["sentence_embedding"])

    return in_batches(tokenizer_of(kit), batch)


def ctranslate2(kit: Kit, form: str) -> Encode:
    """CTranslate2's encoder; mean of its states by numpy."""
    import ctranslate2 as ct2

    folder, source = kit.workspace / f"ctranslate2-{form}", kit.workspace / f"for-ctranslate2-{form}"
    shutil.copytree(kit.folder, source)
    config = source / "config.json"
    known = json.loads(config.read_text(encoding="utf-8"))
    # which the converter asks for, and today's transformers no longer writes
    config.write_text(json.dumps({"position_embedding_type": "absolute"} | known), encoding="utf-8")
    ct2.converters.TransformersConverter(str(source)).convert(str(folder), quantization=form)
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    encoder = ct2.Encoder(str(folder), device="cpu", compute_type=form, intra_threads=threads)

    def batch(ids: list[list[int]]) -> np.ndarray:
        states = np.array(encoder.forward_batch(ids).last_hidden_state)  # (s, l, d)
        mask = padded(ids)["attention_mask"][..., None].astype(np.float32)
        mean = (states * mask).sum(1) / mask.sum(1)
        return np.asarray(mean / np.linalg.norm(mean, axis=1, keepdims=True))

    return in_batches(tokenizer_of(kit), batch)


def fastembed(kit: Kit) -> Encode:
    """fastembed on the same ONNX file; it does not sort, so it gets texts that are."""
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    folder = kit.workspace / "fastembed"
    folder.mkdir(exist_ok=True)
    for file in (*Path(kit.folder).glob("*.json"), *Path(kit.folder).glob("*.txt"), graph_of(kit)):
        if not (folder / file.name).exists():
            (folder / file.name).symlink_to(file.resolve())
    width = json.loads((folder / "config.json").read_text(encoding="utf-8"))["hidden_size"]
    TextEmbedding.add_custom_model(
        model="peer", pooling=PoolingType.MEAN, normalization=True, sources=ModelSource(url="file"), dim=width,
        model_file="model.onnx",
    )  # fmt: skip
    peer = TextEmbedding("peer", specific_model_path=str(folder))

    def encode(texts: list[str]) -> np.ndarray:
        order = np.argsort([-len(text) for text in texts], kind="stable")
        found = np.stack(list(peer.embed([texts[row] for row in order], batch_size=BATCH)))
        vectors = np.empty_like(found)
        vectors[order] = found
        return vectors

    return encode


CONTESTANTS = (
    Contestant("sentence-transformers fp32, as it comes", sentence_transformer, ("fp32",), "sentence-transformers"),
    Contestant("sentence-transformers bf16", sentence_transformer, ("bf16",), "sentence-transformers", bf16=True),
    Contestant("fastembed fp32", fastembed, (), "fastembed onnx"),
    Contestant("ONNX Runtime fp32", onnx_runtime, ("fp32",), "onnx onnxruntime"),
    Contestant("ONNX Runtime int8, dynamic", onnx_runtime, ("dynamic",), "onnx onnxruntime"),
    Contestant("ONNX Runtime int8, static, per channel", onnx_runtime, ("static",), "onnx onnxruntime"),
    Contestant("OpenVINO fp32", openvino, ("fp32",), "onnx openvino"),
    Contestant("OpenVINO bf16", openvino, ("bf16",), "onnx openvino", bf16=True),
    Contestant("OpenVINO int8", openvino, ("int8",), "onnx openvino nncf"),
    Contestant("CTranslate2 fp32", ctranslate2, ("float32",), "ctranslate2"),
    Contestant("CTranslate2 int8", ctranslate2, ("int8",), "ctranslate2"),
    Contestant("simcse fp32", Ours, ("fp32",)),
    Contestant("simcse bf16", Ours, ("bf16",), bf16=True),
    Contestant("simcse int8", Ours, ("int8",)),
)
