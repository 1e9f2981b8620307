"""What transformers has made of a checkpoint, once someone asks for it: its import takes a second, its models more."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn

from simcse.encoder.backends.bert_modules import BertModules
from simcse.encoder.configuration import whole_config
from simcse.encoder.loading import new_backbone
from simcse.tokens.on_demand import TokenizerOnDemand, whole_tokenizer

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["BackboneOnDemand", "whole_backbone"]

_making = threading.RLock()  # all threads get the same one


class BackboneOnDemand(nn.Module):
    """A module that has a backbone and its tokenizer.

    Args:
        loaded: a Hugging Face encoder, or the modules that make one once `backbone` is asked for.
        tokenizer: a Hugging Face tokenizer, or what makes one once `tokenizer` is asked for.
    """

    def __init__(
        self, loaded: PreTrainedModel | BertModules, tokenizer: PreTrainedTokenizerBase | TokenizerOnDemand
    ) -> None:
        super().__init__()
        self._modules["backbone"] = loaded
        self.loaded_tokenizer = tokenizer

    @property
    def loaded(self) -> nn.Module:
        """The Hugging Face encoder, or its modules as long as no one has asked for it."""
        loaded: Any = self._modules["backbone"]
        return loaded  # type: ignore[no-any-return]

    @property
    def backbone(self) -> PreTrainedModel:
        """The Hugging Face encoder."""
        with _making:
            self._modules["backbone"] = whole = whole_backbone(self.loaded)
        return whole

    def whole(self) -> Self:
        """Itself, its backbone made: what copies or wraps a module for training finds all that will compute."""
        self._modules["backbone"] = self.backbone
        return self

    @property
    def config(self) -> PretrainedConfig:
        """The Hugging Face configuration of the backbone."""
        loaded: Any = self.loaded
        with _making:
            loaded.config = whole = whole_config(loaded.config)
        return whole

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The Hugging Face tokenizer."""
        with _making:
            self.loaded_tokenizer = whole = whole_tokenizer(self.loaded_tokenizer)
        return whole

    @tokenizer.setter
    def tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.loaded_tokenizer = tokenizer

    @property
    def width(self) -> int:
        """D of the token states."""
        config: Any = self.loaded.config
        return int(config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return next(self.parameters()).dtype


def whole_backbone(backbone: nn.Module) -> PreTrainedModel:
    """The backbone itself, or a Hugging Face encoder of these modules, which are then parts of both."""
    if not isinstance(backbone, BertModules):
        return backbone  # type: ignore[return-value]
    from transformers.initialization import no_init_weights

    backbone.config = whole_config(backbone.config)
    with no_init_weights():  # its own modules give way at once
        whole: Any = new_backbone(backbone.config)
    for path, module in backbone.named_modules():
        if not module._modules:
            whole.set_submodule(path, module)
    whole.to(next(backbone.parameters()).device)  # the buffers, which are its own
    return whole.train(backbone.training)  # type: ignore[no-any-return]
