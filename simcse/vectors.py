"""What evaluation, search and serving know of an encoder: something that turns texts into vectors; and these vectors,
checked and of unit length.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from simcse.errors import ConfigError, EncoderError, SearchError, did_you_mean, shown

__all__ = [
    "CachedEncoder",
    "Encode",
    "Encoder",
    "Matrix",
    "Plane",
    "Quantize",
    "Roles",
    "TimedEncoder",
    "encode_of",
    "encoded",
    "encoder_behind",
    "method_of",
    "name_of",
    "options_of",
    "principal_plane",
    "quantize",
    "roles_of",
    "unit_rows",
    "unit_vectors",
]

Matrix = npt.NDArray[np.float32]
Encode = Callable[[list[str]], Any]
"""Texts to vectors: `encode(list of n) -> (n, d)` array or tensor, normalised or not."""
Quantize = Literal["none", "float16", "int8", "binary"]
"""What `quantize` makes of float32."""


class Encoder(Protocol):
    """An object that encodes, such as `SentenceEncoder`; wherever one is expected, its `encode` alone will do.

    Where it has them, `name`, `fingerprint` (of weights and settings) and `resolve_prompt` say whose vectors these are,
    and `encode_query` and `encode_document` encode what is searched for and what is found.
    """

    def encode(self, texts: list[str], /) -> Any:
        """n texts -> (n, d)."""
        ...


def encode_of(encoder: Encode | Encoder | Roles) -> Encode:
    """The callable that encodes: `encoder.encode` where there is one, else the encoder itself.

    Raises:
        SearchError: neither.
    """
    named = isinstance(encoder, (str, bytes, PurePath, type))  # the name of one, whose `encode` is that of a text
    encode: Any = getattr(encoder, "encode", encoder)
    if named or not callable(encode):
        raise SearchError(f"encode: found {encoder!r}, expected an encoder, or a function from texts to vectors (n, d)")
    found: Encode = encode
    return found


@dataclass(frozen=True)
class Roles:
    """How to encode texts that are searched for, and those to be found."""

    encode_query: Encode
    encode_document: Encode

    def wrapped(self, wrap: Callable[[Encode], Encode]) -> Roles:
        """The same by way of `wrap`, one and the same for both where they are the same function."""
        document = wrap(self.encode_document)
        return Roles(document if self.encode_query == self.encode_document else wrap(self.encode_query), document)


def roles_of(encoder: Encode | Encoder | Roles) -> Roles:
    """`encoder.encode_query` and `encoder.encode_document` where there are both, else `encode_of` twice.

    The bound method `encoder.encode` stands for its encoder, also inside `functools.partial(encoder.encode, ...)`: its
    options then hold for both, so a prompt that is named there is that of both.

    Raises:
        SearchError: as of `encode_of`.
    """
    behind: Any = encoder
    options: dict[str, Any] = {}
    if callable(encoder) and getattr(method_of(encoder), "__name__", "") == "encode":
        behind, options = encoder_behind(encoder), options_of(encoder)
    query, document = (getattr(behind, name, None) for name in ("encode_query", "encode_document"))
    if isinstance(behind, type) or not (callable(query) and callable(document)):
        return Roles(encode_of(encoder), encode_of(encoder))
    return Roles(partial(query, **options), partial(document, **options)) if options else Roles(query, document)


def options_of(encode: Encode) -> dict[str, Any]:
    """The keyword arguments that `functools.partial` sets."""
    options: dict[str, Any] = {}
    while isinstance(encode, partial):
        options = encode.keywords | options  # the outer one counts
        encode = encode.func
    return options


def encoder_behind(encode: Encode) -> object | None:
    """The object of a bound method, also inside `functools.partial(encoder.encode, batch_size=32)`, if it is one."""
    return getattr(method_of(encode), "__self__", None)


def name_of(encode: Encode) -> str:
    """The name of the object behind a bound method if it has one, else the callable's own name."""
    name = getattr(encoder_behind(encode), "name", None)
    if isinstance(name, str) and name:
        return name
    encode = method_of(encode)
    return str(getattr(encode, "__qualname__", type(encode).__qualname__))


def method_of(encode: Encode) -> Encode:
    """The callable inside `functools.partial`."""
    while isinstance(encode, partial):
        encode = encode.func
    return encode


def encoded(encode: Encode, texts: Sequence[str]) -> npt.NDArray[Any]:
    """The vectors of texts as an array (n, d) of numbers, whatever kind of array, tensor or list the encoder gives.

    Raises:
        EncoderError: another shape than (n, d), or no numbers.
    """
    vectors = _array(encode(list(texts)))
    if vectors.ndim != 2 or len(vectors) != len(texts):
        raise EncoderError(f"the encoder gave shape {vectors.shape} for {len(texts)} texts, expected ({len(texts)}, d)")
    if vectors.dtype.kind not in "fiu":
        raise EncoderError(f"the encoder gave values of type {vectors.dtype.name}, expected numbers")
    return vectors


def unit_vectors(
    encode: Encode,
    texts: Sequence[str],
    dimension: int | None = None,
    *,
    where: Callable[[int], str] = lambda row: f"text {row}",
    nonzero: bool = False,
) -> Matrix:
    """Encode and check: vectors of unit length, so that a dot product is a cosine.

    Args:
        encode: the encoder.
        texts: n texts.
        dimension: the d that is expected, if known.
        where: names text i in an error, e.g. `STS12, pair 7, first sentence`.
        nonzero: whether a vector of length zero is an error; else it stays, with cosine 0 to everything.

    Returns:
        (n, d) float32, L2-normalised.

    Raises:
        EncoderError: another shape than (n, d); a vector with NaN or infinity, or of length zero.
    """
    vectors = encoded(encode, texts)
    if dimension is not None and vectors.shape[1] != dimension:
        raise EncoderError(
            f"{name_of(encode)} gives vectors of dimension {vectors.shape[1]}, the index has dimension {dimension}; "
            "use the encoder that built it, or build anew"
        )
    return unit_rows(vectors, lambda row: f"{where(row)} {shown(texts[row])}: its vector", nonzero=nonzero)


def unit_rows(
    vectors: npt.NDArray[Any], where: Callable[[int], str] = lambda row: f"vector {row}", *, nonzero: bool = False
) -> Matrix:
    """Rows scaled to length 1 in float32; arguments as of `unit_vectors`. (n, d) -> (n, d)

    Raises:
        EncoderError: a value that is NaN or infinite (or is so in float32); a row of length zero, if `nonzero`.
    """
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))  # (n,) no float32 overflow
    wrong = np.flatnonzero(~np.isfinite(lengths) | (nonzero & (lengths == 0)))
    if len(wrong):
        row = int(wrong[0])
        what = "zero, so it has no cosine" if lengths[row] == 0 else "NaN or infinite"
        raise EncoderError(
            f"{where(row)} is {what} ({len(wrong)} of {len(vectors)}); check the weights, or encode in fp32"
        )
    lengths[lengths == 0] = 1
    units: Matrix = (vectors / lengths[:, None]).astype(np.float32)  # (n, d)
    return units


def quantize(vectors: Matrix, kind: Quantize) -> npt.NDArray[Any]:
    """Vectors (n, d) in fewer bytes.

    - float16: (n, d), half of the bytes.
    - int8: (n, d), a quarter: each row times 127 over its own largest value. It keeps directions only, so cosines need
      no scale: a row over its length is the unit vector again, to about a hundredth of its largest value.
    - binary: (n, d / 8 rounded up) of uint8, a thirty-second: a bit for each value, 1 above 0, eight in a byte, the
      first one the highest. faiss's binary indexes compare them by Hamming distance; sentence-transformers calls them
      ubinary.

    Args:
        vectors: (n, d) of float32, or one (d,).
        kind: float16, int8 or binary; none leaves them as they are.

    Raises:
        ConfigError: no such kind, or no vectors.
    """
    if not isinstance(vectors, np.ndarray) or vectors.dtype.kind != "f":
        raise ConfigError(f"quantize: found {shown(vectors)}, expected vectors as encode gives them")
    match kind:
        case "none":
            return vectors
        case "float16":
            return vectors.astype(np.float16)
        case "int8":
            largest = np.abs(vectors).max(axis=-1, keepdims=True, initial=np.finfo(np.float32).tiny)  # (n, 1)
            rounded: npt.NDArray[np.int8] = np.rint(vectors / largest * 127).astype(np.int8)
            return rounded
        case "binary":
            return np.packbits(vectors > 0, axis=-1)
    known = get_args(Quantize)
    raise ConfigError(f"quantize: found {kind!r}, expected one of {', '.join(known)}{did_you_mean(str(kind), known)}")


class TimedEncoder:
    """An encoder with a clock, for texts in either role and in none.

    Attributes:
        seconds: spent in the encoder.
        encoded: how many texts.
    """

    def __init__(self, encode: Encode | Encoder) -> None:
        self._encode, self._roles = encode_of(encode), roles_of(encode)
        self.seconds = 0.0
        self.encoded = 0

    def __call__(self, texts: list[str]) -> npt.NDArray[Any]:
        return self._timed(self._encode, texts)

    def encode_query(self, texts: list[str]) -> npt.NDArray[Any]:
        """n queries -> (n, d)."""
        return self._timed(self._roles.encode_query, texts)

    def encode_document(self, texts: list[str]) -> npt.NDArray[Any]:
        """n documents -> (n, d)."""
        return self._timed(self._roles.encode_document, texts)

    def _timed(self, encode: Encode, texts: list[str]) -> npt.NDArray[Any]:
        start = time.perf_counter()
        vectors = _array(encode(texts))  # on an accelerator, the copy waits for the work
        self.seconds += time.perf_counter() - start
        self.encoded += len(texts)
        return vectors


class CachedEncoder:
    """An encoder that remembers: whatever asks for it, a distinct text is encoded once. All vectors stay in memory."""

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self._row: dict[str, int] = {}
        self._vectors: npt.NDArray[Any] | None = None

    def __call__(self, texts: list[str]) -> npt.NDArray[Any]:
        new = [text for text in dict.fromkeys(texts) if text not in self._row]
        if new or self._vectors is None:
            vectors = encoded(self._encode, new)
            self._vectors = vectors if self._vectors is None else np.concatenate([self._vectors, vectors])
            self._row |= {text: row for row, text in enumerate(new, len(self._row))}
        return self._vectors[[self._row[text] for text in texts]]


def _array(raw: Any) -> npt.NDArray[Any]:
    """Numpy knows neither bfloat16 nor an accelerator's memory, so tensors come over as float32."""
    if isinstance(raw, list) and raw and hasattr(raw[0], "detach"):
        import torch

        raw = torch.stack(raw)
    try:
        return np.asarray(raw.detach().float().cpu().numpy() if hasattr(raw, "detach") else raw)
    except ValueError as error:
        raise EncoderError("the encoder gave rows of different lengths, expected (n, d)") from error


@dataclass(frozen=True)
class Plane:
    """Centre (d,), two orthonormal directions (2, d), their shares of the variance (2,)."""

    centre: npt.NDArray[np.float64]
    axes: npt.NDArray[np.float64]
    shares: list[float]

    def __call__(self, vectors: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Coordinates on the plane. (n, d) -> (n, 2)"""
        flat: npt.NDArray[np.float64] = (vectors - self.centre) @ self.axes.T
        return flat


def principal_plane(vectors: npt.NDArray[Any]) -> Plane:
    """The plane of the first two principal components, from (n, d) vectors, d >= 2.

    A component has no sign: its largest weight is made positive, so that the same vectors give the same map.
    """
    exact = vectors.astype(np.float64)
    centre = exact.mean(axis=0)  # (d,)
    spread = exact - centre  # (n, d)
    variances, directions = np.linalg.eigh(spread.T @ spread)  # rising; directions are columns
    axes = directions[:, [-1, -2]].T  # (2, d)
    axes *= np.sign(axes[np.arange(2), np.abs(axes).argmax(axis=1)])[:, None]
    total = max(float(variances.clip(0).sum()), np.finfo(float).tiny)
    return Plane(centre, axes, [max(float(variances[-i]), 0.0) / total for i in (1, 2)])
