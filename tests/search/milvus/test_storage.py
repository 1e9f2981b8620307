"""What Milvus does beside what every storage does, here by milvus-lite: addresses, limits, what a failure leaves."""

from __future__ import annotations

import os
import subprocess
import sys
from copy import copy
from importlib.util import find_spec

import pytest

from simcse import ConfigError, DataError, SearchError, SearchIndex
from simcse.search.milvus.client import connect
from simcse.search.tools.build import build_from_files
from simcse.search.tools.mine import mine_negatives

pytestmark = pytest.mark.skipif(
    not (find_spec("pymilvus") and find_spec("milvus_lite")), reason="pymilvus or milvus-lite is not installed"
)
TEXTS = ["a man plays the guitar", "a woman plays the piano", "rain falls on the city", "the sun is over the mountain"]


def test_what_fails_leaves_no_collection(milvus_file, encoder, tmp_path, monkeypatch):
    kind, good, bad = f"milvus:{milvus_file}#failed", tmp_path / "good.csv", tmp_path / "bad.jsonl"
    good.write_text("text,year\na,1\nb,2\n")
    bad.write_text('{"text": "a"}\n' * 3000 + "{}x\n")

    def broken(texts):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr("simcse.search.milvus.storage.create_manifest", broken)
        with pytest.raises(TypeError):
            SearchIndex.build(TEXTS, encoder.encode, kind=kind)
    calls = [
        (SearchError, lambda: SearchIndex.build([], encoder.encode, kind=kind)),
        (SearchError, lambda: SearchIndex.build(["a", "b"], encoder.encode, ids=["x", "x"], kind=kind)),
        (DataError, lambda: SearchIndex.build(bad, encoder.encode, kind=kind)),
        (ConfigError, lambda: SearchIndex.build(TEXTS, encoder.encode, kind=kind, sample_queries=["a"])),
        (RuntimeError, lambda: SearchIndex.build(TEXTS, broken, kind=kind)),
        (DataError, lambda: build_from_files([good, bad], kind, encoder.encode)),
        (ConfigError, lambda: build_from_files([good], tmp_path / "idx", encoder.encode, kind=kind)),
        (ConfigError, lambda: build_from_files([good], kind, encoder.encode, kind="flat")),
        (ConfigError, lambda: build_from_files([good], kind, encoder.encode, overwrite=True)),
        (ConfigError, lambda: list(mine_negatives([("a", "b")], encoder.encode, kind=kind))),
    ]
    for error, call in calls:
        with pytest.raises(error) as caught:
            call()
        assert "\n" not in str(caught.value)
        with pytest.raises(SearchError, match="holds no index called 'failed'"):
            SearchIndex.load(kind)
    assert not (tmp_path / "idx").exists()
    assert len(build_from_files([good], kind, encoder.encode)) == 2


def test_another_process_finds_the_index(tmp_path, encoder):
    """Built, changed and searched here, found there; the same hits as local storage gives."""
    kind = f"milvus:{tmp_path / 'idx.db'}"
    index = SearchIndex.build(TEXTS, encoder.encode, kind=kind)
    index.delete([1])
    index.close()
    code = (
        "import sys; sys.path.insert(0, 'tests/search');"
        "from conftest import WordSum; from simcse import SearchIndex;"
        "index = SearchIndex.load(sys.argv[1], WordSum().encode);"
        "print([hit.id for hit in index.search('a man', top_k=9)[0]], index.add(['new']), index.info['count']);"
        "index.close()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, kind], capture_output=True, text=True, timeout=300, env={**os.environ}
    )
    expected = SearchIndex.build(TEXTS, encoder.encode)
    expected.delete([1])
    ids = [hit.id for hit in expected.search("a man", top_k=9)[0]]
    assert done.stdout.strip() == f"{ids} [4] 4", done.stderr


def test_a_wrong_address_or_name_is_told(milvus_file, tmp_path, encoder, monkeypatch):
    kind = f"milvus:{milvus_file}#told"
    index = SearchIndex.build(TEXTS, encoder.encode, kind=kind)
    with pytest.raises(SearchError, match="'told' exists; load it"):
        SearchIndex.build(TEXTS, encoder.encode, kind=kind)
    with pytest.raises(SearchError, match="holds no index called 'none'"):
        SearchIndex.load(f"milvus:{milvus_file}#none")
    with pytest.raises(SearchError, match=r"no such file"):
        SearchIndex.load(f"milvus:{tmp_path / 'none.db'}")
    with pytest.raises(ConfigError, match=r"expected a file that ends in \.db"):
        SearchIndex.build(TEXTS, encoder.encode, kind="milvus:folder")
    with pytest.raises(SearchError, match="top_k: found 16385, Milvus gives at most 16384"):
        index.search("a man", top_k=16_385)
    with pytest.raises(SearchError, match="durable in Milvus"):
        index.save(tmp_path / "folder")
    monkeypatch.delenv("MILVUS_URI", raising=False)
    with pytest.raises(ConfigError, match="milvus without an address"):
        SearchIndex.build(TEXTS, encoder.encode, kind="milvus")


def test_what_has_no_room_is_taken_back(milvus_file, encoder, tmp_path):
    """Ids beyond 1,024 bytes, names of fields beyond 65,535 together, a folder that cannot be made."""
    index = SearchIndex.build(TEXTS, encoder.encode, kind=f"milvus:{milvus_file}#room")
    index.add(["x"], metadata=[{f"a field of some length {i}": 0 for i in range(1500)}])
    calls = [
        lambda: index.add(["x", "y"], metadata=[{f"another, just as long {i}": 0 for i in range(1500)}, {}]),
        lambda: index.add(["x", "y"], ids=["short", "\u65e5" * 400]),
        lambda: SearchIndex.build(TEXTS, encoder.encode, kind=f"milvus:{tmp_path / 'file' / 'x.db'}"),
    ]
    (tmp_path / "file").write_text("mine")
    for call in calls:
        with pytest.raises(SearchError) as caught:
            call()
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400
    assert sorted(row[0] for row in index.rows()) == [0, 1, 2, 3, 4]
    assert index.add(["next"]) == [5]
    assert [hit.id for hit in index.search("x", where={"a field of some length 7": 0})[0]] == [4]


def test_a_text_too_long_for_a_row_is_refused(milvus_file, encoder):
    index = SearchIndex.build(TEXTS, encoder.encode, kind=f"milvus:{milvus_file}#long")
    with pytest.raises(SearchError, match=r"has 70000 bytes, Milvus accepts 65535"):
        index.add(["x", "y" * 70_000])
    assert len(index) == 4


def test_what_milvus_does_not_take_back_is_told(milvus_file, encoder, monkeypatch, caplog):
    """The server goes away in the middle of an addition: the error is the addition's, and the log names the place."""
    from pymilvus.exceptions import MilvusException

    index = SearchIndex.build(TEXTS, encoder.encode, kind=f"milvus:{milvus_file}#gone")

    def refusing(message):
        def call(*arguments, **options):
            raise MilvusException(message=message)

        return call

    gone = refusing("server unavailable")

    assert index.storage.describe().startswith("4 texts, milvus, ")
    with monkeypatch.context() as patch:
        patch.setattr(type(index.storage._client), "insert", refusing("no room"))
        patch.setattr(type(index.storage._client), "delete", gone)
        patch.setattr(type(index.storage._client), "query", gone)
        assert index.storage.describe().startswith("out of reach, milvus, ")
        with pytest.raises(SearchError, match="Milvus refuses: no room"), index.storage.transaction():
            index.storage.append([("x", "a text", {})], encoder.encode(["a text"]))
    assert "rows of the addition that failed may be left: " in caplog.text
    assert "server unavailable" in caplog.text


def test_a_server_is_asked_with_its_token_and_left_running(milvus_file, encoder, monkeypatch):
    """No server runs here: what the client is made with, and that nothing but the client is closed, is what counts."""
    made = []

    class Client:
        def __init__(self, uri, **options):
            made.append((uri, options))

        def close(self):
            made.append("closed")

    index = SearchIndex.build(TEXTS, encoder.encode, kind=f"milvus:{milvus_file}#server")
    monkeypatch.setenv("MILVUS_TOKEN", "secret")
    monkeypatch.setattr("pymilvus.MilvusClient", Client)
    client = connect("http://localhost:19530")
    assert made == [("http://localhost:19530", {"token": "secret", "grpc_options": {}})]
    storage = copy(index.storage)
    storage._client, storage._uri = client, "http://localhost:19530"
    storage.close()
    assert made[1:] == ["closed"]
    assert len(index) == 4, "the file is still open"
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(
        ConfigError, match=r"kind milvus needs the package pymilvus: pip install 'simcse-kit\[milvus\]'"
    ):
        connect("http://localhost:19530")
