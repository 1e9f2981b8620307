"""Whose vectors these are: vectors of two encoders must never meet in one index.

An index knows its encoder by three fixed sentences and their vectors, so that any callable can be checked, and by the
name and fingerprint of the object behind the callable where it has them. The vectors decide: the same weights in
another precision or file format pass, other weights do not.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from simcse.errors import SearchError

__all__ = ["Encode", "HasEncode", "Identity", "Matrix", "OtherEncoderError", "encode_of", "unit_vectors"]

Matrix = npt.NDArray[np.float32]
Encode = Callable[[list[str]], Any]


class HasEncode(Protocol):
    """An object that encodes, such as `SentenceEncoder`."""

    def encode(self, texts: list[str], /) -> Any:
        """n texts -> (n, d)."""
        ...


PROBES = (
    "A man is playing a guitar on the street.",
    "The committee rejected the proposal because its costs were too high.",
    "How many litres of water does a tree drink in a year?",
)
SAME = 0.99  # bf16 against fp32 gives 0.9999; a few steps of training already give less than 0.99


class OtherEncoderError(SearchError):
    """An index that is open has been built anew by another encoder: what this one encodes finds nothing in it."""


def unit_vectors(encode: Encode, texts: Sequence[str], dimension: int | None = None) -> Matrix:
    """`encode(texts)` as float32 of length 1; a zero vector stays zero and has cosine 0 with everything.

    Args:
        encode: list of n texts -> (n, d) array.
        texts: n texts.
        dimension: the d that is expected, if known.

    Raises:
        SearchError: another shape than (n, d), or a NaN or infinite value.
    """
    vectors = np.asarray(encode(list(texts)))
    if vectors.ndim != 2 or len(vectors) != len(texts):
        raise SearchError(
            f"{name_of(encode)} gave an array of shape {vectors.shape} for {len(texts)} texts, expected "
            f"({len(texts)}, d)"
        )
    if dimension is not None and vectors.shape[1] != dimension:
        raise SearchError(
            f"{name_of(encode)} gives vectors of dimension {vectors.shape[1]}, the index holds dimension {dimension}; "
            "use the encoder that built it, or build anew"
        )
    return checked_units(vectors, texts)


def checked_units(vectors: npt.NDArray[Any], texts: Sequence[str] | None = None) -> Matrix:
    """Rows scaled to length 1 in float32. (n, d) -> (n, d)

    Raises:
        SearchError: a NaN or infinite value; names the row and its text.
    """
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))  # (n,)
    if not np.isfinite(lengths).all():
        row = int(np.flatnonzero(~np.isfinite(lengths))[0])
        about = f" ({texts[row][:40]!r})" if texts is not None else ""
        raise SearchError(f"vector {row}{about} holds NaN or infinity, expected finite numbers; check the encoder")
    lengths[lengths == 0] = 1
    units: Matrix = (vectors / lengths[:, None]).astype(np.float32)  # (n, d)
    return units


def encode_of(encoder: Encode | HasEncode) -> Encode:
    """The callable that encodes: `encoder.encode` where there is one, else the encoder itself.

    Raises:
        SearchError: neither.
    """
    if isinstance(encoder, (str, bytes, PurePath, type)):  # a name of one, whose `encode` is that of a text
        raise SearchError(f"encode: found {encoder!r}, expected an encoder, or a function from texts to vectors (n, d)")
    encode = getattr(encoder, "encode", encoder)
    if not callable(encode):
        raise SearchError(f"encode: found {encoder!r}, expected an encoder, or a function from texts to vectors (n, d)")
    found: Encode = encode
    return found


def name_of(encode: Encode) -> str:
    """The name of the object behind a bound method if it has one, else the callable's own name."""
    encode = _behind(encode)
    name = getattr(getattr(encode, "__self__", None), "name", None)
    if isinstance(name, str) and name:
        return name
    return str(getattr(encode, "__qualname__", type(encode).__qualname__))


@dataclass(frozen=True)
class Identity:
    """What is remembered of an encoder: its name, fingerprint and prompt if it has one, unit vectors of the probe
    sentences (3, d).
    """

    name: str
    fingerprint: str | None
    probes: Matrix
    prompt: str | None = None

    @classmethod
    def of(cls, encode: Encode) -> Identity:
        """Encode the probe sentences and look for a name and a fingerprint."""
        fingerprint = getattr(getattr(_behind(encode), "__self__", None), "fingerprint", None)
        return cls(
            name=name_of(encode),
            fingerprint=fingerprint if isinstance(fingerprint, str) else None,
            probes=unit_vectors(encode, PROBES),
            prompt=prompt_of(encode),
        )

    @property
    def facts(self) -> dict[str, Any]:
        """What an index shows of its encoder."""
        return {"encoder": self.name, "fingerprint": self.fingerprint, "prompt": self.prompt}

    @property
    def dimension(self) -> int:
        """d of its vectors."""
        return int(self.probes.shape[1])

    def check(self, other: Identity, where: str) -> None:
        """Refuse `other` if it is another encoder than this one.

        Raises:
            SearchError: other dimension, or a probe sentence whose two vectors have a cosine below 0.99.
        """
        if other.dimension != self.dimension:
            raise SearchError(
                f"{where}: built by {self.name} (dimension {self.dimension}), "
                f"but {other.name} gives dimension {other.dimension}; load it with {self.name}, or build anew"
            )
        if (cosine := self._cosine(other)) < SAME:
            raise SearchError(
                f"{where}: built by {self.name}{_short(self)}, but {other.name}{_short(other)} gives "
                f"other vectors (cosine {cosine:.3f} on a probe sentence, expected at least {SAME}); "
                f"load it with {self.name}, or build anew"
            )

    def check_follows(self, before: Identity, where: str) -> None:
        """Refuse what another process has put in the place of an index that is open, if this encoder built it and
        another one, `before`, the index that was opened.

        Raises:
            OtherEncoderError: other dimension or other vectors, as in `check`.
        """
        if before.dimension == self.dimension and self._cosine(before) >= SAME:
            return
        raise OtherEncoderError(
            f"{where}: {self.name}{_short(self)} (dimension {self.dimension}) has built it anew while it "
            f"was open with {before.name}{_short(before)} (dimension {before.dimension}), whose vectors "
            f"are others; load it again with {self.name}, or build it anew with {before.name}"
        )

    def _cosine(self, other: Identity) -> float:
        """The least one of the probe sentences' two vectors; zero vectors are equal."""
        both_zero = ~self.probes.any(axis=1) & ~other.probes.any(axis=1)  # (p,)
        return float(np.where(both_zero, 1, np.einsum("pd,pd->p", self.probes, other.probes)).min())

    def to_json(self) -> dict[str, Any]:
        """Plain values for the manifest; the probe vectors as base64 of float16."""
        probes = packed_units(self.probes)
        return {"name": self.name, "fingerprint": self.fingerprint, "probes": probes, "prompt": self.prompt}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Identity:
        """The inverse of `to_json`."""
        probes = unpacked_units(values["probes"], len(PROBES))
        return cls(str(values["name"]), values["fingerprint"], probes, values.get("prompt"))


def packed_units(vectors: Matrix) -> str:
    """Unit vectors (n, d) as text for JSON, in half precision."""
    return base64.b64encode(vectors.astype("<f2").tobytes()).decode("ascii")


def unpacked_units(packed: str, rows: int) -> Matrix:
    """The inverse of `packed_units`, for n rows."""
    return checked_units(np.frombuffer(base64.b64decode(packed), dtype="<f2").reshape(rows, -1))


def _behind(encode: Encode) -> Encode:
    """The callable inside `functools.partial(encoder.encode, batch_size=32)`."""
    while isinstance(encode, partial):
        encode = encode.func
    return encode


def prompt_of(encode: Encode) -> str | None:
    """What the object behind a bound method puts before each text, if it says so and puts anything there."""
    given: dict[str, Any] = {}
    while isinstance(encode, partial):
        given = encode.keywords | given  # the outer one counts
        encode = encode.func
    resolve = getattr(getattr(encode, "__self__", None), "resolve_prompt", None)
    if not callable(resolve):
        return None
    return str(resolve(given.get("prompt"), given.get("prompt_name"))) or None


def _short(identity: Identity) -> str:
    prompt = f" with the prompt {identity.prompt!r:.40}" if identity.prompt else ""
    return (f" [{identity.fingerprint[:8]}]" if identity.fingerprint else "") + prompt
