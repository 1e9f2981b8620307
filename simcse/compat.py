"""SimCSE: the class that users of the original package know, so that their scripts run unchanged.

    model = SimCSE("princeton-nlp/unsup-simcse-bert-base-uncased")
    model.similarity("A man plays.", ["A woman sings.", "Someone makes music."])
    model.build_index("sentences.txt")
    model.search("He plays the guitar.", threshold=0.5, top_k=3)  # [(sentence, score), ...]

Calls, defaults and shapes of results are those of the original; the work is done by `SentenceEncoder` and
`SearchIndex`.
What differs: where a checkpoint says itself whether its head is used, that counts, and not a word in its path; queries
in a list keep `threshold` and `top_k` in brute-force search too; there is never a hit that is not there; wrong input is
one clear line.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypedDict

import numpy as np
import numpy.typing as npt
import torch

from simcse.data.tables import lines
from simcse.encoder.formats import read_layout, resolve
from simcse.encoder.model import SentenceEncoder
from simcse.encoder.projection import read_head
from simcse.errors import ConfigError, ModelError, SearchError, nearest
from simcse.search.index import SearchIndex

__all__ = ["SimCSE"]

log = logging.getLogger(__name__)

Vectors = npt.NDArray[np.float32]

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
    """Encode, compare and retrieve sentences.

    Attributes:
        encoder: the `SentenceEncoder` at work; `model` and `tokenizer` are its Hugging Face parts.
        index: `{"sentences": [...], "index": SearchIndex}` once built, else None.
    """

    def __init__(
        self,
        model_name_or_path: str,
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
            num_cells: cells of the approximate index of `build_index(faiss_fast=True)`.
            num_cells_in_search: at least so many of them are searched.
            pooler: `cls` takes the trained head that the checkpoint holds, `cls_before_pooler` the vector before it,
                `avg`, `avg_top2`, `avg_first_last` average; default what the checkpoint says; where it
                is silent, as in the original, `cls_before_pooler` if its name holds "unsup", else `cls`.

        Raises:
            ModelError: no such checkpoint, a damaged one, or one without the head that `pooler="cls"` asks for.
            ConfigError: an unknown pooler.
        """
        if pooler is not None and pooler not in POOLERS:
            raise ConfigError(f"pooler {pooler!r} is not one of {', '.join(POOLERS)}{nearest(pooler, POOLERS)}")
        self.encoder = _load(str(model_name_or_path), "auto" if device is None else device, pooler)
        self.name = str(model_name_or_path)
        self.device = str(self.encoder.device)
        self.pooler = pooler
        self.index: Indexed | None = None
        self.is_faiss_index = False
        self.num_cells = num_cells
        self.num_cells_in_search = num_cells_in_search
        self._indexing: tuple[str | None, int] = None, 64  # device and batch size of build_index and add_to_index

    @property
    def model(self) -> torch.nn.Module:
        """The Hugging Face backbone."""
        return self.encoder.backbone

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
        max_length: int = 128,
    ) -> torch.Tensor | Vectors:
        """Vectors of sentences: (n, d), or (d,) for a single one unless `keepdim`; on the CPU.

        Args:
            sentence: one or several.
            device: where to compute this time; default the device of the object.
            return_numpy: an array instead of a tensor.
            normalize_to_unit: scale to length 1.
            keepdim: (1, d) for a single sentence.
            batch_size: sentences in a forward pass.
            max_length: tokens kept of each sentence, at most what the encoder takes.
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
        max_length: int = 128,
        normalize: bool = True,
    ) -> Vectors:
        self.encoder.to(torch.device(self.device if device is None else device))
        longest = min(max_length, self.encoder.backbone_limit)
        return self.encoder.encode(sentence, normalize=normalize, batch_size=batch_size, max_length=longest)

    def _encode_indexed(self, texts: list[str]) -> Vectors:
        device, batch_size = self._indexing
        return self._encode(texts, device, batch_size)

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
        kind = "auto" if faiss_fast else "flat"
        self._indexing = device, batch_size
        self.index = {"sentences": sentences, "index": SearchIndex.build(sentences, self._encode_indexed, kind=kind)}
        self.is_faiss_index = use_faiss is None or use_faiss

    def add_to_index(
        self, sentences_or_file_path: str | Sequence[str], device: str | None = None, batch_size: int = 64
    ) -> None:
        """Encode more sentences, or the lines of a file, and add them to the index.

        Raises:
            SearchError: `build_index` has not been called.
        """
        held = self._held()
        sentences = _sentences(sentences_or_file_path)
        self._indexing = device, batch_size
        held["index"].add(sentences)
        held["sentences"] += sentences

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
        index = self._held()["index"]
        if not isinstance(queries, str) and not len(queries):
            return []
        vectors = np.atleast_2d(self._encode(queries, device))  # (q, d)
        found = [[(hit.text, hit.score) for hit in hits] for hits in index.search_vectors(vectors, top_k, threshold)]
        return found[0] if isinstance(queries, str) else found

    def _held(self) -> Indexed:
        if self.index is None:
            raise SearchError("there is no index yet: call build_index first")
        return self.index


def _load(name: str, device: str, pooler: str | None) -> SentenceEncoder:
    layout = read_layout(resolve(name, None))
    if pooler == "cls":
        head: Literal["pooler"] | None = "pooler" if layout.projection is None else None  # None: its own
        return SentenceEncoder.from_pretrained(name, pooling="cls", projection=head, device=device, dtype="fp32")
    if pooler is not None:
        return SentenceEncoder.from_pretrained(
            name, pooling=POOLERS[pooler], projection="none", device=device, dtype="fp32"
        )
    if layout.pooling is None and _holds_pooler(layout.folder):
        # the checkpoint is silent; the original package then went by the name, and its users' vectors depend on it
        rule = "cls_before_pooler" if "unsup" in name else "cls"
        log.info("%s does not say whether its head belongs to it: taking pooler=%r, by its name", name, rule)
        return _load(name, device, rule)
    return SentenceEncoder.from_pretrained(name, device=device, dtype="fp32")


def _holds_pooler(folder: Path) -> bool:
    try:
        return read_head(folder, "pooler.dense") is not None
    except ModelError:
        return False


def _sentences(sentences_or_file_path: str | Sequence[str]) -> list[str]:
    if isinstance(sentences_or_file_path, (str, Path)):
        return [line.rstrip() for line in lines(Path(sentences_or_file_path))]
    return list(sentences_or_file_path)
