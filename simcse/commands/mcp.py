"""`simcse mcp`."""

from __future__ import annotations

from simcse.commands.shared import open_index

__all__ = ["mcp"]


def mcp(index: str, *, model: str | None = None, device: str = "auto", dtype: str = "auto") -> None:
    """Serve an index to language models by the Model Context Protocol.

    It speaks over standard input and output. Programs that start such servers, such as assistants and editors, want a
    command and its arguments: simcse, and mcp INDEX with the whole path of the index. The tools are search, fetch and
    info; none changes the index.

    Args:
        index: folder of the index
        model: the encoder that built the index; default the name in its manifest
        device: auto, cpu, cuda, cuda:1, ...
        dtype: precision: auto (bf16 where the device computes in it, else fp32), fp32, bf16, fp16, int8 (AVX2, AMX)
    """
    from simcse.integrations.mcp import create_server

    create_server(open_index(index, model, device, dtype)).run("stdio")
