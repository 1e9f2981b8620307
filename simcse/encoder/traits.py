"""What a backbone does with its tokens, found out by running it on a few: the name of its kind does not tell.

Decoders are turned into encoders and keep their names, and some encoders mix padding in where their kin do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from simcse.encoder.backends.bert_weights import BertWeights
from simcse.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

__all__ = ["Traits", "auto_class", "choose_pooling", "find_traits", "traits_of"]

SHORT, LONG = 3, 12  # tokens
SAME = 1e-6  # of the largest state; what sees another token differs by more
NOISE = 1e-4  # of the largest state: sums in the other order of other shapes


class Traits(NamedTuple):
    """What the backbone's own forward pass does.

    Attributes:
        causal: a token sees those before it alone, so that the first token's state says nothing of the text.
        leaks_padding: a sequence's states depend on how much padding follows it, in spite of the mask.
    """

    causal: bool = False
    leaks_padding: bool = False


def auto_class(config: PretrainedConfig) -> Any:
    """The class of transformers that builds an encoder or a decoder; of a T5 and its kin the encoder half alone.

    Raises:
        ModelError: the model is both, and transformers knows no class for one half.
    """
    from transformers import AutoModel, AutoModelForTextEncoding  # slow to import
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES

    if MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES.get(config.model_type, "").endswith("EncoderModel"):
        return AutoModelForTextEncoding
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"a {config.model_type} is an encoder and a decoder, and transformers loads neither half by itself; take "
            "an encoder, a decoder, or a T5"
        )
    return AutoModel


def traits_of(backbone: nn.Module) -> Traits:
    """What `find_traits` found when the backbone was loaded."""
    found: Traits = getattr(backbone, "simcse_traits", Traits())
    return found


def choose_pooling(asked: str | None, said: str | None, backbone: nn.Module, name: str) -> str:
    """The pooling asked for, else the folder's, else the last token of a decoder and the first of all others.

    Raises:
        ConfigError: it is the first token of a decoder.
    """
    causal = traits_of(backbone).causal
    pooling = asked or said or ("last_token" if causal else "cls")
    if pooling == "cls" and causal:
        config: Any = backbone.config
        raise ConfigError(
            f"pooling is cls, but {name} is a decoder ({config.model_type}), whose first token sees no other: texts "
            "that begin alike would get the same vector; take pooling last_token or mean"
        )
    return pooling


@torch.no_grad()
def find_traits(backbone: nn.Module, where: object) -> Traits:
    """Run a float32 backbone on a few tokens; one of known shape is not run.

    Raises:
        ModelError: it does not turn (S, L) token ids and a mask into (S, L, D) states.
    """
    if BertWeights.from_hf(backbone) is not None:
        return Traits()
    config: Any = backbone.config
    try:
        short, other, long = probe(backbone)
        padded = torch.full_like(long, config.pad_token_id or 0)
        padded[:, :SHORT] = short
        mask = torch.ones_like(long)
        mask[:, SHORT:] = 0
        alone = states(backbone, short)[0]  # (SHORT, D)
        first = [states(backbone, ids)[0, 0] for ids in (short, other)]  # equal shapes: equal to the bit if causal
        beside = states(backbone, torch.cat([padded, long]), torch.cat([mask, torch.ones_like(mask)]))[0, :SHORT]
        return Traits(causal=differ(*first) < SAME, leaks_padding=differ(alone, beside) > NOISE)
    except Exception as error:  # what a forward pass raises that wants other inputs
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{where}: a {config.model_type} does not turn token ids and a mask into token states ({reason}); take an "
            "encoder or a decoder of text"
        ) from error


def probe(backbone: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    """(1, SHORT) ids, as many of which only the first is the same, and (1, LONG) others."""
    config: Any = backbone.config
    table: Any = backbone.get_input_embeddings()  # type: ignore[operator]
    rows = len(table.weight)
    ids = [row for row in range(rows // 2, rows) if row != config.pad_token_id][: SHORT + LONG]
    ids = (ids * (SHORT + LONG))[: SHORT + LONG]  # a vocabulary may be small
    return (
        torch.tensor([ids[:SHORT]]),
        torch.tensor([[ids[0], *ids[SHORT : 2 * SHORT - 1]]]),
        torch.tensor([ids[SHORT:]]),
    )


def states(backbone: nn.Module, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """(S, L) ids -> (S, L, D), in evaluation mode."""
    training = backbone.training
    try:
        hidden: Tensor = backbone.eval()(input_ids=ids, attention_mask=mask).last_hidden_state
    finally:
        backbone.train(training)
    if hidden.shape[:2] != ids.shape:
        raise ValueError(f"states of shape {tuple(hidden.shape)} for {tuple(ids.shape)} tokens")
    return hidden


def differ(a: Tensor, b: Tensor) -> float:
    """The largest difference, as a share of the largest state."""
    return float((a - b).abs().max() / a.abs().max().clamp(min=1e-30))
