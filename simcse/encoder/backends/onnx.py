"""An exported graph in place of the backbone: token states by ONNX Runtime, pooling and head as ever."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from simcse.encoder.backends.base import tokens_per_batch
from simcse.encoder.backends.huggingface import huggingface_states
from simcse.encoder.saving import digest
from simcse.encoder.traits import traits_of
from simcse.errors import ConfigError, ModelError
from simcse.tokens.batch import TokenBatch

__all__ = ["GRAPH", "WEIGHTS", "OnnxBackend", "state_name", "unfit_for_onnx"]

GRAPH = "onnx/model.onnx"  # in a checkpoint's folder, where sentence-transformers and optimum look for it
WEIGHTS = "simcse_weights"  # in the graph's metadata: a digest of the backbone's weights that it was made of


def state_name(layer: int, layers: int) -> str:
    """The graph's output that holds a layer's states, of a backbone with so many."""
    number = layer % (layers + 1)
    return "last_hidden_state" if number == layers else f"hidden_state_{number}"


def unfit_for_onnx(backbone: nn.Module) -> str | None:
    """Why there is no graph of this backbone that could run here; None where there is."""
    config: Any = backbone.config
    graph = Path(config.name_or_path) / GRAPH
    weight = next(backbone.parameters())
    if find_spec("onnxruntime") is None:
        return "onnxruntime is not installed: pip install 'simcse-kit[onnx]'"
    if not graph.is_file():
        return f"{graph} is not there; write it by simcse export {config.name_or_path} --format onnx --output NEW"
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        place = f"{str(weight.dtype).removeprefix('torch.')} on {weight.device.type}"
        return f"it computes in float32 on the CPU, not in {place}; take device cpu and dtype auto"
    return None


class OnnxBackend:
    """The graph beside the weights of a backbone, which `simcse export --format onnx` wrote.

    Raises:
        ConfigError: the graph was made of other weights than the backbone has now.
        ModelError: the file is damaged.
    """

    name = "onnx"
    padded = True

    def __init__(self, backbone: nn.Module) -> None:
        self.device = torch.device("cpu")
        self.tokens_per_batch = tokens_per_batch(self.device)
        self.graph: Any = Graph(backbone)

    def __call__(self, batch: TokenBatch, layers: Sequence[int], *, cls_only: bool = False) -> list[Tensor]:
        """See `TokenStates`.

        Raises:
            ConfigError: the graph was exported for a pooling that reads other layers.
        """
        for name in [state_name(layer, self.graph.layers) for layer in layers]:
            if name not in self.graph.gives:
                raise ConfigError(
                    f"{self.graph.file} does not give {name}, which this pooling reads: it was exported for another; "
                    "export it by simcse export --pooling, or take backend auto"
                )
        return huggingface_states(self.graph, batch, layers, cls_only=cls_only)


class Graph:
    """What is called as the backbone is, and answers as it does."""

    def __init__(self, backbone: nn.Module) -> None:
        import onnxruntime

        config: Any = backbone.config
        self.config = config
        self.simcse_traits = traits_of(backbone)
        self.layers = int(config.num_hidden_layers)
        self.file = Path(config.name_or_path) / GRAPH
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # `encode` has a thread a core already, each with batches of its own
        try:
            self.session = onnxruntime.InferenceSession(self.file, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # a damaged file raises whatever its parser stumbles over
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ModelError(f"{self.file}: cannot be loaded ({reason}); export the checkpoint anew") from error
        if self.session.get_modelmeta().custom_metadata_map.get(WEIGHTS) != digest("", backbone.state_dict()):
            raise ConfigError(
                f"backend is onnx, but {self.file} was not exported from the weights as they are now; save the encoder "
                "and export it anew, or take backend auto"
            )
        self.takes = {given.name for given in self.session.get_inputs()}
        self.gives = {given.name for given in self.session.get_outputs()}

    def __call__(self, input_ids: Tensor, attention_mask: Tensor | None, output_hidden_states: bool) -> Any:
        """(S, L) ids and mask -> `last_hidden_state` (S, L, D), and `hidden_states`, as far as the graph has them."""
        ids = input_ids.numpy()
        mask = np.ones_like(ids) if attention_mask is None else attention_mask.numpy()
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        given["prompt_length"] = np.array(0)  # of the vector alone
        names = [state_name(layer, self.layers) for layer in range(self.layers + 1)]
        wanted = [name for name in names if name in self.gives] if output_hidden_states else names[-1:]
        found = self.session.run(wanted, {name: value for name, value in given.items() if name in self.takes})
        states = {name: torch.from_numpy(value) for name, value in zip(wanted, found, strict=True)}
        return SimpleNamespace(last_hidden_state=states.get(names[-1]), hidden_states=[states.get(x) for x in names])
