"""SimCSE: the class that users of the original package know, so that their scripts run unchanged.

    model = SimCSE("princeton-nlp/unsup-simcse-bert-base-uncased")
    model.similarity("A man plays.", ["A woman sings.", "Someone makes music."])
    model.build_index("sentences.txt")
    model.search("He plays the guitar.", threshold=0.5, top_k=3)  # [(sentence, score), ...]

Calls, defaults and shapes of results are those of the original; the work is done by `SentenceEncoder` and
`SearchIndex`. Its log lines go to `logging` at level INFO: `logging.basicConfig(level=logging.INFO)` shows them.
What differs: where a checkpoint says itself whether its head is used, that counts, and not a word in its path; queries
in a list keep `threshold` and `top_k` in brute-force search too; there is never a hit that is not there; wrong input is
one clear line.
"""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from simcse.data.tabular import lines
from simcse.display.progress import progress
from simcse.encoder.formats import read_layout, resolve
from simcse.encoder.model import SentenceEncoder
from simcse.encoder.projection import Projection, read_head
from simcse.errors import ConfigError, ModelError, SearchError, did_you_mean
from simcse.search.index import SearchIndex

__all__ = ["SimCSE"]

log = logging.getLogger(__name__)

Vectors = npt.NDArray[np.float32]

BAR_STEP = 16  # batches between two movements of the bar of build_index

POOLERS = {
    "cls": "cls",
    "cls_before_pooler": "cls",
    "avg": "mean",
    "avg_top2": "top2_mean",
    "avg_first_last": "first_last_mean",
}


class Indexed(TypedDict):
    """What `SimCSE.index` holds, under the names of the original package."""

    sentences: list[str]
    index: SearchIndex


class SimCSE:
    """Encode, compare and retrieve sentences. With its index it can be copied and pickled; see `State.__reduce__`.

    Attributes:
        encoder: the `SentenceEncoder` at work; `model` and `tokenizer` are its Hugging Face parts.
        model: the Hugging Face model, whose `pooler_output` is that of the checkpoint's head, if it holds one.
        device: where sentences are encoded; may be set.
        index: `{"sentences": [...], "index": SearchIndex}` once built, else None.
    """

    def __init__(
        self,
        model_name_or_path: str | Path,
        device: str | None = None,
        num_cells: int = 100,
        num_cells_in_search: int = 10,
        pooler: str | None = None,
    ) -> None:
        """Load a checkpoint, in float32.

        Args:
            model_name_or_path: a folder or hub id: ours, the original SimCSE's, sentence-transformers', or a plain
            encoder.
            device: default the accelerator, if there is one.
            num_cells: kept for existing scripts; `build_index(faiss_fast=True)` measures what it needs.
            num_cells_in_search: kept for existing scripts.
            pooler: `cls` uses the trained head that the checkpoint holds, `cls_before_pooler` the vector before it,
                `avg`, `avg_top2`, `avg_first_last` average; default what the checkpoint says; where it
                is silent, as in the original, `cls_before_pooler` if its name holds "unsup", else `cls`.

        Raises:
            ModelError: no such checkpoint, a damaged one, or one without the head that `pooler="cls"` asks for.
            ConfigError: an unknown pooler.
        """
        name = str(model_name_or_path)
        if pooler is not None:
            _check_pooler(pooler)
        head, silent = _read_head(name, needed=pooler == "cls")
        self.encoder = SentenceEncoder.from_pretrained(
            name,
            pooling=None if pooler is None else POOLERS[pooler],
            projection=None if pooler is None else "none",
            device="auto" if device is None else device,
            dtype="fp32",
        )
        self.name = name
        self.device = str(self.encoder.device)
        self.index: Indexed | None = None
        self.is_faiss_index = False
        self.num_cells = num_cells
        self.num_cells_in_search = num_cells_in_search
        self._head = self.encoder.projection or (None if head is None else head.to(self.encoder.device).eval())
        # device, batch size and bar of build_index and add_to_index
        self._indexing: tuple[str | None, int, Callable[[int], None] | None] = None, 64, None
        if pooler is None and silent and self._head is not None:
            # the original package then goes by the name, and its users' vectors depend on it
            pooler = "cls_before_pooler" if "unsup" in name else "cls"
            log.info("%s does not say whether its head belongs to it: pooler=%r, by its name", name, pooler)
        if pooler is not None:
            self.pooler = pooler

    @cached_property
    def model(self) -> nn.Module:
        """The Hugging Face model."""
        return _with_pooler(self.encoder.backbone, self._head)

    @property
    def pooler(self) -> str:
        """Which vector of a sentence is taken, see `__init__`; setting it takes effect at the next call."""
        if self.encoder.projection is not None and self.encoder.pooling == "cls":
            return "cls"
        names = {pooling: name for name, pooling in POOLERS.items()}
        return names.get(self.encoder.pooling, self.encoder.pooling)

    @pooler.setter
    def pooler(self, name: str) -> None:
        _check_pooler(name)
        if name == "cls" and self._head is None:
            raise ModelError(f"{self.name}: it holds no trained head, which pooler='cls' needs; say cls_before_pooler")
        if self.index is not None and name != self.pooler:
            log.warning("the index was built with pooler=%r: build it anew for pooler=%r", self.pooler, name)
        self.encoder.pooling = POOLERS[name]
        self.encoder.projection = self._head if name == "cls" else None

    @property
    def tokenizer(self) -> object:
        """The Hugging Face tokenizer."""
        return self.encoder.tokenizer

    @property
    def fingerprint(self) -> str:
        """Of weights and pooling, for the manifest of a saved index."""
        return self.encoder.fingerprint

    def encode(
        self,
        sentence: str | Sequence[str],
        device: str | None = None,
        return_numpy: bool = False,
        normalize_to_unit: bool = True,
        keepdim: bool = False,
        batch_size: int = 64,
        max_length: int | None = 128,
    ) -> torch.Tensor | Vectors:
        """Vectors of sentences: (n, d), or (d,) for a single one unless `keepdim`; on the CPU.

        Args:
            sentence: one or several.
            device: where to compute this time; default the device of the object.
            return_numpy: an array instead of a tensor.
            normalize_to_unit: scale to length 1.
            keepdim: (1, d) for a single sentence.
            batch_size: sentences in a forward pass.
            max_length: tokens kept of each sentence, at most what the encoder accepts; None: all that it accepts.

        A bar on stderr shows how far several sentences are, where that is a terminal or they fill several batches.
        """
        vectors = self._encode(sentence, device, batch_size, max_length, normalize_to_unit)
        if isinstance(sentence, str) and keepdim:
            vectors = vectors[None]  # (1, d)
        return vectors if return_numpy else torch.from_numpy(vectors)

    def _encode(
        self,
        sentence: str | Sequence[str],
        device: str | None,
        batch_size: int = 64,
        max_length: int | None = 128,
        normalize: bool = True,
        show: bool = True,
    ) -> Vectors:
        place = torch.device(self.device if device is None else device)
        if place != self.encoder.device:
            self.encoder.to(place)
            if self._head is not None:  # it may not be in use
                self._head.to(place)
        limit = self.encoder.backbone_limit
        if isinstance(max_length, int):
            max_length = min(max_length, limit)
        return self.encoder.encode(
            sentence,
            normalize=normalize,
            batch_size=batch_size,
            max_length=limit if max_length is None else max_length,
            show_progress=show
            and not isinstance(sentence, str)
            and isinstance(sentence, Sized)
            and _shows_bar(len(sentence), batch_size),
        )

    def _encode_indexed(self, texts: list[str]) -> Vectors:
        """What the index encodes by."""
        device, batch_size, advance = self._indexing
        if advance is None:
            return self._encode(texts, device, batch_size, show=False)
        parts = []
        for start in range(0, len(texts), BAR_STEP * batch_size):
            some = texts[start : start + BAR_STEP * batch_size]
            parts.append(self._encode(some, device, batch_size, show=False))
            advance(len(some))
        return np.concatenate(parts)

    @contextmanager
    def _indexes(self, sentences: list[str], device: str | None, batch_size: int) -> Iterator[None]:
        """While the block runs, `_encode_indexed` encodes by these options, and a bar shows how far it is."""
        log.info("encoding %d sentences", len(sentences))
        try:
            with progress(len(sentences), _shows_bar(len(sentences), batch_size)) as advance:
                self._indexing = device, batch_size, advance
                yield
        finally:
            self._indexing = device, batch_size, None

    def similarity(
        self, queries: str | Sequence[str], keys: str | Sequence[str] | Vectors, device: str | None = None
    ) -> float | Vectors:
        """Cosine similarities.

        Args:
            queries: n sentences, or one.
            keys: m sentences, or one, or vectors (m, d) or (d,).
            device: where to compute this time.

        Returns:
            (n, m); (m,) for a single query; a float for a single query and a single key.
        """
        left = self._encode(queries, device)
        right = keys if isinstance(keys, np.ndarray) else self._encode(keys, device)
        lengths = np.linalg.norm(np.atleast_2d(right), axis=1)  # (m,)
        products = np.atleast_2d(left) @ np.atleast_2d(right).T / np.where(lengths > 0, lengths, 1)  # (n, m)
        cosines: Vectors = np.clip(products, -1, 1).astype(np.float32)
        if left.ndim == 2:
            return cosines
        return float(cosines[0, 0]) if right.ndim == 1 else cosines[0]

    def build_index(
        self,
        sentences_or_file_path: str | Sequence[str],
        use_faiss: bool | None = None,
        faiss_fast: bool = False,
        device: str | None = None,
        batch_size: int = 64,
    ) -> None:
        """Encode sentences, or the lines of a file, and keep them for `search`.

        Args:
            sentences_or_file_path: sentences; a `str` is a file with a sentence a line.
            use_faiss: kept for existing scripts; search is exact either way unless `faiss_fast`.
            faiss_fast: an approximate index, if there are enough sentences for one.
            device: where to encode this time.
            batch_size: sentences in a forward pass.

        Raises:
            DataError: a missing file or one that is not UTF-8.
            SearchError: no sentences.
        """
        sentences = _sentences(sentences_or_file_path)
        if not sentences:
            raise SearchError("found no text to index, expected at least one")
        index = SearchIndex.empty(self._encode_indexed, kind="auto" if faiss_fast else "flat")
        with self._indexes(sentences, device, batch_size):
            index.add(sentences)
        log.info("building the index")
        index.optimize()
        log.info("the index holds %d sentences", len(index))
        self.index = {"sentences": sentences, "index": index}
        self.is_faiss_index = use_faiss is None or use_faiss

    def add_to_index(
        self, sentences_or_file_path: str | Sequence[str], device: str | None = None, batch_size: int = 64
    ) -> None:
        """Encode more sentences, or the lines of a file, and add them to the index.

        Raises:
            SearchError: `build_index` has not been called.
        """
        indexed = self._indexed()
        sentences = _sentences(sentences_or_file_path)
        with self._indexes(sentences, device, batch_size):
            indexed["index"].add(sentences)
        indexed["sentences"] += sentences
        log.info("the index holds %d sentences", len(indexed["index"]))

    def search(
        self, queries: str | Sequence[str], device: str | None = None, threshold: float = 0.6, top_k: int = 5
    ) -> list[tuple[str, float]] | list[list[tuple[str, float]]]:
        """The most similar indexed sentences, best first.

        Args:
            queries: one or several sentences.
            device: where to compute this time.
            threshold: the least cosine similarity of a result.
            top_k: how many results at most.

        Returns:
            `[(sentence, score), ...]` for a single query, a list of these for several.

        Raises:
            SearchError: `build_index` has not been called; `top_k` below 1.
        """
        index = self._indexed()["index"]
        if not isinstance(queries, str) and not len(queries):
            return []
        vectors = np.atleast_2d(self._encode(queries, device, show=False))  # (q, d)
        found = [[(hit.text, hit.score) for hit in hits] for hits in index.search_vectors(vectors, top_k, threshold)]
        return found[0] if isinstance(queries, str) else found

    def _indexed(self) -> Indexed:
        if self.index is None:
            raise SearchError("there is no index yet: call build_index first")
        return self.index


class _Pooler(nn.Module):
    """A head under the names that Hugging Face's models keep it by."""

    def __init__(self, head: Projection) -> None:
        super().__init__()
        self.dense, self.activation = head.linear, head.activation

    def forward(self, states: Tensor) -> Tensor:
        """(n, t, D) -> (n, D), of first tokens."""
        pooled: Tensor = self.activation(self.dense(states[:, 0]))
        return pooled


def _with_pooler(backbone: nn.Module, head: Projection | None) -> nn.Module:
    """The model as `AutoModel` has it, with the head as its pooler, if its kind has one; all weights are shared.

    The backbone itself stays without, as fingerprints and files are made of what it holds.
    """
    without = "pooler" in vars(backbone) and not hasattr(backbone, "pooler_activation")
    if head is None or not without:
        return backbone
    model = copy.copy(backbone)
    model._modules = dict(backbone._modules)
    model.pooler = _Pooler(head)
    return model


def _read_head(name: str, needed: bool) -> tuple[Projection | None, bool]:
    """The trained head that a checkpoint holds, if any, and whether it does not say how it pools.

    Raises:
        ModelError: there is no such checkpoint; it is damaged or holds no head, and one is needed.
    """
    folder = resolve(name, None)
    try:
        layout = read_layout(folder)
        return layout.projection or read_head(layout.folder, "pooler.dense"), layout.pooling is None
    except ModelError:
        if needed:
            raise
        return None, False  # what else is wrong with it is said when it is loaded


def _check_pooler(name: str) -> None:
    if name not in POOLERS:
        raise ConfigError(f"pooler {name!r} is not one of {', '.join(POOLERS)}{did_you_mean(str(name), POOLERS)}")


def _shows_bar(sentences: int, batch_size: int) -> bool:
    return sentences > batch_size or sys.stderr.isatty()


def _sentences(sentences_or_file_path: str | Sequence[str]) -> list[str]:
    if isinstance(sentences_or_file_path, (str, Path)):
        log.info("reading sentences from %s", sentences_or_file_path)
        return [line.rstrip() for line in lines(Path(sentences_or_file_path))]
    return list(sentences_or_file_path)
