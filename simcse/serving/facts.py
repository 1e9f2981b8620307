"""Facts about an index, its encoder and the service, for the page and for clients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simcse import __version__
from simcse.encoder.model import SentenceEncoder
from simcse.search.index import SearchIndex
from simcse.serving.limits import Limits

__all__ = ["facts_of"]

HIDDEN = ("folder", "encoder", "fingerprint")  # no paths of the machine; the encoder has a part of its own


def facts_of(index: SearchIndex, encoder: SentenceEncoder, limits: Limits) -> dict[str, Any]:
    """JSON values in three parts: `encoder`, `index`, `limits`."""
    facts = index.info
    return {
        "encoder": {
            "name": _shown(encoder.name),
            "dimension": encoder.dimension,
            "layers": getattr(encoder.backbone.config, "num_hidden_layers", None),
            "parameters": sum(weight.numel() for weight in encoder.parameters()),
            "pooling": encoder.pooling,
            "max_length": encoder.max_length,
            "precision": str(encoder.dtype).removeprefix("torch."),
            "device": str(encoder.device),
            "fingerprint": facts["fingerprint"],
        },
        "index": {
            "name": Path(facts["folder"]).name if facts["folder"] else "in memory",
            **{name: value for name, value in facts.items() if name not in HIDDEN},
        },
        "limits": {"max_text": limits.max_text, "max_texts": limits.max_texts, "max_top_k": limits.max_top_k},
        "version": __version__,
    }


def _shown(name: str) -> str:
    """The last two parts of a folder's name; a hub id as it is."""
    path = Path(name)
    return "/".join(path.parts[-2:]) if path.is_absolute() else name
