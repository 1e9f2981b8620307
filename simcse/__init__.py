"""Train, evaluate and use sentence embeddings by contrastive learning.

    from simcse import SentenceEncoder, SearchIndex
    encoder = SentenceEncoder.from_pretrained("runs/x/best")
    index = SearchIndex.build(sentences, encoder.encode)
    index.search(["a question"], top_k=5)

Names are imported when first used, so that `import simcse` costs nothing.
"""

from __future__ import annotations

import gc
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simcse.compat import SimCSE as SimCSE
    from simcse.encoder.model import SentenceEncoder as SentenceEncoder
    from simcse.errors import ConfigError as ConfigError
    from simcse.errors import DataError as DataError
    from simcse.errors import ModelError as ModelError
    from simcse.errors import SearchError as SearchError
    from simcse.errors import SimCSEError as SimCSEError
    from simcse.search.index import Hit as Hit
    from simcse.search.index import SearchIndex as SearchIndex
    from simcse.training.config import TrainConfig as TrainConfig
    from simcse.training.run import train as train

__version__ = "0.1.0"

_HOME = {
    "ConfigError": "simcse.errors",
    "DataError": "simcse.errors",
    "Hit": "simcse.search.index",
    "ModelError": "simcse.errors",
    "SearchError": "simcse.errors",
    "SearchIndex": "simcse.search.index",
    "SentenceEncoder": "simcse.encoder.model",
    "SimCSE": "simcse.compat",
    "SimCSEError": "simcse.errors",
    "TrainConfig": "simcse.training.config",
    "train": "simcse.training.run",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        from simcse.errors import did_you_mean

        raise AttributeError(f"module 'simcse' has no attribute {name!r}{did_you_mean(name, _HOME)}")
    with uncollected():
        value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


@contextmanager
def uncollected() -> Iterator[None]:
    """For imports and loading: they leave no garbage, and to look for it takes a tenth of their time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
