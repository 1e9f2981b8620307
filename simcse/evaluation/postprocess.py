"""Maps fitted on an encoder's vectors after the fact: whitening (Su et al. 2021) and a normalising flow (`flow`).

    fitted = fit(encode, texts, kind="whitening", dimensions=256)
    vectors = fitted(encode)(["a sentence"])         # (1, 256), unit length
    fitted.save("runs/x/whitening"); Fitted.load("runs/x/whitening")

Both undo anisotropy without training the encoder: the paper's baselines. Fit and apply them on vectors that are not
normalised, as the papers do (`encode=partial(encoder.encode, normalize=False)`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from stat import S_IMODE
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from simcse.errors import ConfigError, DataError, EncoderError, ModelError, did_you_mean, shown
from simcse.files import check_version, replaced_folder
from simcse.vectors import Encode, encoded, unit_vectors

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SETTINGS", "Fitted", "Kind", "fit"]

Kind = Literal["whitening", "flow"]

SETTINGS, WEIGHTS = "postprocess.json", "postprocess.safetensors"
FORMAT = 1
FLOW_MIN = 20  # texts: a tenth is held out
SMALLEST = 1e-8  # a direction with less than this share of the largest variance is noise, not scaled up to 1


@dataclass(frozen=True)
class Fitted:
    """A map of vectors, (n, d) -> (n, k), and where it comes from.

    Calling it with an encoder gives an encoder: `fitted(encode)`.
    """

    kind: Kind
    weights: Mapping[str, Tensor]
    metadata: Mapping[str, Any]
    """d, k, texts, and what the fit says of itself; with `encoder` and its settings, if the caller gave them."""

    def __call__(self, encode: Encode) -> Callable[[list[str]], NDArray[np.float32]]:
        """The encoder followed by the map: texts -> (n, k) float32 of unit length.

        Raises:
            ModelError: when called, the encoder gives vectors of another dimension than those fitted on.
        """

        def mapped(texts: list[str]) -> NDArray[np.float32]:
            return unit_vectors(lambda some: self.apply(encoded(encode, some)), texts)

        return mapped

    def apply(self, vectors: NDArray[Any]) -> NDArray[np.float32]:
        """(n, d) -> (n, k), not normalised.

        Raises:
            ModelError: another d than fitted on.
        """
        d = int(self.metadata["d"])
        if vectors.ndim != 2 or vectors.shape[1] != d:
            raise ModelError(
                f"{self.kind} was fitted on vectors of dimension {d}, found shape {vectors.shape}: "
                "fit it anew on this encoder"
            )
        return MAPS[self.kind](self, vectors)

    def save(self, folder: str | Path) -> Path:
        """Write `postprocess.json` and `postprocess.safetensors`; the folder is replaced whole."""
        from safetensors.torch import save_file

        with replaced_folder(folder) as new:
            save_file({key: value.contiguous() for key, value in self.weights.items()}, new / WEIGHTS)
            settings = json.dumps({"format": FORMAT, "kind": self.kind, **self.metadata}, indent=2)
            (new / SETTINGS).write_text(settings + "\n", encoding="utf-8")
            # safetensors leaves weights that their owner alone can read
            (new / WEIGHTS).chmod(S_IMODE((new / SETTINGS).stat().st_mode))
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Fitted:
        """Read what `save` wrote.

        Raises:
            ModelError: the folder holds none, or a damaged one.
        """
        from safetensors.torch import load_file

        folder = Path(folder)
        if not (folder / SETTINGS).is_file():
            raise ModelError(f"{folder}: no {SETTINGS} there; fit one by simcse postprocess")
        try:
            metadata = dict(json.loads((folder / SETTINGS).read_bytes()))
            check_version(folder / SETTINGS, metadata.pop("format", 1), FORMAT, ModelError)
            kind = str(metadata.pop("kind"))
            if kind not in MAPS:
                raise ModelError(f"{folder / SETTINGS}: kind {kind!r} is not one of {', '.join(MAPS)}; fit it anew")
            fitted = cls("flow" if kind == "flow" else "whitening", load_file(folder / WEIGHTS), metadata)
            mapped = fitted.apply(np.zeros((1, metadata["d"]), dtype=np.float32))  # what maps a vector is whole
            said = (metadata.get(name) for name in ("encoder", "pooling", "fingerprint"))
            if (
                mapped.shape != (1, metadata["k"])
                or not np.isfinite(mapped).all()
                or not isinstance(metadata["texts"], int)
            ):
                raise ValueError("d, k, texts and weights do not belong together")
            if not all(value is None or isinstance(value, str) for value in said):
                raise ValueError("encoder, pooling and fingerprint are no texts")
        except ModelError:
            raise
        except Exception as error:  # damaged files raise whatever the parser or the map stumbles over
            raise ModelError(f"{folder}: damaged ({type(error).__name__}: {error}); fit it anew") from error
        return fitted


def fit(
    encode: Encode,
    texts: Sequence[str],
    *,
    kind: Kind = "whitening",
    dimensions: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    **options: Any,
) -> Fitted:
    """Fit a map on the vectors of texts.

    Args:
        encode: `encode(list of n) -> (n, d)`, not normalised.
        texts: more distinct ones than dimensions; thousands for a flow.
        kind: `whitening`: centre, rotate to the principal axes, scale each to variance 1. `flow`: see `flow.fit_flow`.
        dimensions: k, for whitening: keep the axes of the k largest variances (Su et al. keep 256 of 768); default all.
        metadata: what to keep with it, such as the encoder's name.
        options: of `flow.fit_flow`.

    Raises:
        ConfigError: an unknown kind; k is out of range or given for a flow.
        DataError: too few distinct texts.
        ModelError: a vector with NaN or infinity.
    """
    if kind not in MAPS:
        raise ConfigError(f"kind: found {kind!r}, expected {' or '.join(MAPS)}{did_you_mean(kind, MAPS)}")
    if kind == "flow" and dimensions is not None:
        raise ConfigError(f"dimensions is {dimensions}, but a flow keeps them all; leave it out")
    distinct = list(dict.fromkeys(texts))
    if len(distinct) < 2:
        raise DataError(f"found {len(distinct)} distinct texts, expected thousands to fit {kind} on")
    vectors = encoded(encode, distinct).astype(np.float32)
    if len(wrong := np.flatnonzero(~np.isfinite(vectors).all(axis=1))):
        row = int(wrong[0])
        raise EncoderError(f"text {row + 1} {shown(distinct[row])}: its vector is NaN or infinite; encode in fp32")
    n, d = vectors.shape
    weights, found = _whitening(vectors, dimensions) if kind == "whitening" else _flow(vectors, options)
    return Fitted(kind, weights, {**(metadata or {}), "d": d, "texts": n, **found})


def _whitening(vectors: NDArray[np.float32], k: int | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    import torch

    n, d = vectors.shape
    if k is not None and not 1 <= k <= d:
        raise ConfigError(f"dimensions is {k}: the encoder has {d}, so 1 to {d}")
    if n <= (k or d):
        raise DataError(
            f"found {n} distinct texts, expected more than the {k or d} dimensions that whitening keeps; "
            "give more texts or keep fewer dimensions"
        )
    exact = vectors.astype(np.float64)
    mean = exact.mean(axis=0)
    variance, axes = np.linalg.eigh(np.cov(exact.T).reshape(d, d))  # rising
    total, variance, axes = variance.sum(), variance[::-1][: k or d], axes[:, ::-1][:, : k or d]
    if variance[0] <= 0:
        raise DataError(f"the vectors of all {n} texts are equal: there is nothing to whiten; look at the encoder")
    usable = variance > SMALLEST * variance[0]
    matrix = axes[:, usable] / np.sqrt(variance[usable])  # (d, k)
    weights = {"mean": torch.from_numpy(mean).float(), "matrix": torch.from_numpy(matrix).float()}
    return weights, {"k": int(usable.sum()), "kept_variance": float(variance[usable].sum() / total)}


def _flow(vectors: NDArray[np.float32], options: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    import torch

    from simcse.evaluation.flow import fit_flow

    n, d = vectors.shape
    if n < FLOW_MIN or d < 2:
        raise DataError(f"found {n} distinct texts of dimension {d}, a flow needs at least {FLOW_MIN} of dimension 2")
    flow, found = fit_flow(torch.from_numpy(vectors), **options)
    return dict(flow.state_dict()), {"k": d, "blocks": len(flow.couplings), **found}


def _apply_whitening(fitted: Fitted, vectors: NDArray[Any]) -> NDArray[np.float32]:
    mean, matrix = (fitted.weights[key].numpy() for key in ("mean", "matrix"))
    whitened: NDArray[np.float32] = (np.asarray(vectors, dtype=np.float32) - mean) @ matrix
    return whitened


def _apply_flow(fitted: Fitted, vectors: NDArray[Any]) -> NDArray[np.float32]:
    import torch

    from simcse.evaluation.flow import Flow

    flow = Flow.from_weights(fitted.weights)
    with torch.inference_mode():
        z, _ = flow(torch.from_numpy(np.ascontiguousarray(vectors, dtype=np.float32)))
    mapped: NDArray[np.float32] = z.numpy()
    return mapped


MAPS: dict[str, Callable[[Fitted, NDArray[Any]], NDArray[np.float32]]] = {
    "flow": _apply_flow,
    "whitening": _apply_whitening,
}
