"""Facts about an index, its encoder and the service, for the page and for clients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simcse import __version__
from simcse.encoder.model import SentenceEncoder
from simcse.search.index import SearchIndex
from simcse.serving.limits import Limits

__all__ = ["facts_of", "shown_name"]

HIDDEN = ("folder", "encoder", "fingerprint", "prompt")  # no paths of the machine; the encoder has a part of its own


def facts_of(index: SearchIndex, encoder: SentenceEncoder, limits: Limits) -> dict[str, Any]:
    """JSON values in three parts: `encoder`, `index`, `limits`."""
    facts = index.info
    return {
        "encoder": {
            "name": shown_name(encoder.name),
            "dimension": encoder.dimension,
            "layers": getattr(encoder.config, "num_hidden_layers", None),
            "parameters": sum(weight.numel() for weight in encoder.parameters()),
            "pooling": encoder.pooling,
            "max_length": encoder.max_length,
            "query_prompt": encoder.resolve_prompt(role="query") or None,
            "document_prompt": encoder.resolve_prompt(role="document") or None,
            "precision": str(encoder.dtype).removeprefix("torch."),
            "device": str(encoder.device),
            "fingerprint": facts["fingerprint"],
        },
        "index": {
            "name": _index_name(facts["folder"]),
            **{name: value for name, value in facts.items() if name not in HIDDEN},
        },
        "limits": {"max_text": limits.max_text, "max_texts": limits.max_texts, "max_top_k": limits.max_top_k},
        "version": __version__,
    }


def shown_name(name: str) -> str:
    """A hub id as it is; of a folder's path the last part, and the run's name before `best` or `last`."""
    path = Path(name)
    if not (path.is_absolute() or len(path.parts) > 2 or path.is_dir()):
        return name
    path = path.absolute()
    return f"{path.parent.name}/{path.name}" if path.name in ("best", "last") else path.name


def _index_name(folder: str | None) -> str:
    """The last part of a folder's path; of an address in Milvus its collection alone."""
    if folder is None:
        return "in memory"
    return folder.rpartition("#")[2] if "#" in folder else Path(folder).absolute().name
