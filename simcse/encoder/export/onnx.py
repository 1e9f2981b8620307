"""An encoder as an ONNX graph with everything inside: pooling, head, kept dimensions, unit length."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simcse.encoder import pooling
from simcse.encoder.backends.int8 import CALIBRATION
from simcse.encoder.backends.onnx import GRAPH, WEIGHTS, state_name
from simcse.encoder.saving import add_digests, digest
from simcse.encoder.traits import traits_of
from simcse.errors import ModelError
from simcse.tokens.batch import TokenBatch

if TYPE_CHECKING:
    from simcse.encoder.model import SentenceEncoder

__all__ = ["VECTOR", "export_onnx", "least_cosine", "write_graph"]

OPSET = 18
INT64 = 7  # as ONNX numbers the types of tensors
LEAST_COSINE = 0.9999  # between the graph's vector of a text and the encoder's own
LONGEST = 512  # tokens of the longest text that both are asked for
VECTOR = "sentence_embedding"


def export_onnx(encoder: SentenceEncoder, folder: Path) -> float:
    """Write the graph of an encoder beside its weights, and ask it for vectors.

    Its inputs are the tokenizer's: input_ids, attention_mask and perhaps token_type_ids, (S, L) each; where prompts do
    not count in the pooling, prompt_length, too: how many tokens in front that are, in all texts. Its outputs are
    sentence_embedding (S, d), of length 1, and the states (S, L, D) that the pooling reads: last_hidden_state, and
    hidden_state_N of layer N.

    Args:
        encoder: in float32 on the CPU.
        folder: its checkpoint.

    Returns:
        The lowest cosine between a vector of the graph and the encoder's own.

    Raises:
        ModelError: the architecture has no ONNX counterpart, or its graph gives other vectors.
    """
    file = folder / GRAPH
    file.parent.mkdir()
    write_graph(encoder, file)
    worst = least_cosine(encoder, run_by_onnxruntime(file), file)
    add_digests(folder, file.parent.iterdir())
    return worst


def write_graph(encoder: SentenceEncoder, file: Path) -> None:
    """Write the graph alone; raises as `export_onnx`."""
    import onnx

    given = tokens_of(encoder, list(CALIBRATION[:3]))
    graph = EncoderGraph(encoder, tuple(given)).eval()
    axes = {name: {0: "batch", 1: "sequence"} for name in (*given, *graph.outputs) if name != "prompt_length"}
    axes[VECTOR] = {0: "batch"}
    try:
        with warnings.catch_warnings(), no_output(), torch.no_grad():
            warnings.simplefilter("ignore")
            # by tracing: torch's other exporter needs many times as long, and fails for T5 and XLNet
            torch.onnx.export(
                graph, tuple(torch.from_numpy(value) for value in given.values()), file, dynamo=False,
                input_names=list(given), output_names=graph.outputs, dynamic_axes=axes, opset_version=OPSET,
            )  # fmt: skip
    except OSError:
        raise
    except Exception as error:  # an operator without a counterpart raises one of a dozen types
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{encoder.name}: a {graph.backbone.config.model_type} cannot be written as an ONNX graph "
            f"({reason:.200}); take format=safetensors"
        ) from error
    model = onnx.load(file, load_external_data=False)
    for name in given.keys() - {known.name for known in model.graph.input}:  # read for nothing, but given by users
        model.graph.input.add().CopyFrom(onnx.helper.make_tensor_value_info(name, INT64, list(axes[name].values())))
    model.metadata_props.add(key=WEIGHTS, value=digest("", encoder.backbone.state_dict()))
    onnx.save(model, file)


@contextlib.contextmanager
def no_output() -> Iterator[None]:
    """Nothing on stdout: where an operator has no counterpart torch prints the whole graph, past Python's stream."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


class EncoderGraph(nn.Module):
    """Padded tokens in, the states that the pooling reads and the vectors out."""

    def __init__(self, encoder: SentenceEncoder, inputs: tuple[str, ...]) -> None:
        super().__init__()
        self.backbone: Any = encoder.backbone
        self.projection, self.kept, self.inputs = encoder.projection, encoder.truncate_dim, inputs
        self.pooling = pooling.POOLINGS[encoder.pooling]
        self.reads_types = "token_type_ids" in inspect.signature(self.backbone.forward).parameters
        layers = self.backbone.config.num_hidden_layers
        self.outputs = [*(state_name(layer, layers) for layer in self.pooling.layers), VECTOR]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The inputs in their order -> (S, L, D) states, (S, d) vectors."""
        given = dict(zip(self.inputs, tensors, strict=True))
        if not self.reads_types:
            given.pop("token_type_ids", None)
        counted = given["attention_mask"]  # (S, L)
        if "prompt_length" in given:
            counted = counted * (torch.arange(counted.shape[1]) >= given.pop("prompt_length"))
        several = len(self.pooling.layers) > 1
        output = self.backbone(**given, output_hidden_states=several, return_dict=True)
        states = [output.hidden_states[i] for i in self.pooling.layers] if several else [output.last_hidden_state]
        hidden = torch.stack(states).mean(0) if several else states[0]  # (S, L, D)
        pooled = PADDED[self.pooling.reduce](hidden, counted)  # (S, D)
        vectors = pooled if self.projection is None else self.projection(pooled)
        return *states, F.normalize(vectors[:, : self.kept], dim=-1)


def first_row(states: Tensor, counted: Tensor) -> Tensor:
    """The first token that counts."""
    return row(states, counted.float().argmax(1))


def last_row(states: Tensor, counted: Tensor) -> Tensor:
    """The last token that counts."""
    return row(states, (counted * torch.arange(counted.shape[1])).float().argmax(1))


def row(states: Tensor, numbers: Tensor) -> Tensor:
    """(S, L, D), (S,) -> (S, D)."""
    return states.gather(1, numbers[:, None, None].expand(-1, 1, states.shape[-1])).squeeze(1)


def mean(states: Tensor, counted: Tensor) -> Tensor:
    """The mean of the tokens that count."""
    weights = counted[..., None].to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1)


# the poolings of packed tokens, for padded ones: (S, L, D), (S, L) -> (S, D)
PADDED: dict[Any, Callable[[Tensor, Tensor], Tensor]] = {
    pooling.cls: first_row, pooling.mean: mean, pooling.last_token: last_row,
}  # fmt: skip


def tokens_of(encoder: SentenceEncoder, texts: list[str]) -> dict[str, np.ndarray]:
    """The graph's inputs, by name, as the tokenizer gives them to any runtime."""
    found = encoder.tokenizer(
        texts, max_length=min(encoder.max_length, LONGEST), truncation=True, padding=True, padding_side="right",
        return_tensors="np",
    )  # fmt: skip
    given = {name: found[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in found}
    if not encoder.include_prompt:
        given["prompt_length"] = np.array(0)
    return given


def run_by_onnxruntime(file: Path) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    """The graph's inputs -> vectors."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda given: session.run([VECTOR], given)[0]


def least_cosine(encoder: SentenceEncoder, run: Callable[[dict[str, np.ndarray]], np.ndarray], file: Path) -> float:
    """The lowest cosine between a vector of the graph and the encoder's own, of short and long texts.

    Raises:
        ModelError: it is below LEAST_COSINE.
    """
    texts = [*CALIBRATION[:6], "a", " ".join(CALIBRATION)]
    batches = [tokens_of(encoder, [text]) for text in texts]
    rows = TokenBatch.from_lists([given["input_ids"][0].tolist() for given in batches])
    with torch.no_grad():
        ours = F.normalize(encoder(rows), dim=-1).numpy()
    if not traits_of(encoder.backbone).leaks_padding:
        batches.append(tokens_of(encoder, texts))
        ours = np.concatenate([ours, ours])
    theirs = np.concatenate([run(given) for given in batches])
    worst = float(np.einsum("nd,nd->n", ours, theirs).min())
    if not worst >= LEAST_COSINE:
        raise ModelError(
            f"{encoder.name}: {file.name} gives other vectors than the encoder, with a cosine of {worst:.5f}, expected "
            f"at least {LEAST_COSINE}; take format=safetensors"
        )
    return worst
