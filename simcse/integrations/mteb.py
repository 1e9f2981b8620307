"""Encoders as models of `mteb` (2.x), which measures them on its own tasks.

mteb.evaluate(mteb.get_model(register("runs/x/best")), mteb.get_tasks(tasks=["STSBenchmark"]))

mteb reads its data from the hub; its protocols are not those of the SimCSE paper (raw text; SICK-R has 9,927 pairs).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simcse.encoder.model import SentenceEncoder
from simcse.errors import ConfigError, ModelError
from simcse.vectors import Encode, Encoder, encode_of, encoded, roles_of

try:
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.models.model_implementations import MODEL_REGISTRY
    from mteb.models.model_meta import ModelMeta, ScoringFunction
except ImportError as error:
    raise ConfigError("this needs mteb 2: pip install 'simcse-kit[mteb]'") from error

__all__ = ["MtebEncoder", "register"]


class MtebEncoder(AbsEncoder):
    """What `mteb.evaluate` accepts as a model; the revision tells checkpoints of one name apart, in stored results."""

    def __init__(self, encoder: Encode | Encoder, name: str, revision: str) -> None:
        roles = roles_of(encoder)
        self._encode = {None: encode_of(encoder), "query": roles.encode_query, "document": roles.encode_document}
        parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")] or ["model"]
        self.name = "/".join(["local", *parts][-2:])
        facts = {"name": self.name, "revision": revision, "framework": ["PyTorch"], "use_instructions": False}
        self.mteb_model_meta = ModelMeta.create_empty({**facts, "similarity_fn_name": ScoringFunction.COSINE})

    def encode(self, inputs: Iterable[Mapping[str, Any]], *, prompt_type: Any = None, **_: Any) -> NDArray[np.float32]:
        """Vectors (n, d) of all texts of a data loader; the prompt type is their role, and no other option counts."""
        texts: list[str] = []
        for batch in inputs:
            if "text" not in batch:
                raise ModelError(f"{self.name} encodes text only; this task has {', '.join(batch)}")
            texts.extend(batch["text"])
        return encoded(self._encode[getattr(prompt_type, "value", prompt_type)], texts).astype(np.float32)


def register(checkpoint: str, **options: Any) -> str:
    """Make `mteb.get_model(NAME)` give a checkpoint, loaded with options of `from_pretrained`; returns the name."""
    encoder = SentenceEncoder.from_pretrained(checkpoint, **options)
    model = MtebEncoder(encoder, checkpoint, encoder.fingerprint)
    assert model.mteb_model_meta is not None
    MODEL_REGISTRY[model.name] = model.mteb_model_meta.model_copy(update={"loader": lambda *_, **__: model})
    return model.name
