"""`SentenceEncoder`: backbone, pooling, and the projection where it belongs to the encoder."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from simcse.encoder import inference
from simcse.encoder.allocator import prefer_large_pages
from simcse.encoder.backbone import TokenStates, load_backbone, longest_input, token_states
from simcse.encoder.batching import TokenBatch
from simcse.encoder.cpu import cpu_flags
from simcse.encoder.formats import Projection, read_head, read_layout, resolve, write_sentence_transformers
from simcse.encoder.packed_forward import PackedForward
from simcse.encoder.pooling import POOLINGS
from simcse.encoder.quantized import check_int8
from simcse.encoder.tokenize import Tokenize
from simcse.errors import ConfigError, ModelError, nearest
from simcse.files import replaced_folder

__all__ = ["SentenceEncoder", "pick_device", "pick_dtype"]

logger = logging.getLogger(__name__)
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class SentenceEncoder(nn.Module):
    """Sentence in, vector out.

    Build one with `from_pretrained`. As a module it maps a `TokenBatch` of S sequences to (S, D) vectors.

    Args:
        backbone: a Hugging Face encoder.
        tokenizer: its tokenizer.
        pooling: cls | mean | first_last_mean | top2_mean.
        projection: the head, if it is part of the encoder.
        max_length: tokens kept of each text, special tokens included.
        name: what it was loaded from; shown in reports and index manifests.

    Attributes:
        truncated: texts that were cut at `max_length` so far.
        int8: whether `encode` multiplies in 8-bit integers.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        pooling: str = "cls",
        projection: Projection | None = None,
        max_length: int = 512,
        name: str = "",
    ) -> None:
        super().__init__()
        self.backbone: PreTrainedModel = backbone
        self.tokenizer = tokenizer
        self._tokenize: tuple[tuple[int, int, int], Tokenize] | None = None
        self.pooling = check_pooling(pooling)
        self.projection = projection
        self.max_length = max_length
        self.name = name
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
            pooling: instead of what the folder says; cls where it says nothing.
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
        with quiet_transformers():
            backbone = load_backbone(layout.folder, dropout=dropout)
            tokenizer = load_tokenizer(layout.folder)
        limit = longest_input(backbone.config, tokenizer.model_max_length)
        if max_length is not None and not 2 < max_length <= limit:
            raise ConfigError(f"max_length is {max_length}: {name} takes 3 to {limit} tokens")
        encoder = cls(
            backbone,
            tokenizer,
            pooling=pooling or layout.pooling or "cls",
            projection=head,
            max_length=max_length or min(layout.max_length or limit, limit),
            name=str(name),
        )
        encoder.int8 = dtype == "int8"
        if encoder.int8:
            check_int8(backbone, place)
        return encoder.to(place, pick_dtype(dtype, place)).eval()

    def forward(self, batch: TokenBatch, states: TokenStates | None = None) -> Tensor:
        """S token sequences -> (S, D) vectors, not normalised; `states` in place of `backbone.token_states`."""
        pooling = POOLINGS[self.pooling]
        compute = states or partial(token_states, self.backbone)
        pooled = pooling.reduce(compute(batch, pooling.layers, first_only=pooling.first_only), batch)  # (S, D)
        return pooled if self.projection is None else self.projection(pooled)

    def encode(
        self,
        texts: str | Sequence[str],
        *,
        normalize: bool = True,
        batch_size: int | None = None,
        max_length: int | None = None,
        show_progress: bool = False,
    ) -> np.ndarray:
        """Vectors of texts, in their order.

        Args:
            texts: one text -> (d,); n texts -> (n, d). An empty text is a valid one (special tokens alone).
            normalize: to unit length, so that a dot product is a cosine.
            batch_size: the most texts in a batch; default: what the token budget holds. It never changes a vector.
            max_length: tokens kept of each text in this call.
            show_progress: a bar on stderr.

        Returns:
            float32 array.

        Raises:
            DataError: an element of `texts` is no string.
            ModelError: a vector is not finite; names the text.
        """
        many = [texts] if isinstance(texts, str) else list(texts)
        tokenize = self.tokenize(max_length)
        vectors = inference.encode(
            self, many, tokenize, normalize=normalize, batch_size=batch_size, show_progress=show_progress
        )
        return vectors[0] if isinstance(texts, str) else vectors

    def encode_to(self, path: str | Path, texts: Iterable[str], *, resume: bool = True, **options: Any) -> int:
        """Encode any number of texts into an `.npy` file, in constant memory; see `inference.encode_to`."""
        return inference.encode_to(self, path, texts, resume=resume, **options)

    def similarity(self, a: str | Sequence[str], b: str | Sequence[str]) -> np.ndarray:
        """Cosine of each text of `a` with each of `b`: (n_a, n_b); a single text counts as a list of one."""
        left, right = (np.atleast_2d(self.encode(texts)) for texts in (a, b))
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

    def tokenize(self, max_length: int | None = None) -> Tokenize:
        """A tokenizing function with this encoder's maximum length, or another."""
        wanted = (id(self.tokenizer), len(self.tokenizer), max_length or self.max_length)
        if self._tokenize is None or self._tokenize[0] != wanted:  # making one takes longer than a text or two
            self._tokenize = wanted, Tokenize(self.tokenizer, wanted[-1])
        return self._tokenize[1]

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
        return self.projection.linear.out_features if self.projection is not None else self.width

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
        """16 hex digits of the weights, pooling and maximum length; the same in fp32 and bf16."""
        digest = hashlib.sha256(f"{self.pooling} {self.max_length}".encode())
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
            self.backbone.save_pretrained(new)
            self.tokenizer.save_pretrained(new)
            write_sentence_transformers(
                new, pooling=self.pooling, projection=self.projection, width=self.width,
                layers=config.num_hidden_layers, max_length=self.max_length,
            )  # fmt: skip


def check_pooling(name: str) -> str:
    """The name itself.

    Raises:
        ConfigError: it is none; lists the known ones.
    """
    if name not in POOLINGS:
        raise ConfigError(f"pooling {name!r} is not one of {', '.join(POOLINGS)}{nearest(name, POOLINGS)}")
    return name


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No bars and load reports: what they would say is checked and raised here."""
    bars, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint folder.

    Raises:
        ModelError: there is none, or its files are damaged.
    """
    if not any(file for pattern in VOCABULARIES for file in folder.glob(pattern)):  # else an empty vocabulary would do
        raise ModelError(f"{folder}: no usable tokenizer (none of {', '.join(VOCABULARIES)}); copy its files there")
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
        return tokenizer
    except Exception as error:  # tokenizer files fail in as many ways as there are parsers
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{folder}: no usable tokenizer ({reason}); copy its files there anew") from error


def pick_device(device: str | torch.device) -> torch.device:
    """`auto` is the accelerator, if there is one, else the CPU.

    Raises:
        ConfigError: the device does not exist here.
    """
    if device == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except Exception as error:  # torch raises RuntimeError, AssertionError or NotImplementedError
        raise ConfigError(f"device {str(device)!r} is not to be had here; try auto or cpu") from error
    return place


def pick_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """`auto` is bf16 where the device computes in it natively, else fp32.

    Raises:
        ConfigError: an unknown name.
    """
    if isinstance(dtype, torch.dtype) and dtype in (*DTYPES.values(), torch.float64):
        return dtype
    if dtype in ("auto", "int8"):
        return torch.bfloat16 if has_native_bf16(device) else torch.float32
    if isinstance(dtype, torch.dtype) or dtype not in DTYPES:
        raise ConfigError(f"dtype {str(dtype)!r} is not one of auto, {', '.join(DTYPES)}, int8")
    return DTYPES[dtype]


def has_native_bf16(device: torch.device) -> bool:
    """Whether matrix products in bf16 are faster than in fp32 on this device."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        # AVX512-BF16 or AMX; without them torch emulates bf16, slower than fp32
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and bool(cpu_flags() & {"avx512_bf16", "amx_bf16"})
    return False
