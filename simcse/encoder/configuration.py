"""A checkpoint's `config.json` -> its configuration, without what could make transformers run code or read other files.

transformers takes a second to import, and its configuration classes add defaults and checks to what the file says. A
file of the usual entries of a BERT, each of its type, says all that is needed to encode: it is taken as it is, and
transformers' own configuration is made of it once someone asks.
"""

from __future__ import annotations

from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

from simcse.encoder.json_files import as_json, entry, read_object
from simcse.encoder.quiet import first_line, quiet_transformers
from simcse.errors import ModelError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

__all__ = ["PlainConfig", "read_config", "whole_config"]

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

# entries that a plain configuration must hold, by kind, and those that it may hold; each with its types
BERT: dict[str, type] = {
    "vocab_size": int, "hidden_size": int, "num_hidden_layers": int, "num_attention_heads": int,
    "intermediate_size": int, "max_position_embeddings": int, "type_vocab_size": int, "pad_token_id": int,
    "hidden_act": str, "hidden_dropout_prob": float, "attention_probs_dropout_prob": float, "layer_norm_eps": float,
}  # fmt: skip
DISTILBERT: dict[str, type] = {
    "vocab_size": int, "dim": int, "n_layers": int, "n_heads": int, "hidden_dim": int, "max_position_embeddings": int,
    "pad_token_id": int, "activation": str, "dropout": float, "attention_dropout": float,
}  # fmt: skip
NEEDED = {"bert": BERT, "distilbert": DISTILBERT, "electra": BERT | {"embedding_size": int}, "ernie": BERT}
OTHERS: dict[str, tuple[type, ...]] = {
    "architectures": (list,), "transformers_version": (str,), "position_embedding_type": (str,),
    "initializer_range": (float,), "layer_norm_eps": (float,), "classifier_dropout": (float, NoneType),
    "bos_token_id": (int, NoneType), "eos_token_id": (int, NoneType), "use_cache": (bool,), "is_decoder": (bool,),
    "add_cross_attention": (bool,), "tie_word_embeddings": (bool,), "gradient_checkpointing": (bool,),
    "output_hidden_states": (bool,), "sinusoidal_pos_embds": (bool,), "tie_weights_": (bool,), "qa_dropout": (float,),
    "seq_classif_dropout": (float,), "summary_type": (str,), "summary_use_proj": (bool,), "summary_activation": (str,),
    "summary_last_dropout": (float,), "task_type_vocab_size": (int,), "use_task_id": (bool,),
}  # fmt: skip
ALSO = {"hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads"}  # of a DistilBERT


class PlainConfig:
    """The entries of a `config.json` as attributes, in place of transformers' configuration until that is asked for.

    Args:
        kind: its `model_type`.
        settings: its entries, as `is_plain` has them.
        file: where they come from.
    """

    def __init__(self, kind: str, settings: dict[str, Any], file: Path) -> None:
        vars(self).update(settings | {name: settings[own] for name, own in ALSO.items() if own in settings})
        self.model_type, self.settings, self.file = kind, settings, file
        self.name_or_path, self.dtype = "", None


def read_config(folder: Path) -> PretrainedConfig | PlainConfig:
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
    plain = PlainConfig(kind, settings, file)
    return plain if is_plain(kind, settings) else whole_config(plain)


@quiet_transformers()
def whole_config(config: PretrainedConfig | PlainConfig) -> PretrainedConfig:
    """transformers' configuration: itself, or the one that is made of these entries.

    Raises:
        ModelError: it cannot be made, or a size is none.
    """
    if not isinstance(config, PlainConfig):
        return config
    from transformers import AutoConfig

    try:
        whole: PretrainedConfig = AutoConfig.for_model(config.model_type, **config.settings)
    except Exception as error:  # validation raises a dozen types
        raise ModelError(f"{config.file}: not a model configuration ({first_line(error)})") from error
    for key in SIZES:
        value = getattr(whole, key, 1)
        if not isinstance(value, int) or value < 1:
            raise ModelError(f"{config.file}: {key!r} is {value!r}, expected at least 1")
    whole.name_or_path, whole.dtype = config.name_or_path, config.dtype
    return whole


def is_plain(kind: str, settings: dict[str, Any]) -> bool:
    """Whether transformers' configuration would say the same of all that `BertModules` reads, and object to nothing."""
    needed = NEEDED.get(kind)
    if needed is None or not needed.keys() <= settings.keys():
        return False
    types = OTHERS | {key: (kind,) for key, kind in needed.items()}
    return (
        all(type(value) in types.get(key, ()) for key, value in settings.items())
        and all(type(name) is str for name in settings.get("architectures", ()))
        and all(settings[key] >= 1 for key in (*SIZES, *ALSO.values()) if key in settings)
    )


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
