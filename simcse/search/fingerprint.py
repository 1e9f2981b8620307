"""Whose vectors these are: vectors of two encoders must never meet in one index.

An index knows its encoder by three fixed sentences and their vectors, so that any callable can be checked, and by the
name and fingerprint of the object behind the callable where it has them. The vectors decide: the same weights in
another precision or file format pass, other weights do not. They are those of documents: how queries are encoded, with
a prompt of their own perhaps, is up to the one who searches.
"""

from __future__ import annotations

import base64
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from simcse.errors import SearchError
from simcse.vectors import Encode, Matrix, encoder_behind, method_of, name_of, options_of, unit_rows, unit_vectors

__all__ = ["Identity", "OtherEncoderError"]

PROBES = (
    "A man is playing a guitar on the street.",
    "The committee rejected the proposal because its costs were too high.",
    "How many litres of water does a tree drink in a year?",
)
ROLES = {"encode_query": "query", "encode_document": "document"}
SAME = 0.99  # bf16 against fp32 gives 0.9999; a few steps of training already give less than 0.99


class OtherEncoderError(SearchError):
    """An index that is open has been built anew by another encoder: what this one encodes finds nothing in it."""


@dataclass(frozen=True)
class Identity:
    """What is remembered of an encoder: its name, unit vectors of the probe sentences (3, d), and where it has them its
    fingerprint, its prompt, and the number of dimensions that its vectors were cut to.
    """

    name: str
    fingerprint: str | None
    probes: Matrix
    prompt: str | None = None
    truncate_dim: int | None = None

    @classmethod
    def of(cls, encode: Encode) -> Identity:
        """Encode the probe sentences and look for a name and a fingerprint."""
        encoder = encoder_behind(encode)
        fingerprint, kept = getattr(encoder, "fingerprint", None), getattr(encoder, "truncate_dim", None)
        return cls(
            name=name_of(encode),
            fingerprint=fingerprint if isinstance(fingerprint, str) else None,
            probes=unit_vectors(encode, PROBES),
            prompt=prompt_of(encode),
            truncate_dim=kept if isinstance(kept, int) else None,
        )

    @property
    def facts(self) -> dict[str, Any]:
        """What an index shows of its encoder."""
        kept = {} if self.truncate_dim is None else {"truncate_dim": self.truncate_dim}
        return {"encoder": self.name, "fingerprint": self.fingerprint, "prompt": self.prompt} | kept

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
                f"{where}: built by {self.name} (dimension {self.dimension}), but {other.name} gives dimension "
                f"{other.dimension}; load it with {self.name}{_cut(self)}, or build anew"
            )
        if (cosine := self._cosine(other)) < SAME:
            raise SearchError(
                f"{where}: built by {self.name}{_short(self)}, but {other.name}{_short(other)} gives "
                f"other vectors (cosine {cosine:.3f} on a probe sentence, expected at least {SAME}); "
                f"load it with {self.name}{_cut(self)}, or build anew"
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
        return asdict(self) | {"probes": packed_units(self.probes)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Identity:
        """The inverse of `to_json`."""
        probes = unpacked_units(values["probes"], len(PROBES))
        return cls(str(values["name"]), values["fingerprint"], probes, values.get("prompt"), values.get("truncate_dim"))


def packed_units(vectors: Matrix) -> str:
    """Unit vectors (n, d) as text for JSON, in half precision."""
    return base64.b64encode(vectors.astype("<f2").tobytes()).decode("ascii")


def unpacked_units(packed: str, rows: int) -> Matrix:
    """The inverse of `packed_units`, for n rows.

    Raises:
        ValueError: it is damaged.
    """
    vectors = np.frombuffer(base64.b64decode(packed), dtype="<f2").reshape(rows, -1)  # (n, d)
    if not np.isfinite(vectors).all():
        raise ValueError("a unit vector that is not finite")
    return unit_rows(vectors)


def prompt_of(encode: Encode) -> str | None:
    """What the object behind a bound method puts before each text, if it says so and puts anything there."""
    resolve = getattr(encoder_behind(encode), "resolve_prompt", None)
    if not callable(resolve):
        return None
    options = options_of(encode)
    role = ROLES.get(getattr(method_of(encode), "__name__", ""))
    return str(resolve(options.get("prompt"), options.get("prompt_name"), role)) or None


def _cut(identity: Identity) -> str:
    return f" and truncate_dim={identity.truncate_dim}" if identity.truncate_dim is not None else ""


def _short(identity: Identity) -> str:
    prompt = f" with the prompt {identity.prompt!r:.40}" if identity.prompt else ""
    return (f" [{identity.fingerprint[:8]}]" if identity.fingerprint else "") + prompt
