"""A checkpoint with a prompt for each role, and an index that it built."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from simcse import ConfigError, SearchIndex, SentenceEncoder


@pytest.fixture(scope="session")
def checkpoint(tiny_bert, tmp_path_factory) -> Path:
    encoder = SentenceEncoder.from_pretrained(tiny_bert, pooling="mean", dtype="fp32")
    encoder.prompts = {"query": "read a book ", "document": "the old city "}
    return encoder.save_pretrained(tmp_path_factory.mktemp("prompted") / "best")


@pytest.fixture(scope="session")
def encoder(checkpoint) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(checkpoint, dtype="fp32")


@pytest.fixture(scope="session")
def index(encoder, sentences) -> SearchIndex:
    metadata = [{"lang": "en" if i % 2 else "de", "n": i} for i in range(len(sentences))]
    return SearchIndex.build(sentences, encoder, metadata=metadata)


@pytest.fixture
def named_where_missing(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], None]:
    """Import one of our modules where a library's is not installed: the error names the extra that brings it."""

    def check(module: str, library: str, extra: str) -> None:
        monkeypatch.setitem(sys.modules, library, None)
        monkeypatch.delitem(sys.modules, module, raising=False)
        with pytest.raises(ConfigError, match=re.escape(f"pip install 'simcse-kit[{extra}]'")):
            importlib.import_module(module)

    return check
