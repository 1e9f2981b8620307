"""`SentenceEncoder`: backbone, pooling, and the projection where it belongs to the encoder."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from simcse.encoder import encode as inference
from simcse.encoder.backbone import TokenStates, longest_input, token_states, usual_length
from simcse.encoder.backends.allocator import prefer_large_pages
from simcse.encoder.backends.int8 import check_int8
from simcse.encoder.backends.torch_packed import PackedForward
from simcse.encoder.bulk import npy
from simcse.encoder.device import pick_device, pick_dtype
from simcse.encoder.formats import Layout, read_layout, resolve
from simcse.encoder.loading import load_backbone, load_tokenizer, quiet_transformers
from simcse.encoder.pooling import check_pooling, pool
from simcse.encoder.projection import Projection, read_head
from simcse.encoder.prompts import check_prompts, choose_prompt
from simcse.encoder.saving import pooler_weights, verified, write_settings
from simcse.encoder.traits import choose_pooling
from simcse.errors import ConfigError, DataError, ModelError, SimCSEError
from simcse.files import replaced_folder
from simcse.tokens.batch import TokenBatch
from simcse.tokens.tokenize import Tokenize

__all__ = ["SentenceEncoder"]

logger = logging.getLogger(__name__)
TOKENIZE_KEPT = 16  # tokenizing functions, one for each maximum length and prompt


class SentenceEncoder(nn.Module):
    """Sentence in, vector out.

    Build one with `from_pretrained`. As a module it maps a `TokenBatch` of S sequences to (S, D) vectors.

    Args:
        backbone: a Hugging Face encoder.
        tokenizer: its tokenizer.
        pooling: cls | mean | last_token | first_last_mean | top2_mean.
        projection: the head, if it is part of the encoder.
        max_length: tokens kept of each text, special tokens included; default all that the backbone takes.
        name: what it was loaded from; shown in reports and index manifests.
        prompts: texts to put before those to encode, by name.
        default_prompt_name: the prompt that is put there unless `encode` is given another.
        include_prompt: whether a prompt's tokens count in the pooling.
        truncate_dim: how many dimensions of a vector are kept; default all.

    Raises:
        ConfigError: an argument is out of range, or a name stands in place of the backbone.

    Attributes:
        truncated: texts that were cut at `max_length` so far.
        int8: whether `encode` multiplies in 8-bit integers.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        pooling: str = "cls",
        projection: Projection | None = None,
        max_length: int | None = None,
        name: str = "",
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        include_prompt: bool = True,
        truncate_dim: int | None = None,
    ) -> None:
        super().__init__()
        if tokenizer is None or not isinstance(backbone, nn.Module):
            raise ConfigError(
                f"SentenceEncoder({backbone!r:.60}): expected a backbone and its tokenizer; a name or a folder is what "
                "SentenceEncoder.from_pretrained loads"
            )
        check_prompts(prompts or {}, default_prompt_name, ConfigError, "")
        self.backbone: PreTrainedModel = backbone
        self.tokenizer = tokenizer
        self._tokenizing: dict[tuple[int, int, int, str], Tokenize] = {}
        self.pooling = check_pooling(pooling)
        self.projection = projection
        self.name = name
        self.max_length = usual_length(self.backbone_limit) if max_length is None else max_length
        self.check_length(self.max_length)
        self.prompts = dict(prompts or {})
        self.default_prompt_name = default_prompt_name
        self.include_prompt = include_prompt
        self.truncate_dim = check_truncate_dim(truncate_dim)
        self.truncated = 0
        self.int8 = False
        self.held: PackedForward | None = None
        self._told_truncated = False

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        pooling: str | None = None,
        projection: Literal["none", "pooler"] | None = None,
        max_length: int | None = None,
        dropout: float | None = None,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        revision: str | None = None,
    ) -> SentenceEncoder:
        """Load a folder of ours, of sentence-transformers, of the original SimCSE, or a plain encoder; or a hub id.

        Args:
            name: folder, hub id, or `package:NAME` for a Python package that carries a model.
            pooling: instead of what the folder says; where it says nothing cls, or last_token of a decoder.
            projection: "none" drops a stored head; "pooler" takes `pooler.dense`, where converted checkpoints of the
                original SimCSE keep theirs. Default: what the folder says.
            max_length: tokens kept of each text; default what the folder says, else all that the backbone takes.
            dropout: rate put in place of every dropout rate of the backbone.
            device: "auto" takes the accelerator, if there is one.
            dtype: "auto" | "fp32" | "bf16" | "fp16" | "int8"; auto takes bf16 where the device computes in it, else
                fp32; int8 is auto, with the larger products in 8-bit integers: for encoding on CPUs with AMX or VNNI.
            revision: of a hub id: branch, tag or commit.

        Raises:
            ModelError: no such model, a damaged one, or one that lacks weights which its pooling needs.
            ConfigError: an argument is out of range.
        """
        prefer_large_pages()
        folder = resolve(str(name), revision)
        layout = read_layout(folder, with_head=projection is None)
        head = read_head(folder, "pooler.dense") if projection == "pooler" else layout.projection
        place = pick_device(device)
        with quiet_transformers(), verified(folder, layout.digests):
            backbone = load_backbone(layout.folder, dropout=dropout)
            tokenizer = load_tokenizer(layout.folder, backbone, lower_case=layout.lower_case)
        encoder = cls(
            backbone,
            tokenizer,
            pooling=choose_pooling(pooling, layout.pooling, backbone, str(name)),
            projection=head,
            name=str(name),
            prompts=layout.prompts,
            default_prompt_name=layout.default_prompt_name,
            include_prompt=layout.include_prompt,
            truncate_dim=layout.truncate_dim,
        )
        if head is not None and head.linear.in_features != encoder.width:
            raise ModelError(
                f"{folder}: the head takes vectors of dimension {head.linear.in_features}, but the backbone gives "
                f"{encoder.width}; one of the two is another checkpoint's"
            )
        encoder.max_length = encoder.chosen_length(max_length, layout)
        encoder.int8 = dtype == "int8"
        if encoder.int8:
            check_int8(backbone, place)
        return encoder.to(place, pick_dtype(dtype, place)).eval()

    def forward(self, batch: TokenBatch, states: TokenStates | None = None, left_out: int = 0) -> Tensor:
        """S token sequences -> (S, d) vectors, not normalised.

        Args:
            batch: the sequences.
            states: in place of `backbone.token_states`.
            left_out: so many tokens at the beginning of each sequence do not count in the pooling.
        """
        pooled = pool(self.pooling, states or partial(token_states, self.backbone), batch, left_out)  # (S, D)
        vectors = pooled if self.projection is None else self.projection(pooled)  # (S, D)
        return vectors[:, : self.truncate_dim]  # (S, d)

    def encode(
        self,
        texts: str | Sequence[str],
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        normalize: bool = True,
        batch_size: int | None = None,
        max_length: int | None = None,
        show_progress: bool = False,
    ) -> np.ndarray:
        """Vectors of texts, in their order.

        Args:
            texts: one text -> (d,); n texts -> (n, d). An empty text is a valid one (special tokens alone).
            prompt: put before each text; "" for none. Default: the prompt of that name, else the default prompt.
            prompt_name: a key of `prompts`.
            normalize: to unit length, so that a dot product is a cosine.
            batch_size: the most texts in a batch; default: what the token budget holds. It never changes a vector.
            max_length: tokens kept of each text in this call.
            show_progress: a bar on stderr.

        Returns:
            float32 array.

        Raises:
            DataError: `texts` is neither text nor list, or an element of it no string.
            ConfigError: no prompt of that name; a prompt or maximum length that leaves no room, or is too long.
            ModelError: a vector is not finite; names the text.
        """
        if not isinstance(texts, str | Iterable) or isinstance(texts, bytes):
            raise DataError(f"texts is of type {type(texts).__name__}, expected a text or a list of texts")
        many = [texts] if isinstance(texts, str) else list(texts)
        tokenize = self.tokenize(max_length, self.resolve_prompt(prompt, prompt_name))
        vectors = inference.encode(
            self, many, tokenize, normalize=normalize, batch_size=batch_size, show_progress=show_progress
        )
        return vectors[0] if isinstance(texts, str) else vectors

    def encode_to(self, path: str | Path, texts: Iterable[str], *, resume: bool = True, **options: Any) -> int:
        """Encode any number of texts into an `.npy` file, in constant memory; see `bulk.npy.encode_to`."""
        return npy.encode_to(self, path, texts, resume=resume, **options)

    def resolve_prompt(self, prompt: str | None = None, prompt_name: str | None = None) -> str:
        """What `encode` puts before each text when it is given these; "" for nothing.

        Raises:
            ConfigError: no prompt has that name.
        """
        return choose_prompt(self.prompts, self.default_prompt_name, prompt, prompt_name)

    def similarity(self, a: str | Sequence[str], b: str | Sequence[str] | None = None) -> np.ndarray:
        """Cosine of each text of `a` with each of `b`: (n_a, n_b); a single text counts as a list of one.

        Args:
            a: n_a texts.
            b: n_b texts; default `a`.

        Raises:
            DataError: vectors stand in place of texts.
        """
        sides = a, a if b is None else b
        for side in sides:
            if isinstance(side, Tensor) or (isinstance(side, np.ndarray) and side.dtype.kind == "f"):
                raise DataError(
                    f"similarity compares texts, found vectors of shape {tuple(side.shape)}; those of length 1, as "
                    "encode gives them, are compared by a @ b.T"
                )
        left, right = (np.atleast_2d(self.encode(texts)) for texts in sides)
        cosines: np.ndarray = np.clip(left @ right.T, -1.0, 1.0)  # (n_a, n_b)
        return cosines

    def hold(self) -> Self:
        """Lay the weights out for inference once, not in each call of `encode`: for many calls of few texts each.

        Takes a copy of the weights, which `train()` and `to()` let go; call it again after changing weights otherwise.
        """
        self.held = inference.laid_out(self, self.tokenize(), inference.TOKENS_HELD)
        return self

    def train(self, mode: bool = True) -> Self:
        """As in torch; weights about to change are no longer held."""
        if mode:
            self.held = None
        return super().train(mode)

    def _apply(self, *args: Any, **options: Any) -> Self:
        self.held = None
        moved: Self = super()._apply(*args, **options)  # type: ignore[no-untyped-call]
        return moved

    def tokenize(self, max_length: int | None = None, prompt: str = "") -> Tokenize:
        """A tokenizing function with this encoder's maximum length, or another, and with a prompt before each text.

        Raises:
            ConfigError: the length is out of range, or the prompt leaves no room for a text.
        """
        length = self.max_length if max_length is None else max_length
        self.check_length(length)
        wanted = (id(self.tokenizer), len(self.tokenizer), length, prompt)
        made = self._tokenizing.get(wanted)
        if made is None:  # making one takes longer than a text or two
            if prompt:
                made = self.tokenize(length).prompted(prompt, pooled=self.include_prompt)
            else:
                made = Tokenize(self.tokenizer, length)
            if len(self._tokenizing) >= TOKENIZE_KEPT:
                self._tokenizing.clear()
            self._tokenizing[wanted] = made
        return made

    def check_length(self, length: object, error: type[SimCSEError] = ConfigError, where: str = "") -> None:
        """Raise that error if texts cannot be cut at so many tokens."""
        least, most = self.tokenizer.num_special_tokens_to_add(pair=False) + 1, self.backbone_limit
        if type(length) is not int or not least <= length <= most:
            raise error(
                f"{where}max_length is {length!r:.40}: {self.name or 'this encoder'} takes {least} to {most} tokens, "
                f"{least - 1} special ones included"
            )

    def chosen_length(self, asked: int | None, layout: Layout) -> int:
        """The maximum length that is asked for, else the folder's, else all that the backbone takes."""
        if asked is not None or layout.max_length is None:
            chosen = usual_length(self.backbone_limit) if asked is None else asked
            self.check_length(chosen)
            return chosen
        # sentence-transformers' folders may say more than the backbone takes; ours never do
        chosen = layout.max_length if layout.digests else min(layout.max_length, self.backbone_limit)
        self.check_length(chosen, ModelError, f"{layout.folder}: ")
        return chosen

    def count_truncated(self, cut: int, max_length: int) -> None:
        """Add to `truncated`, and say so once."""
        self.truncated += cut
        if cut and not self._told_truncated:
            self._told_truncated = True
            logger.warning(
                "%d %s longer than max_length=%d tokens and cut (said once; encoder.truncated counts on)",
                cut,
                "text is" if cut == 1 else "texts are",
                max_length,
            )

    @property
    def backbone_limit(self) -> int:
        """The most tokens, special ones included, that the backbone has positions for."""
        return longest_input(self.backbone.config, self.tokenizer.model_max_length)

    @property
    def dimension(self) -> int:
        """d of the vectors."""
        whole = self.projection.linear.out_features if self.projection is not None else self.width
        return whole if self.truncate_dim is None else min(whole, self.truncate_dim)

    @property
    def width(self) -> int:
        """D of the token states."""
        config: Any = self.backbone.config
        return int(config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return next(self.parameters()).dtype

    @property
    def fingerprint(self) -> str:
        """16 hex digits of weights, pooling, maximum length, default prompt, dimensions; the same in fp32 and bf16."""
        settings = f"{self.pooling} {self.max_length}"
        if prompt := self.resolve_prompt():
            settings += f" {self.include_prompt} {prompt!r}"
        if self.truncate_dim is not None:
            settings += f" {self.dimension}"
        digest = hashlib.sha256(settings.encode())
        for key, value in self.state_dict().items():
            digest.update(key.encode())
            digest.update(value.to("cpu", torch.bfloat16).contiguous().view(torch.uint8).numpy())
        return digest.hexdigest()[:16]

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write a folder that loads here, in `AutoModel` and in `SentenceTransformer`; it replaces an older one."""
        with replaced_folder(folder) as new:
            self.write(new)
        return Path(folder)

    def write(self, new: Path) -> None:
        """Write the files of `save_pretrained` into an empty folder."""
        config: Any = self.backbone.config
        with quiet_transformers():
            pooler = pooler_weights(self.backbone, self.projection if self.pooling == "cls" else None)
            self.backbone.save_pretrained(new, state_dict=self.backbone.state_dict() | pooler)
            self.tokenizer.save_pretrained(new)
            write_settings(
                new, pooling=self.pooling, projection=self.projection, width=self.width,
                layers=config.num_hidden_layers, max_length=self.max_length, prompts=self.prompts,
                default_prompt_name=self.default_prompt_name, include_prompt=self.include_prompt,
                truncate_dim=self.truncate_dim,
            )  # fmt: skip


def check_truncate_dim(kept: int | None) -> int | None:
    """The number itself.

    Raises:
        ConfigError: it is no integer from 1 on.
    """
    if kept is not None and (type(kept) is not int or kept < 1):
        raise ConfigError(f"truncate_dim is {kept!r:.40}, expected at least 1 dimension, or None for all")
    return kept
