"""Arguments and attributes as other packages call them: taken where they mean the same, else ours is named."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from simcse.errors import ConfigError, did_you_mean, shown

__all__ = ["TellsOtherNames", "knows_other_names"]

P = ParamSpec("P")
R = TypeVar("R")

SAME = {
    "embed": "encode",
    "encoder": "encode",
    "inputs": "texts",
    "k": "top_k",
    "limit": "top_k",
    "max_seq_length": "max_length",
    "model_name_or_path": "name",
    "normalize_embeddings": "normalize",
    "pooler_type": "pooling",
    "pooling_mode": "pooling",
    "pretrained_model_name_or_path": "name",
    "sentence": "texts",
    "query": "queries",
    "score_threshold": "min_score",
    "sentences": "texts sentences_or_file",
    "show_progress_bar": "show_progress",
    "texts": "sentences_or_file",
    "threshold": "min_score",
    "topk": "top_k",
    "torch_dtype": "dtype",
}
# values that ask for what is done anyway
DONE = {
    "convert_to_numpy": (True,),
    "convert_to_tensor": (False, None),
    "device": (None,),
    "output_value": ("sentence_embedding",),
    "pool": (None,),
    "precision": ("float32", None),
    "trust_remote_code": (False, None),
    "use_auth_token": (None,),
}
INSTEAD = {
    "cache_folder": "the environment's HF_HOME says where models of the hub are kept",
    "chunk_size": "leave it out: texts are taken in chunks anyway",
    "convert_to_numpy": "the vectors are a numpy array; torch.from_numpy(...) makes a tensor of it",
    "convert_to_tensor": "the vectors are a numpy array; torch.from_numpy(...) makes a tensor of it",
    "device": "the encoder stays where it is; encoder.to(device) moves it",
    "output_value": "one vector a text is given; states of tokens are those of encoder.backbone",
    "pool": "all cores are used without one",
    "precision": "the vectors are float32, simcse.vectors.quantize makes int8 and binary of them; dtype of "
    "from_pretrained says how they are computed",
    "token": "the environment's HF_TOKEN is used for the hub",
    "truncate_dim": "truncate_dim of from_pretrained, or encoder.truncate_dim = ..., cuts the vectors",
    "trust_remote_code": "code of a checkpoint is never run",
    "use_auth_token": "the environment's HF_TOKEN is used for the hub",
}
# attributes of sentence-transformers' class -> what there is
ATTRIBUTES = {
    "encode_multi_process": "encode uses all cores",
    "evaluate": "simcse evaluate on the command line",
    "fit": "simcse.train(TrainConfig(...)) trains",
    "get_embedding_dimension": "dimension",
    "get_max_seq_length": "max_length",
    "get_sentence_embedding_dimension": "dimension",
    "load": "SentenceEncoder.from_pretrained(folder)",
    "max_seq_length": "max_length",
    "save": "save_pretrained(folder)",
    "save_to_hub": "simcse push on the command line",
    "push_to_hub": "simcse push on the command line",
    "similarity_pairwise": "(encode(a) * encode(b)).sum(1)",
    "start_multi_process_pool": "encode uses all cores",
}


class _TellsOtherNames(type):
    """The same of the class itself, as in `SentenceEncoder.load(folder)`."""

    def __getattr__(cls, name: str) -> Any:
        said = f"; here it is: {ATTRIBUTES[name]}" if name in ATTRIBUTES else ""
        if not said and not name.startswith("_"):  # protocols ask for many of these
            said = did_you_mean(name, dir(cls))
        raise AttributeError(f"{cls.__name__} has no attribute {name!r}{said}")


class TellsOtherNames(metaclass=_TellsOtherNames):
    """A module whose attributes of other packages' names are told by ours, also where one of them is set, which would
    else do nothing.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)  # type: ignore[misc]  # of nn.Module
        except AttributeError:
            if name not in ATTRIBUTES:
                raise
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}; here it is: {ATTRIBUTES[name]}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ATTRIBUTES:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}; here it is: {ATTRIBUTES[name]}")
        super().__setattr__(name, value)


def knows_other_names(function: Callable[P, R]) -> Callable[P, R]:
    """The same function, which understands names of other packages, and tells of those that it does not know.

    Raises:
        ConfigError: on a call, an argument that has no counterpart; says what there is instead. One that is missing.
    """
    own = inspect.signature(function).parameters
    needed = [
        name
        for name, parameter in own.items()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]

    @functools.wraps(function)
    def called(*args: P.args, **options: P.kwargs) -> R:
        for name in [name for name in options if name not in own]:
            value: Any = options.pop(name)
            ours = _same(name, own)
            if ours and ours not in options:
                options[ours] = value
            elif not any(value is done or (isinstance(value, str) and value == done) for done in DONE.get(name, ())):
                raise ConfigError(f"{function.__name__} has no argument {name}={shown(value)}{_instead(name, own)}")
        if absent := [name for name in needed[len(args) :] if name not in options]:
            said = ", ".join(name for name in needed if name not in ("self", "cls"))
            raise ConfigError(
                f"{function.__name__}: {' and '.join(absent)} missing, expected {function.__name__}({said})"
            )
        return function(*args, **options)

    return called


def _same(name: str, own: Any) -> str:
    return next((ours for ours in SAME.get(name, "").split() if ours in own), "")


def _instead(name: str, own: Any) -> str:
    if name in INSTEAD:
        return f"; {INSTEAD[name]}"
    if ours := _same(name, own):
        return f"; here it is {ours}, which is given, too"
    return did_you_mean(name, own) or f"; it accepts {', '.join(n for n in own if n not in ('self', 'cls'))}"
