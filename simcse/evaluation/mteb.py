"""Any encoder as a model of `mteb` (2.x), which then measures it on its own tasks.

    import mteb
    from simcse import SentenceEncoder
    from simcse.evaluation.mteb import MtebEncoder

    encoder = SentenceEncoder.from_pretrained("runs/x/best")
    model = MtebEncoder(encoder.encode, name="x", revision=encoder.fingerprint)
    mteb.evaluate(model, mteb.get_tasks(tasks=["STSBenchmark"]))

mteb reads its data from the hub; its protocols are not those of the SimCSE paper (raw text; SICK-R has 9,927 pairs
there).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simcse.errors import ConfigError, ModelError
from simcse.vectors import Encode, encode_of, encoded, roles_of

__all__ = ["MtebEncoder"]


class MtebEncoder:
    """What `mteb.evaluate` accepts as a model.

    Args:
        encode: `encode(list of n texts) -> (n, d)`; of an encoder with roles its method `encode`, as for an index.
        name: the model's name in mteb's results; a name without an owner is put under `local/`.
        revision: what tells this checkpoint from others of that name, such as `encoder.fingerprint`: mteb finds cached
            results by name and revision, and would report those of an older checkpoint.
        max_tokens: the longest input that is not cut; only reported.

    Raises:
        ConfigError: mteb is not installed.
    """

    def __init__(self, encode: Encode, name: str, revision: str, *, max_tokens: int | None = None) -> None:
        try:
            import mteb  # noqa: F401
        except ImportError as error:
            raise ConfigError("this needs mteb 2: pip install 'mteb>=2'") from error
        roles = roles_of(encode)
        self._encode = encode_of(encode)
        self._roles = {"query": roles.encode_query, "document": roles.encode_document}
        self._name = name if name.count("/") == 1 and not name.startswith(("/", ".")) else f"local/{_last_part(name)}"
        self._revision = revision
        self._max_tokens = max_tokens

    @cached_property
    def mteb_model_meta(self) -> Any:
        """mteb's `ModelMeta`."""
        from mteb.models.model_meta import ModelMeta, ScoringFunction

        return ModelMeta.create_empty(
            {
                "name": self._name,
                "revision": self._revision,
                "max_tokens": self._max_tokens,
                "framework": ["PyTorch"],
                "similarity_fn_name": ScoringFunction.COSINE,
                "use_instructions": False,
            }
        )

    def encode(self, inputs: Iterable[Mapping[str, Any]], *, prompt_type: Any = None, **_: Any) -> NDArray[np.float32]:
        """Vectors of all texts of a data loader, (n, d), in one call of the encoder, which makes its own batches.

        The prompt type, query or document, is the role of the texts. What else mteb passes (task, split, batch size)
        changes no vector.
        """
        texts: list[str] = []
        for batch in inputs:
            if "text" not in batch:
                raise ModelError(f"{self._name} encodes text only; this task has {', '.join(batch)}")
            texts.extend(batch["text"])
        encode = self._roles.get(getattr(prompt_type, "value", prompt_type), self._encode)
        return encoded(encode, texts).astype(np.float32)  # (n, d)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosine of each vector of the one with each of the other: (n, m) tensor."""
        from mteb.similarity_functions import cos_sim

        return cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosine of the i-th vectors of both: (n,) tensor."""
        from mteb.similarity_functions import pairwise_cos_sim

        return pairwise_cos_sim(embeddings1, embeddings2)


def _last_part(name: str) -> str:
    return name.rstrip("/").replace("\\", "/").rsplit("/", 1)[-1] or "model"
