"""A Hugging Face encoder's dropout rates, and how many tokens it accepts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simcse.errors import ConfigError, ModelError, SimCSEError
from simcse.tokens.on_demand import TokenizerOnDemand

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

__all__ = [
    "check_length",
    "choose_length",
    "longest_input",
    "override_dropout",
    "padding_position",
    "usual_length",
]

# parts of names of rates that do not act on token states: heads' own, and those at which whole layers are left out
OTHER_RATES = ("classif", "summary", "qa_", "pooler", "head", "layerdrop", "drop_path")
COUNT_FROM_PADDING = {"camembert", "data2vec-text", "longformer", "roberta", "xlm-roberta", "xlm-roberta-xl"}
NO_LIMIT = 1_000_000  # tokens; what stands for a backbone that accepts any number, and a tokenizer that allows it


def override_dropout(config: PretrainedConfig, rate: float) -> None:
    """Set every dropout rate that the configuration has.

    Raises:
        ConfigError: the rate is outside [0, 1), or the architecture has no dropout to set.
    """
    if not 0 <= rate < 1:
        raise ConfigError(f"dropout is {rate}: a rate is at least 0 and below 1")
    known = dropout_rates(config)
    if not known:
        raise ConfigError(f"dropout: a {config.model_type} backbone has no dropout rate to set; leave it out")
    for key in known:
        setattr(config, key, rate)


def dropout_rates(config: PretrainedConfig) -> dict[str, float]:
    """The rates that act on hidden states and attention weights: each kind of backbone has its own names for them."""
    return {
        key: value
        for key, value in config.to_dict().items()
        if "drop" in key and not any(part in key for part in OTHER_RATES)
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def longest_input(config: PretrainedConfig, tokenizer_limit: float) -> int:
    """The most tokens, special ones included, that the backbone has positions for and its tokenizer allows.

    A backbone without a table of positions (T5), or with -1 of them (XLNet), accepts any number.
    """
    positions = getattr(config, "max_position_embeddings", None) or -1
    padding = padding_position(config)
    limit = positions - (0 if padding is None else padding + 1) if positions > 0 else NO_LIMIT
    return int(min(limit, tokenizer_limit, NO_LIMIT))


def usual_length(limit: int) -> int:
    """Tokens to keep of each text by default: all that the backbone accepts, 512 where that is any number."""
    return 512 if limit >= NO_LIMIT else limit


def padding_position(config: PretrainedConfig) -> int | None:
    """The row behind which positions begin, as RoBERTa and its kin count them; None: they begin at row 0."""
    if config.model_type == "mpnet":  # whose padding index is 1, whatever its configuration says
        return 1
    return config.pad_token_id if config.model_type in COUNT_FROM_PADDING else None


def check_length(
    length: object,
    tokenizer: PreTrainedTokenizerBase | TokenizerOnDemand,
    limit: int,
    name: str,
    error: type[SimCSEError] = ConfigError,
    where: str = "",
) -> None:
    """Raise that error if texts cannot be cut at so many tokens."""
    least = tokenizer.num_special_tokens_to_add(pair=False) + 1
    if type(length) is not int or not least <= length <= limit:
        raise error(
            f"{where}max_length is {length!r:.40}: {name or 'this encoder'} takes {least} to {limit} tokens, "
            f"{least - 1} special ones included"
        )


def choose_length(
    asked: int | None,
    stored: int | None,
    tokenizer: PreTrainedTokenizerBase | TokenizerOnDemand,
    limit: int,
    name: str,
    folder: object,
) -> int:
    """The maximum length that is asked for, else the stored one, else all that the backbone accepts.

    Args:
        asked: by the caller.
        stored: in the folder.
        tokenizer: whose special tokens count.
        limit: tokens that the backbone has positions for.
        name: of the encoder.
        folder: if it is one of ours, whose length is never beyond the limit; sentence-transformers' may be.

    Raises:
        ConfigError: the length that is asked for is out of range.
        ModelError: the folder's is.
    """
    if asked is not None or stored is None:
        chosen = usual_length(limit) if asked is None else asked
        check_length(chosen, tokenizer, limit, name)
        return chosen
    chosen = stored if folder else min(stored, limit)
    check_length(chosen, tokenizer, limit, name, ModelError, f"{folder}: " if folder else "")
    return chosen
