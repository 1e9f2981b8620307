"""A hub on loopback: as much of its protocol as uploading a model and downloading files of a data set speak."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_right"


class Hub(ThreadingHTTPServer):
    """`files`: `datasets/OWNER/NAME/FILE` or `OWNER/NAME/FILE` -> bytes, what can be fetched and what was pushed."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.private: dict[str, bool] = {}
        self.stored: dict[str, bytes] = {}  # large files by their sha256

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def lead(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Lead huggingface_hub here, as HF_ENDPOINT does, which it reads once, when it is imported."""
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", self.address)
        files = f"{self.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", files)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, content: Any, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        if asked := re.fullmatch(r"/api/models/(.+)/revision/main", self.path):
            self.answer({"id": asked[1], "sha": COMMIT, "siblings": []})
            return
        if asked := re.match(rf"/api/models/(.+)/tree/{COMMIT}", self.path):
            files = {name.removeprefix(f"{asked[1]}/"): len(content) for name, content in self.server.files.items()}
            self.answer([{"type": "file", "path": name, "size": size, "oid": "0"} for name, size in files.items()])
            return
        found = re.fullmatch(r"/(?P<repo>.+)/resolve/\w+/(?P<file>[^?]+)", self.path)
        content = self.server.files.get(f"{found['repo']}/{found['file']}") if found else None
        if content is None:
            self.answer({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")
            return
        digest = hashlib.sha256(content).hexdigest()
        self.answer(content, ETag=f'"{digest}"', X_Repo_Commit=COMMIT)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        self.server.stored[self.path.rsplit("/", 1)[1]] = self.body()
        self.answer(b"")

    def do_POST(self) -> None:
        body = self.body()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}" and "/objects/" not in self.path:
            self.answer({"error": "Invalid username or password."}, 401)
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization')}/{asked['name']}"
            self.server.private[name] = asked.get("private", asked.get("visibility") == "private")
            self.answer({"url": f"{self.server.address}/{name}"})
        elif self.path == "/api/validate-yaml":  # of a model card, without its text
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            modes = [
                {"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                 "shouldIgnore": False, "oid": None}
                for file in json.loads(body)["files"]
            ]  # fmt: skip
            self.answer({"files": modes})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {
                    "oid": one["oid"],
                    "size": one["size"],
                    "actions": {"upload": {"href": f"{self.server.address}/lfs/{one['oid']}"}},
                }
                for one in json.loads(body)["objects"]
            ]
            self.answer({"transfer": "basic", "objects": objects})
        elif found := re.fullmatch(r"/api/models/(.+)/commit/main", self.path.split("?")[0]):
            for line in map(json.loads, body.splitlines()):
                self.commit(found[1], line["key"], line["value"])
            url = f"{self.server.address}/{found[1]}/commit/{COMMIT}"
            self.answer({"success": True, "commitUrl": url, "commitOid": COMMIT})
        else:
            self.answer({"error": f"unexpected {self.path}"}, 500)

    def commit(self, repo: str, kind: str, value: dict[str, Any]) -> None:
        if kind == "file":
            self.server.files[f"{repo}/{value['path']}"] = base64.b64decode(value["content"])
        elif kind == "lfsFile":
            content = self.server.stored[value["oid"]]
            assert hashlib.sha256(content).hexdigest() == value["oid"]
            self.server.files[f"{repo}/{value['path']}"] = content

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))


@contextmanager
def serving_hub() -> Iterator[Hub]:
    """A hub that listens."""
    with Hub() as hub:
        thread = Thread(target=hub.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
