"""A checkpoint folder -> backbone and tokenizer, by transformers, which is handed nothing unchecked.

The configuration is read here, and what could make transformers run code or reach for other files is dropped from it.
Its sizes are compared with the weights before anything is allocated, and the weights with it afterwards: none may be
missing, none of the backbone's left over, none NaN or infinite.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import nn

from simcse.encoder.backbone import override_dropout
from simcse.encoder.backends.bert_modules import BertModules
from simcse.encoder.backends.bert_weights import KINDS, BertWeights
from simcse.encoder.json_files import as_json, entry, read_object
from simcse.encoder.projection import check_finite
from simcse.encoder.traits import auto_class, find_traits
from simcse.errors import ModelError

if TYPE_CHECKING:  # slow to import
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["WEIGHT_FILES", "load_backbone", "load_modules", "load_tokenizer", "new_backbone", "quiet_transformers"]

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
# what config.json has no say in: whose code computes (`auto_map`; `owner/kernel` as the attention is a key that holds
# `_implementation`), which files are read, how weights are spread, patched and rounded, what `forward` returns; and
# labels, which are another head's, a thousand million if it likes
DROPPED = frozenset({
    "auto_map", "custom_pipelines", "distributed_config", "fusion_config", "kernel_config", "use_kernels",
    "allow_all_kernels", "transformers_weights", "trust_remote_code", "name_or_path", "_name_or_path", "_commit_hash",
    "configuration_files", "dtype", "torch_dtype", "id2label", "label2id", "num_labels", "output_attentions",
    "return_dict", "use_return_dict", "torchscript",
})  # fmt: skip
MOST_LAYERS = 1000  # the deepest encoders have some fifty; building a million takes hours
# sizes that no layer can do without
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
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


def load_backbone(folder: Path, *, dropout: float | None = None) -> PreTrainedModel:
    """Load the encoder of a checkpoint folder in float32; the original SimCSE's unconverted layout (`bert.*`) too.

    Args:
        folder: a folder with `config.json` and weights.
        dropout: rate put in place of every dropout rate of the configuration, if given.

    Raises:
        ModelError: the folder is no checkpoint; its weights are not the backbone's that config.json describes, or not
            finite; nothing is ever filled with fresh random ones.
    """
    config = read_config(folder)
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


def read_config(folder: Path) -> PretrainedConfig:
    """The configuration of a checkpoint, without what it has no say in.

    Raises:
        ModelError: there is none, it is damaged, of an unknown architecture, or of absurd size.
    """
    file = folder / "config.json"
    if not file.exists():
        raise ModelError(f"{folder}: no config.json, so this is no model folder; name a checkpoint folder or a hub id")
    settings = harmless(read_object(file))
    kind = entry(settings, "model_type", str, file)
    del settings["model_type"]
    if settings.get("quantization_config"):
        raise ModelError(
            f"{file}: the weights are quantised, expected plain ones; name the checkpoint they are made of"
        )
    for key, value in settings.items():
        if "layer" in key and isinstance(value, int) and value > MOST_LAYERS:
            raise ModelError(f"{file}: {key!r} is {as_json(value)}, expected at most {MOST_LAYERS}")
    from transformers import AutoConfig

    try:
        config: PretrainedConfig = AutoConfig.for_model(kind, **settings)
    except Exception as error:  # validation raises a dozen types
        raise ModelError(f"{file}: not a model configuration ({first_line(error)})") from error
    for key in SIZES:
        value = getattr(config, key, 1)
        if not isinstance(value, int) or value < 1:
            raise ModelError(f"{file}: {key!r} is {value!r}, expected at least 1")
    return config


def harmless(settings: Any) -> Any:
    """Settings without the keys that they must not hold, at any depth."""
    if isinstance(settings, list):
        return [harmless(value) for value in settings]
    if not isinstance(settings, dict):
        return settings
    return {
        key: harmless(value)
        for key, value in settings.items()
        if key not in DROPPED and "_implementation" not in key and not key.startswith("__")
    }


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


def first_line(error: BaseException) -> str:
    """The first line of an error's message: libraries write paragraphs."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def load_tokenizer(
    folder: Path, backbone: PreTrainedModel | BertModules, *, lower_case: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint folder.

    Args:
        folder: the checkpoint.
        backbone: what reads the tokens.
        lower_case: whether the checkpoint counts on texts in lower case.

    Raises:
        ModelError: there is none, its files are damaged, it knows tokens that the backbone does not, or it keeps
            capitals though it should not.
    """
    if not any(file for pattern in VOCABULARIES for file in folder.glob(pattern)):  # else an empty vocabulary would do
        raise ModelError(f"{folder}: no usable tokenizer (none of {', '.join(VOCABULARIES)}); copy its files there")
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, config=backbone.config, trust_remote_code=False
        )
        tokenizer("a text")
    except Exception as error:  # tokenizer files fail in as many ways as there are parsers
        raise ModelError(f"{folder}: no usable tokenizer ({first_line(error)}); copy its files there anew") from error
    if tokenizer.pad_token is None:  # nothing is padded here, but sentence-transformers asks for one
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    longest = tokenizer.model_max_length
    if isinstance(longest, bool) or not isinstance(longest, int | float) or not longest >= 1:
        raise ModelError(
            f"{folder / 'tokenizer_config.json'}: 'model_max_length' is {longest!r:.40}, expected at least 1 token"
        )
    if lower_case and tokenizer("A CAT").input_ids != tokenizer("a cat").input_ids:
        raise ModelError(
            f"{folder}: 'do_lower_case' is true in sentence-transformers' file, but the tokenizer keeps capitals; give "
            "tokenizer.json a Lowercase normalizer, or set it to false and encode texts in lower case"
        )
    embeddings: Any = backbone.get_input_embeddings()
    rows = len(embeddings.weight)
    if len(tokenizer) > rows and (highest := max(tokenizer.get_vocab().values())) >= rows:
        raise ModelError(
            f"{folder}: the tokenizer counts its tokens up to {highest}, but the backbone has embeddings up to "
            f"{rows - 1}; one of the two is another checkpoint's"
        )
    return tokenizer


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No bars and load reports: what they would say is checked and raised here."""
    from transformers.utils import logging as transformers_logging

    bars, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
