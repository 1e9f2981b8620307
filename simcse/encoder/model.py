"""`SentenceEncoder`: backbone, pooling, and the projection where it belongs to the encoder."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from simcse import uncollected
from simcse.argument_names import TellsOtherNames, knows_other_names
from simcse.encoder import encode as inference
from simcse.encoder.backbone import check_length, choose_length, longest_input, usual_length
from simcse.encoder.backends.allocator import prefer_large_pages
from simcse.encoder.backends.base import TokenStates
from simcse.encoder.backends.bert_modules import BertModules
from simcse.encoder.backends.int8 import calibration_batch
from simcse.encoder.backends.select import choose_backend, choose_dtype, prepared_backend, release, training_pass
from simcse.encoder.bulk import npy
from simcse.encoder.device import pick_device
from simcse.encoder.formats import read_layout, resolve
from simcse.encoder.loading import load_backbone, load_modules
from simcse.encoder.on_demand import BackboneOnDemand
from simcse.encoder.pooling import check_pooling, pool
from simcse.encoder.projection import Projection, check_truncate_dim, read_head
from simcse.encoder.prompts import check_prompts, choose_prompt, with_role
from simcse.encoder.saving import digest, verified, write_checkpoint
from simcse.encoder.tokenizer import load_tokenizer
from simcse.encoder.traits import choose_pooling
from simcse.errors import ConfigError, DataError
from simcse.files import replaced_folder
from simcse.tokens.batch import TokenBatch
from simcse.tokens.on_demand import TokenizerOnDemand
from simcse.tokens.tokenize import Tokenize, TokenizeCache
from simcse.vectors import Quantize

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["SentenceEncoder"]

logger = logging.getLogger(__name__)
_counting = threading.Lock()  # an encoder is copied and pickled, which a lock of its own is not


class SentenceEncoder(TellsOtherNames, BackboneOnDemand):
    """Sentence in, vector out. Build one with `from_pretrained`.

    As a module it maps a `TokenBatch` of S sequences to (S, d) vectors with
    gradients; `encode` is the fast way without. It prepares the weights once, and again when one was changed by an
    optimizer, `load_state_dict` or `to`; it does not see a write in place through `.data`, nor does autograd.

    Args:
        backbone: a Hugging Face encoder, or the modules that make one.
        tokenizer: its tokenizer.
        pooling: cls | mean | last_token | first_last_mean | top2_mean.
        projection: the head, if it is part of the encoder.
        max_length: tokens kept of each text, special tokens included; default all that the backbone accepts.
        name: what it was loaded from; shown in reports and index manifests.
        prompts: texts to put before those to encode, by name.
        default_prompt_name: the prompt that is put there unless `encode` is given another.
        include_prompt: whether a prompt's tokens count in the pooling.
        truncate_dim: how many dimensions of a vector are kept; default all.
        backend: what to ask for to compute token states in `encode`, as in `from_pretrained`.

    Raises:
        ConfigError: an argument is out of range, or a name stands in place of the backbone.

    Attributes:
        asked_backend: the backend that was asked for, `auto` perhaps; `backend` is the one that runs.
        truncated: texts that were cut at `max_length` so far.
    """

    def __init__(
        self,
        backbone: PreTrainedModel | BertModules,
        tokenizer: PreTrainedTokenizerBase | TokenizerOnDemand | None = None,
        *,
        pooling: str = "cls",
        projection: Projection | None = None,
        max_length: int | None = None,
        name: str = "",
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        include_prompt: bool = True,
        truncate_dim: int | None = None,
        backend: str = "auto",
    ) -> None:
        if tokenizer is None or not isinstance(backbone, nn.Module):
            raise ConfigError(
                f"SentenceEncoder({backbone!r:.60}): expected a backbone and its tokenizer; a name or a folder is what "
                "SentenceEncoder.from_pretrained loads"
            )
        check_prompts(prompts or {}, default_prompt_name, ConfigError, "")
        super().__init__(backbone, tokenizer)
        self._tokenizing = TokenizeCache()
        self.pooling = check_pooling(pooling)
        self.projection = projection
        self.name = name
        self.max_length = usual_length(self.backbone_limit) if max_length is None else max_length
        check_length(self.max_length, tokenizer, self.backbone_limit, name)
        self.prompts = dict(prompts or {})
        self.default_prompt_name = default_prompt_name
        self.include_prompt = include_prompt
        self.truncate_dim = check_truncate_dim(truncate_dim)
        self.asked_backend = backend
        self.truncated = 0
        self._warned_truncated = False

    @classmethod
    @knows_other_names
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        pooling: str | None = None,
        projection: Literal["none", "pooler"] | None = None,
        max_length: int | None = None,
        truncate_dim: int | None = None,
        dropout: float | None = None,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        backend: str = "auto",
        revision: str | None = None,
    ) -> SentenceEncoder:
        """Load a folder of ours, of sentence-transformers, of the original SimCSE, or a plain encoder; or a hub id.

        Args:
            name: folder, hub id, or `package:NAME` for a Python package that carries a model.
            pooling: instead of what the folder says; where it says nothing cls, or last_token of a decoder.
            projection: "none" drops a stored head; "pooler" takes `pooler.dense`, where converted checkpoints of the
                original SimCSE keep theirs. Default: what the folder says.
            max_length: tokens kept of each text; default what the folder says, else all that the backbone accepts.
            truncate_dim: how many dimensions of a vector are kept, of an encoder that was trained for it (Matryoshka);
                what is left is normalised. Default what the folder says, else all.
            dropout: rate put in place of every dropout rate of the backbone.
            device: "auto" is the accelerator, if there is one.
            dtype: "auto" | "fp32" | "bf16" | "fp16" | "int8", or as torch names them; auto is bf16 where the device
                computes in it, else fp32; int8 is auto, with the backend int8.
            backend: what computes token states in `encode`: "huggingface" (the backbone's own forward pass), "torch"
                (BERT and its kin without padding), "native" (their layers by a kernel for AMX, AVX-512 or AVX2),
                "int8" (linear maps in 8-bit integers, on CPUs with AMX, VNNI or AVX2), "onnx" (the graph that
                `simcse export --format onnx` wrote, in fp32 on the CPU), "cuda_varlen" (BERT and its kin by torch's
                variable-length attention, in bf16 or fp16 on CUDA); auto is the fastest of the first three that can
                compute the model.
            revision: of a hub id: branch, tag or commit.

        Raises:
            ModelError: no such model, a damaged one, or one that lacks weights which its pooling needs.
            ConfigError: an argument is out of range, or the backend cannot compute the model here.
        """
        prefer_large_pages()
        folder = resolve(name, revision, onnx=backend == "onnx")
        layout = read_layout(folder, with_head=projection is None)
        head = read_head(folder, "pooler.dense") if projection == "pooler" else layout.projection
        place = pick_device(device)
        with uncollected(), verified(folder, layout.digests, onnx=backend == "onnx"):
            modules = None if backend in ("huggingface", "onnx") else load_modules(layout.folder, dropout=dropout)
            backbone = modules or load_backbone(layout.folder, dropout=dropout)
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
            truncate_dim=layout.truncate_dim if truncate_dim is None else truncate_dim,
            backend="int8" if dtype == "int8" and backend == "auto" else backend,
        )
        if head is not None:
            head.check_width(encoder.width, folder)
        if truncate_dim is not None and encoder.dimension < truncate_dim:
            raise ConfigError(f"truncate_dim is {truncate_dim}, expected 1 to {encoder.dimension}, all of {name}'s")
        limit, ours = encoder.backbone_limit, layout.folder if layout.digests else None
        encoder.max_length = choose_length(max_length, layout.max_length, tokenizer, limit, str(name), ours)
        dtype_here = "fp32" if backend == "onnx" and dtype == "auto" else dtype
        encoder = encoder.to(place, choose_dtype(backbone, dtype_here, place, encoder.asked_backend)).eval()
        choose_backend(backbone, encoder.asked_backend, "dtype" if dtype == "int8" and backend == "auto" else "backend")
        return encoder

    def forward(self, batch: TokenBatch) -> Tensor:
        """S token sequences -> (S, d) vectors, not normalised, with gradients."""
        return self.pooled(training_pass(self.backbone, self.asked_backend), inference.checked_batch(batch))

    def pooled(self, states: TokenStates, batch: TokenBatch) -> Tensor:
        """S token sequences -> (S, d) vectors, not normalised; `states` is what computes token states."""
        pooled = pool(self.pooling, states, batch)  # (S, D)
        vectors = pooled if self.projection is None else self.projection(pooled)  # (S, D)
        return vectors[:, : self.truncate_dim]  # (S, d)

    @knows_other_names
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
        vectors = self._encode(tokenize, normalize, batch_size, many, show_progress)
        return vectors[0] if isinstance(texts, str) else vectors

    def encode_query(self, texts: str | Sequence[str], **options: Any) -> np.ndarray:
        """As `encode`, of texts that are searched for: with the prompt `query`, if the checkpoint has one."""
        return self.encode(texts, **with_role("query", self.prompts, options))

    def encode_document(self, texts: str | Sequence[str], **options: Any) -> np.ndarray:
        """As `encode`, of texts to be found: with the first of the prompts `document`, `passage`, `corpus`."""
        return self.encode(texts, **with_role("document", self.prompts, options))

    @knows_other_names
    def encode_to(
        self,
        path: str | Path,
        texts: Iterable[str],
        *,
        ids: Iterable[int | str | None] | None = None,
        quantize: Quantize = "none",
        resume: bool = True,
        prompt: str | None = None,
        prompt_name: str | None = None,
        role: Literal["query", "document"] | None = None,
        normalize: bool = True,
        batch_size: int | None = None,
        max_length: int | None = None,
        total: int | None = None,
        show_progress: bool = False,
    ) -> int:
        """Encode any number of texts into an `.npy`, `.npz`, `.parquet` or `.jsonl` file; returns how many.

        Options as in `encode`, `vectors.quantize` and `bulk.npy.encode_to`, which says what it raises; `role` chooses
        the prompt as `encode_query` and `encode_document` do.
        """
        tokenize = self.tokenize(max_length, self.resolve_prompt(prompt, prompt_name, role))
        made_by = f"{self.fingerprint}, max_length {tokenize.max_length}, normalize {normalize}"
        made_by += f", prompt {tokenize.prompt!r}" if tokenize.prompt else ""
        return npy.encode_to(
            path, texts, partial(self._encode, tokenize, normalize, batch_size), made_by=made_by, ids=ids,
            quantize=quantize, resume=resume, total=total, show_progress=show_progress,
        )  # fmt: skip

    def _encode(
        self, tokenize: Tokenize, normalize: bool, batch_size: int | None, texts: Sequence[str], show: bool = False
    ) -> np.ndarray:
        """(n, d) vectors of n texts, in evaluation mode; raises as `encode`."""
        was_training = self.training
        if was_training or self.loaded.training:
            self.eval()
            release(self.loaded)  # a fused optimizer's step changes weights and not their versions
        try:
            backend = prepared_backend(self.loaded, self.asked_backend, partial(calibration_batch, self.tokenize()))
            vectors, cut = inference.encode(
                texts, tokenize, backend, partial(self.pooled, backend), name=self.name, dimension=self.dimension,
                normalize=normalize, batch_size=batch_size, show_progress=show,
            )  # fmt: skip
        finally:
            if was_training:
                self.train()
        if not cut:
            return vectors
        with _counting:
            self.truncated += cut
            first, self._warned_truncated = not self._warned_truncated, True
        if first:
            what = f"{'1 text is' if cut == 1 else f'{cut} texts are'} longer than max_length={tokenize.max_length}"
            logger.warning("%s tokens and cut (said once; encoder.truncated counts on)", what)
        return vectors

    def resolve_prompt(self, prompt: str | None = None, prompt_name: str | None = None, role: str | None = None) -> str:
        """What `encode` puts before each text when it is given these, or `encode_query`, `encode_document` by their
        roles `query`, `document`; "" for nothing.

        Raises:
            ConfigError: no prompt has that name, or there is no such role.
        """
        explicit = with_role(role, self.prompts, {"prompt": prompt, "prompt_name": prompt_name})
        return choose_prompt(self.prompts, self.default_prompt_name, **explicit)

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
            inference.check_no_vectors(side)
        left, right = (np.atleast_2d(self.encode(texts)) for texts in sides)
        return np.clip(left @ right.T, -1.0, 1.0)  # type: ignore[no-any-return]  # (n_a, n_b)

    def __repr__(self) -> str:
        try:
            backend = self.backend
        except ConfigError:
            backend = f"{self.asked_backend}, which cannot compute it here"
        return (
            f"SentenceEncoder({self.name!r}, dimension {self.dimension}, pooling {self.pooling}, max_length "
            f"{self.max_length}, {str(self.dtype).removeprefix('torch.')} on {self.device}, backend {backend})"
        )

    def train(self, mode: bool = True) -> Self:
        """As in torch; frees the memory of prepared weights."""
        if mode:
            release(self.backbone)
        return super().train(mode)

    def _apply(self, *args: Any, **options: Any) -> Self:
        moved: Self = super()._apply(*args, **options)  # type: ignore[no-untyped-call]
        release(self.loaded, unless_current=True)
        return moved

    def tokenize(self, max_length: int | None = None, prompt: str = "") -> Tokenize:
        """A tokenizing function with this encoder's maximum length, or another, and with a prompt before each text.

        Raises:
            ConfigError: the length is out of range, or the prompt leaves no room for a text.
        """
        length = self.max_length if max_length is None else max_length
        check_length(length, self.loaded_tokenizer, self.backbone_limit, self.name)
        return self._tokenizing(self.loaded_tokenizer, length, prompt, pooled=self.include_prompt)

    @property
    def backbone_limit(self) -> int:
        """The most tokens, special ones included, that the backbone has positions for."""
        config: Any = self.loaded.config
        return longest_input(config, self.loaded_tokenizer.model_max_length)

    @property
    def dimension(self) -> int:
        """d of the vectors."""
        whole = self.projection.linear.out_features if self.projection is not None else self.width
        return whole if self.truncate_dim is None else min(whole, self.truncate_dim)

    @property
    def backend(self) -> str:
        """What computes token states in `encode` now, never `auto`; raises as `choose_backend`."""
        return choose_backend(self.loaded, self.asked_backend)

    @property
    def fingerprint(self) -> str:
        """16 hex digits of weights, pooling, maximum length, default prompt, dimensions; the same in fp32 and bf16."""
        settings = f"{self.pooling} {self.max_length}"
        if prompt := self.resolve_prompt():
            settings += f" {self.include_prompt} {prompt!r}"
        if self.truncate_dim is not None:
            settings += f" {self.dimension}"
        return digest(settings, self.state_dict())

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write a folder that loads here, in `AutoModel` and in `SentenceTransformer`; it replaces an older one."""
        with replaced_folder(folder) as new:
            self.write(new)
        return Path(folder)

    def write(self, new: Path) -> None:
        """Write the files of `save_pretrained` into an empty folder."""
        write_checkpoint(new, self)
