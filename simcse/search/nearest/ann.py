"""An approximate index of faiss over the first rows of an index: it proposes candidates, which are then refined.

Because candidates are scored with the float32 vectors themselves, faiss keeps only a compressed copy: 8-bit scalar
quantisation (SQ8) or 4-bit PQ.
"""

from __future__ import annotations

import mmap as mapping
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from simcse.errors import ConfigError, SearchError
from simcse.files import sync
from simcse.search.nearest.threads import faiss_threads
from simcse.vectors import Matrix

__all__ = ["Ann", "PackedAnn", "largest_parameter", "new_faiss_index", "parameter_name", "search_parameters"]

PackedAnn = tuple[npt.NDArray[np.uint8], dict[str, int]]

ADDED_AT_ONCE = 65_536  # rows
FEWEST_CANDIDATES = 32
# a filter that drops r rows for each one that it leaves makes nprobe or efSearch 1 + r x GROWTH times as large: enough
# where it leaves rows of one topic, which lie apart from the query; see benchmarks/filtered.py
GROWTH = {"nprobe": 2, "efSearch": 4}
ROWS_OF_EF = 10  # an HNSW with efSearch = 1 takes as long as exact search over so many rows


class Ann:
    """A trained faiss index whose ids are slots, how many slots it covers, and how it is searched.

    Attributes:
        index: of faiss.
        covered: slots 0 to covered - 1 are in it.
        parameter: nprobe of an IVF, efSearch of an HNSW.
        k_factor: candidates for each hit wanted, as of faiss's IndexRefine.
        key: generation in which it was made, which names its file.
        crc: CRC-32 of that file.
        size: bytes of that file; 0 if it was written when sizes were not yet kept.
    """

    def __init__(
        self, index: Any, covered: int, *, parameter: int, k_factor: int, key: int = 0, crc: int = 0, size: int = 0
    ) -> None:
        self.index, self.covered, self.parameter, self.k_factor = index, covered, parameter, k_factor
        self.key, self.crc, self.size = key, crc, size
        self._path: Path | None = None
        self._content: Any = b""  # of the file, mapped: it can be read after another process has removed its name
        self._sound = True

    def check(self) -> None:
        """Compare the file with its checksum, once: before it is first searched or copied.

        Raises:
            SearchError: it is damaged.
        """
        if not self._sound:
            self.verify()
            self._sound = True

    def verify(self) -> None:
        """Compare the file with its checksum; raises as `check`."""
        if self._path is not None and (crc := zlib.crc32(self._content)) != self.crc:
            raise SearchError(
                f"{self._path}: damaged: found checksum {crc:08x}, expected {self.crc:08x}; restore a copy or build "
                "the index anew"
            )

    def _map(self, path: Path) -> None:
        with path.open("rb") as file:
            self._path, self._content = path, mapping.mmap(file.fileno(), 0, access=mapping.ACCESS_READ)

    def wanted(self, k: int) -> int:
        """How many candidates to refine for k hits."""
        return min(max(k * self.k_factor, FEWEST_CANDIDATES), self.covered)

    def parameter_for(self, k: int, share: float) -> int | None:
        """nprobe or efSearch for k hits among a share of the rows; None where exact search is as fast."""
        name = parameter_name(self.index)
        if share == 1:
            return self.parameter
        if not name or not share:
            return None
        base = max(self.parameter, self.wanted(k)) if name == "efSearch" else self.parameter
        value = round(base * (1 + GROWTH[name] * (1 / share - 1)))
        most = share * self.covered / ROWS_OF_EF if name == "efSearch" else 2 * largest_parameter(self.index)
        return value if value <= most else None

    def candidates(self, queries: Matrix, m: int, parameters: Any, *, threads: int | None = None) -> Any:
        """Slots (q, m) of about the nearest rows by `search_parameters`, -1 where fewer; raises as `check`."""
        self.check()
        with faiss_threads(threads or (1 if len(queries) < 4 else None)):
            return self.index.search(np.ascontiguousarray(queries), m, params=parameters)[1]

    def train(self, sample: Matrix) -> None:
        """Learn cells and codes from rows (n, d).

        Raises:
            RuntimeError: of faiss, if they are too few.
        """
        import faiss

        if isinstance(self.index, faiss.IndexIVF):
            quantizer: Any = self.index
            quantizer.train_q1(len(sample), faiss.swig_ptr(sample), False, self.index.metric_type)
        with faiss_threads(1):  # codes are many small problems, on which several threads spend their time waiting
            self.index.train(sample)

    def add(self, matrix: Matrix, slots: npt.NDArray[np.int64]) -> None:
        """Put rows `matrix[slots]` in under their slots."""
        for start in range(0, len(slots), ADDED_AT_ONCE):
            some = slots[start : start + ADDED_AT_ONCE]
            self.index.add_with_ids(np.ascontiguousarray(matrix[some]), some)

    def grown(self, matrix: Matrix, slots: npt.NDArray[np.int64]) -> Ann:
        """A copy that covers all rows of `matrix`, with these slots added; raises as `check`."""
        import faiss

        self.check()
        # a round trip through bytes makes a memory-mapped index one that can grow
        index = faiss.deserialize_index(faiss.serialize_index(self.index))
        larger = Ann(index, len(matrix), parameter=self.parameter, k_factor=self.k_factor)
        larger.add(matrix, slots)
        return larger

    def packed(self) -> PackedAnn:
        """All of it, in memory; raises as `check`."""
        import faiss

        self.check()
        return faiss.serialize_index(self.index), self.to_json()

    @classmethod
    def unpacked(cls, packed: PackedAnn) -> Ann:
        """The inverse of `packed`."""
        import faiss

        return cls(faiss.deserialize_index(packed[0]), **packed[1])

    def to_json(self) -> dict[str, int]:
        """What the file does not hold."""
        return {
            "covered": self.covered, "parameter": self.parameter, "k_factor": self.k_factor, "key": self.key,
            "crc": self.crc, "size": self.size,
        }  # fmt: skip

    def write(self, path: Path) -> None:
        """Write it durably.

        Raises:
            SearchError: the file cannot be written, or the one that it was read from is damaged.
        """
        import faiss

        self.check()
        try:
            faiss.write_index(self.index, str(path))
            sync(path)
            sync(path.parent)
            self._map(path)
        except (RuntimeError, OSError) as error:
            path.unlink(missing_ok=True)
            # of what faiss says the end, or what stands there in brackets, comes from the system
            last = str(error).splitlines()[-1].rsplit(": ", 1)[-1]
            in_brackets = re.search(r"\(([^()]+)\)\s*$", last)
            reason = getattr(error, "strerror", None) or (in_brackets[1] if in_brackets else last)
            raise SearchError(f"{path}: {reason}; the index is as it was before; free the way and try again") from error
        self.crc, self.size = zlib.crc32(self._content), len(self._content)

    @classmethod
    def read(cls, path: Path, values: dict[str, int], *, mmap: bool, checked: int = 0) -> Ann:
        """Open a file. Its checksum is compared before faiss reads it, as faiss trusts what stands there; with `mmap`
        that of a file of more than `checked` bytes is compared when it is first searched: its codes stay on disk. Of
        that the size is compared, as faiss reads beyond the end of a mapped file that was cut, and crashes (1.15).

        Raises:
            SearchError: the file is missing or damaged.
        """
        import faiss

        try:
            ann = cls(None, **values)
            ann._map(path)
            size = len(ann._content)
            ann._sound = not mmap or not ann.size or size <= checked
            if ann._sound:
                ann.verify()
            elif size != ann.size:
                raise ValueError(f"found {size} bytes, expected {ann.size}")
            ann.index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if mmap else 0)
        except (RuntimeError, MemoryError, OSError, ValueError) as error:
            if not path.is_file():
                raise SearchError(f"{path}: missing; restore a copy or build the index anew") from error
            reason = str(error).strip().splitlines()[-1]
            raise SearchError(f"{path}: damaged ({reason}); restore a copy or build the index anew") from error
        if ann.index.ntotal > values["covered"]:
            raise SearchError(
                f"{path}: damaged: found {ann.index.ntotal} vectors, expected {values['covered']}; "
                "restore a copy or build the index anew"
            )
        return ann


def new_faiss_index(dimension: int, factory: str) -> Any:
    """An empty index by inner product that accepts ids, from a factory string of faiss such as `IVF1024,SQ8`.

    Raises:
        ConfigError: faiss does not know the string, or cannot do it for this dimension.
    """
    import faiss

    try:
        index = faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)
    except (RuntimeError, MemoryError, UnicodeError) as error:
        reason = " ".join(str(error).split("Error:")[-1].split())[:100]
        raise ConfigError(
            f"kind: faiss makes no index of dimension {dimension} from {factory!r} ({reason}); "
            "try auto, flat, hnsw, ivf or ivf-pq"
        ) from error
    if isinstance(index, faiss.IndexIVF):
        index.cp.niter = 10  # the centroids move little after that
        index.cp.max_points_per_centroid = 64
        return index
    return faiss.IndexIDMap(index)


def search_parameters(index: Any, value: int, m: int, allowed: npt.NDArray[np.bool_] | None = None) -> Any:
    """faiss's SearchParameters for m candidates among the ids that are `allowed` (n,), by default all.

    `value` is nprobe or efSearch; None for an index with neither.
    """
    import faiss

    made: Any = faiss  # its type hints lag behind
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexIDMap):
        if allowed is not None and isinstance(faiss.downcast_index(index.index), faiss.IndexPreTransform):
            allowed = allowed[faiss.vector_to_array(index.id_map)]  # IndexIDMap translates only a selector of its own
        return search_parameters(index.index, value, m, allowed)
    if isinstance(index, faiss.IndexPreTransform):
        below = search_parameters(index.index, value, m, allowed)
        return made.SearchParametersPreTransform(index_params=below) if below is not None else None
    selector = None if allowed is None else made.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
    if isinstance(index, faiss.IndexIVF):
        return made.SearchParametersIVF(nprobe=min(value, index.nlist), sel=selector)
    if isinstance(index, faiss.IndexHNSW):
        return made.SearchParametersHNSW(efSearch=max(value, m), sel=selector)
    return None


def parameter_name(index: Any) -> str:
    """`nprobe` of an IVF, `efSearch` of an HNSW; empty for any other index."""
    import faiss

    core = _core(index)
    return "nprobe" if isinstance(core, faiss.IndexIVF) else "efSearch" if isinstance(core, faiss.IndexHNSW) else ""


def largest_parameter(index: Any) -> int:
    """The largest nprobe or efSearch to try: where a quarter of all cells is visited, exact search is as fast."""
    cells = int(getattr(_core(index), "nlist", 0))
    return min(cells, max(64, cells // 4)) if cells else 2048 if parameter_name(index) else 1


def _core(index: Any) -> Any:
    """What searches, below ids and transformations of the vectors."""
    import faiss

    index = faiss.downcast_index(index)
    return _core(index.index) if isinstance(index, (faiss.IndexIDMap, faiss.IndexPreTransform)) else index
