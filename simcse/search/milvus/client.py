"""A connection to Milvus: its address, and what it refuses in one line."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from simcse.errors import ConfigError, SearchError

__all__ = ["connect", "explained", "files", "is_file", "quiet", "split_address"]

DEFAULT_COLLECTION = "simcse"


def split_address(kind: str) -> tuple[str, str]:
    """URI and collection of `milvus:URI` or `milvus:URI#COLLECTION`; without a URI that of the variable MILVUS_URI.

    Raises:
        ConfigError: no URI.
    """
    address = kind.removeprefix("milvus").removeprefix(":") or os.environ.get("MILVUS_URI", "")
    uri, _, collection = address.partition("#")
    if not uri:
        raise ConfigError(
            "kind: found milvus without an address, expected milvus:FILE.db, milvus:http://HOST:19530, or the "
            "variable MILVUS_URI"
        )
    return uri, collection or DEFAULT_COLLECTION


def is_file(uri: str) -> bool:
    """Whether it names a file of milvus-lite, rather than a server."""
    return "://" not in uri


def files(uri: str) -> list[Path]:
    """All files of milvus-lite under a name."""
    path = Path(uri)
    return [one for one in path.rglob("*") if one.is_file()] if path.is_dir() else [path]


def connect(uri: str) -> Any:
    """A client of pymilvus.

    Raises:
        ConfigError: pymilvus is not installed, or the name is neither a file nor a server.
        SearchError: Milvus does not answer.
    """
    try:
        from pymilvus import MilvusClient
    except ModuleNotFoundError as error:
        raise ConfigError(f"kind milvus needs the package {error.name}: pip install 'simcse-kit[milvus]'") from error
    if is_file(uri) and not uri.endswith(".db"):
        raise ConfigError(f"kind: found milvus:{uri}, expected a file that ends in .db, or http://HOST:19530")
    with explained(uri):
        if is_file(uri):
            try:
                Path(uri).absolute().parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise SearchError(f"{uri}: {error.strerror}: {error.filename}; give another place") from error
        # pymilvus pings an idle connection; milvus-lite hangs up after a few such pings ("Too many pings")
        options = {"grpc.keepalive_permit_without_calls": 0} if is_file(uri) else {}
        return MilvusClient(uri, token=os.environ.get("MILVUS_TOKEN", ""), grpc_options=options)


@contextmanager
def quiet(wanted: bool) -> Iterator[None]:
    """Without the errors that milvus-lite logs, and gets over, because it has no clock of its own."""
    loggers = [logging.getLogger(name) for name in ("pymilvus", "grpc._server")] if wanted else []
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """What Milvus refuses as one line.

    Raises:
        SearchError: it refuses.
    """
    from pymilvus.exceptions import MilvusException

    try:
        yield
    except MilvusException as error:
        reason = " ".join(str(error.message).split())[:200]
        raise SearchError(
            f"{uri}: Milvus refuses: {reason}; check that it runs, and that no other process has the file open"
        ) from error
