"""A checkpoint folder -> backbone, by transformers where it has to be, which is handed nothing unchecked.

The sizes of the configuration are compared with the weights before anything is allocated, and the weights with it
afterwards: none may be missing, none of the backbone's left over, none NaN or infinite.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import nn

from simcse.encoder.backbone import override_dropout
from simcse.encoder.backends.bert_modules import BertModules
from simcse.encoder.backends.bert_weights import KINDS, BertWeights
from simcse.encoder.configuration import read_config, whole_config
from simcse.encoder.projection import check_finite
from simcse.encoder.quiet import first_line, quiet_transformers
from simcse.encoder.traits import auto_class, find_traits
from simcse.errors import ModelError

if TYPE_CHECKING:  # slow to import
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = ["WEIGHT_FILES", "load_backbone", "load_modules", "new_backbone", "takes_pooler"]

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
# the first parts of names under which checkpoints keep what was trained on top of a backbone
HEADS = frozenset({
    "classification_head", "classifier", "cls", "decoder", "dense", "discriminator_predictions", "generator_lm_head",
    "generator_predictions", "head", "lm_head", "lm_loss", "lm_predictions", "logits_proj", "mask_predictions", "mlp",
    "pooler", "pre_classifier", "pred_layer", "predictions", "qa_classifier", "qa_outputs", "score",
    "sequence_summary", "sop_classifier", "vocab_layer_norm", "vocab_projector", "vocab_transform",
})  # fmt: skip
BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")  # which checkpoints of years ago hold


def load_modules(folder: Path, *, dropout: float | None = None) -> BertModules | None:
    """The modules alone of a BERT-like checkpoint, in float32: all that the backends written out here read.

    Args:
        folder: a folder with `config.json` and weights.
        dropout: rate put in place of every dropout rate of the configuration, if given.

    Returns:
        None where they are not all that `model.safetensors` holds, but for what heads and old buffers account for:
        `load_backbone` takes whatever transformers takes, and says what is wrong with the rest.

    Raises:
        ModelError: there is no usable `config.json`.
    """
    config, file = read_config(folder), folder / "model.safetensors"
    if config.model_type not in KINDS or not file.is_file() or (folder / "adapter_config.json").exists():
        return None
    try:
        if dropout is not None:
            config = whole_config(config)
            override_dropout(config, dropout)
        with torch.device("meta"):  # nothing is allocated
            modules = BertModules(config)
        check_sizes(folder, modules)
        weights, expected = load_file(file), modules.state_dict().keys()
        if any(key.split(".")[0] not in HEADS and key not in BUFFERS for key in weights.keys() - expected):
            return None
        state = {key: weights[key].to(torch.float32, copy=True) for key in expected}  # the file may change meanwhile
        modules.load_state_dict(state, assign=True)
        check_finite(dict(modules.named_parameters()), folder)
    except Exception:  # read again by transformers, whose reader's errors are told below
        return None
    config.name_or_path, config.dtype = str(folder), torch.float32
    return modules.eval() if BertWeights.from_hf(modules) is not None else None


@quiet_transformers()
def load_backbone(folder: Path, *, dropout: float | None = None) -> PreTrainedModel:
    """Load the encoder of a checkpoint folder in float32; the original SimCSE's unconverted layout (`bert.*`) too.

    Args:
        folder: a folder with `config.json` and weights.
        dropout: rate put in place of every dropout rate of the configuration, if given.

    Raises:
        ModelError: the folder is no checkpoint; its weights are not the backbone's that config.json describes, or not
            finite; nothing is ever filled with fresh random ones.
    """
    config = whole_config(read_config(folder))
    if dropout is not None:
        override_dropout(config, dropout)
    try:
        with torch.device("meta"):  # nothing is allocated
            outline = new_backbone(config)
    except ModelError as error:
        raise ModelError(f"{folder / 'config.json'}: {error}") from error
    except Exception as error:  # a size that does not go with another raises whatever it breaks first
        raise ModelError(f"{folder / 'config.json'}: describes no model ({first_line(error)})") from error
    check_sizes(folder, outline)
    options: dict[str, Any] = {"add_pooling_layer": False} if takes_pooler(outline) else {}
    try:
        load: Any = type(outline).from_pretrained
        model, info = load(folder, config=config, dtype=torch.float32, output_loading_info=True, **options)
    except Exception as error:  # a damaged file raises whatever its parser stumbles over
        raise ModelError(f"{folder}: the weights cannot be loaded ({first_line(error)})") from error
    if missing := sorted(key for key in info["missing_keys"] if "pooler" not in key):
        raise ModelError(
            f"{folder}: {len(missing)} weights are missing, the first is {missing[0]!r}; the checkpoint is incomplete "
            f"or of another architecture than its config.json says ({config.model_type})"
        )
    if left := left_over(model, info["unexpected_keys"]):
        raise ModelError(
            f"{folder}: {len(left)} weights have no place in the model of config.json ({config.model_type}, "
            f"{getattr(config, 'num_hidden_layers', '?')} layers), the first is {left[0]!r}; one of the two is another "
            "checkpoint's, copy both anew"
        )
    check_finite(dict(model.named_parameters()), folder)
    model.simcse_traits = find_traits(model, folder)  # an attribute, so that copies have it, too
    return model  # type: ignore[no-any-return]


def new_backbone(config: PretrainedConfig, *, pooler: bool = False) -> PreTrainedModel:
    """The encoder that a configuration describes, with new weights; with the pooler that it may have, or without."""
    build: Callable[..., PreTrainedModel] = auto_class(config).from_config
    if pooler:
        return build(config)
    try:
        return build(config, add_pooling_layer=False)
    except TypeError:  # this architecture has no pooler that could be left out
        return build(config)


def takes_pooler(backbone: PreTrainedModel) -> bool:
    """Whether this architecture can be built with a pooler and without."""
    return "add_pooling_layer" in inspect.signature(type(backbone).__init__).parameters


def check_sizes(folder: Path, outline: nn.Module) -> None:
    """Raise a ModelError if the model has more weights than the files can hold: they take a byte each at least."""
    size = sum(file.stat().st_size for pattern in WEIGHTS for file in folder.glob(pattern) if file.is_file())
    if not size:
        raise ModelError(f"{folder}: no weights (none of {', '.join(WEIGHT_FILES)}); the checkpoint is incomplete")
    if (expected := sum(weight.numel() for weight in outline.parameters())) > size:
        raise ModelError(
            f"{folder}: the weights cannot be loaded (config.json describes {expected:,} of them, their files hold "
            f"{size:,} bytes); one of the two is damaged or another checkpoint's"
        )


def left_over(model: PreTrainedModel, unexpected: Iterable[str]) -> list[str]:
    """The weights among `unexpected` that no head accounts for, and those of parts that the backbone has itself.

    Buffers such as position_ids, which were saved once, are no weights: the model computes them.
    """
    own, buffers = {name for name, _ in model.named_children()}, {name for name, _ in model.named_buffers()}
    names = {key: key.removeprefix(f"{model.base_model_prefix}.") for key in unexpected}
    firsts = {key: name.split(".")[0] for key, name in names.items() if name not in buffers}
    return sorted(key for key, first in firsts.items() if first not in HEADS or first in own)
