"""`simcse mcp` as a process, asked by the protocol's own client over standard input and output."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters, stdio_client

from simcse import SearchIndex
from simcse.cli import main


@pytest.fixture(scope="module")
def folder(encoder, sentences, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mcp") / "idx"
    metadata = [{"lang": "en" if i % 2 else "de", "year": 2000 + i} for i in range(len(sentences))]
    index = SearchIndex.build(sentences, encoder, metadata=metadata)
    index.add(["a dog " * 500], ids=["long"])
    index.save(folder)
    return folder


@pytest.fixture
def asked(folder) -> Callable[..., Any]:
    """`asked(*calls)`: what the server answers to calls, (tool, arguments) each, and its tools."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    server = StdioServerParameters(
        command=sys.executable, args=["-m", "simcse", "mcp", str(folder), "--dtype", "fp32"], env=environment
    )

    async def ask(calls):
        async with Client(stdio_client(server)) as client:
            tools = (await client.list_tools()).tools
            return tools, await asyncio.gather(*(client.call_tool(name, arguments) for name, arguments in calls))

    return lambda *calls: asyncio.run(ask(calls))


def test_search_fetch_and_info(asked, folder, encoder, sentences) -> None:
    tools, (found, filtered, texts, facts, long) = asked(
        ("search", {"query": sentences[7], "top_k": 3}),
        ("search", {"query": sentences[7], "where": {"lang": "de", "year": {">=": 2050}}, "top_k": 100}),
        ("fetch", {"ids": [9, "3"]}),
        ("info", {}),
        ("search", {"query": "a dog " * 500, "top_k": 1}),
    )
    assert [tool.name for tool in tools] == ["search", "fetch", "info"]
    assert all(tool.annotations.read_only_hint for tool in tools)
    [expected] = SearchIndex.load(folder, encoder).search(sentences[7], top_k=3)
    hits = found.structured_content["hits"]
    assert [(hit["id"], hit["text"], hit["metadata"]) for hit in hits] == [
        (hit.id, hit.text, hit.metadata) for hit in expected
    ]
    assert [hit["score"] for hit in hits] == pytest.approx([hit.score for hit in expected], abs=1e-5)
    assert {hit["metadata"]["year"] for hit in filtered.structured_content["hits"]} == set(range(2050, 2064, 2))
    assert texts.structured_content == {
        "texts": [
            {"id": 9, "text": sentences[9], "metadata": {"lang": "en", "year": 2009}},
            {"id": 3, "text": sentences[3], "metadata": {"lang": "en", "year": 2003}},
        ]
    }
    assert facts.structured_content["texts"] == 65
    assert facts.structured_content["metadata_fields"] == ["lang", "year"]
    [cut] = long.structured_content["hits"]
    assert (cut["id"], len(cut["text"])) == ("long", 1000)


def test_mistakes_are_told_to_the_model(asked) -> None:
    wrong = [
        (("search", {"query": " "}), "expected a text that is not blank"),
        (("search", {"query": "a dog", "where": {"land": "en"}}), "unknown field 'land'; did you mean 'lang'"),
        (("search", {"query": "a dog", "top_k": 0}), "greater than or equal to 1"),
        (("fetch", {"ids": [3, 99]}), "id 99 is not in the index"),
        (("fetch", {"ids": []}), "at least 1 item"),
    ]
    _, answers = asked(*(call for call, _ in wrong))
    for answer, (_, part) in zip(answers, wrong, strict=True):
        assert answer.is_error
        assert part in answer.content[0].text


def test_what_cannot_be_served_is_told_in_one_line(folder, tiny_roberta, tmp_path, capsys) -> None:
    assert main(["mcp", str(tmp_path / "none")]) == 1
    assert main(["mcp", str(folder), "--model", str(tiny_roberta)]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert "expected the folder of an index" in first
    assert "gives other vectors" in second


def test_a_missing_package_is_named(named_where_missing) -> None:
    named_where_missing("simcse.integrations.mcp", "mcp.server.mcpserver", "mcp")
