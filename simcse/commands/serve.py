"""`simcse serve`."""

from __future__ import annotations

import os
import sys
from typing import Any

from simcse.commands.shared import encoder_of_index, load_encoder
from simcse.errors import ConfigError

__all__ = ["serve"]


def serve(
    index: str | None = None,
    *,
    model: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    allowed_hosts: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    map_points: int = 5000,
    max_body: int = 1_048_576,
    max_text: int = 10_000,
    max_texts: int = 128,
    max_top_k: int = 100,
    max_queue: int = 1024,
    max_batch: int = 64,
    max_wait_ms: float = 2.0,
    threads: int | None = None,
    timeout: float = 30.0,
) -> None:
    """Serve an index over HTTP, with a page to use it; or an encoder alone.

    The page is at /, the interface at /docs, its OpenAPI document at /openapi.json, a health check at /healthz and
    counters for Prometheus at /metrics. OpenAI's clients find the encoder at /v1. Ctrl-C or SIGTERM stops it when the
    requests at hand are answered.

    Args:
        index: folder of the index; without one, --model is served alone
        model: the encoder that built the index; default the name in its manifest
        host: address to listen on; 0.0.0.0 is every one of this machine
        port: port to listen on; 0 is a free one
        token: what clients must send as Authorization, Bearer TOKEN; better given as the variable SIMCSE_TOKEN, which
            lists of processes do not show; default none is needed, and texts are neither added nor deleted
        allowed_hosts: names in the Host header that are answered where there is no token, beside the host, localhost
            and loopback addresses, such as that of a proxy, separated by commas; under any other name a page of the
            web could read the index. On 0.0.0.0 every address and the machine's name are answered, too
        device: auto, cpu, cuda, cuda:1, ...
        dtype: precision: auto (bf16 where the device computes in it, else fp32), fp32, bf16, fp16, int8 (AVX2, AMX)
        map_points: texts on the map of the corpus, at most
        max_body: bytes of a request
        max_text: characters of a text
        max_texts: texts in a request
        max_top_k: hits that may be asked for
        max_queue: texts that may wait; beyond, requests are refused with status 429
        max_batch: texts encoded together; 1 switches batching off
        max_wait_ms: milliseconds that the first text of a batch waits for others
        threads: processor threads that encode and search, each a batch of its own; default one a core
        timeout: seconds that a request may last
    """
    from simcse.serving.hosts import Hosts
    from simcse.serving.limits import Limits
    from simcse.serving.server import bound, check_installed, check_token, run_server

    limits = Limits(
        max_body=max_body, max_text=max_text, max_texts=max_texts, max_top_k=max_top_k, max_queue=max_queue,
        max_batch=max_batch, max_wait_ms=max_wait_ms, timeout=timeout,
    )  # fmt: skip
    if index is None and model is None:
        raise ConfigError("serve: name the folder of an index, or an encoder to serve alone as --model")
    if map_points < 1:
        raise ConfigError(f"--map_points: found {map_points}, expected at least 1")
    if threads is not None and threads < 1:
        raise ConfigError(f"--threads: found {threads}, expected at least 1")
    token = token if token is not None else os.environ.get("SIMCSE_TOKEN")
    check_token(token, host)
    check_installed()
    with bound(host, port) as listener:
        more = [] if allowed_hosts is None else [name.strip() for name in allowed_hosts.split(",")]
        hosts = Hosts([host, listener.getsockname()[0]], more)
        from simcse.search.index import SearchIndex
        from simcse.serving.app import create_app
        from simcse.serving.threads import search_threads, use_threads

        if index is None:
            encoder, opened = load_encoder(str(model), device, dtype), None
        else:
            encoder = encoder_of_index(index, model, device, dtype)
            opened = SearchIndex.load(index, encoder)
        count = use_threads(threads)
        if opened is not None:
            opened.threads = search_threads(count)
        options: dict[str, Any] = {"limits": limits, "token": token, "hosts": hosts, "map_points": map_points}
        app = create_app(opened, encoder, threads=count if encoder.device.type == "cpu" else 1, **options)
        line = f"{model}: an encoder without an index" if opened is None else f"{index}: {len(opened)} texts"
        run_server(app, listener, lambda url: print(f"{line} at {url}", file=sys.stderr, flush=True))
