"""What /docs shows: the OpenAPI document with curl and Python lines for each operation, by Swagger UI, kept offline."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from fastapi import FastAPI

__all__ = ["HOST", "Reference", "swagger_folder"]

HOST = "http://localhost:8000"  # in the lines; the page puts its own address there
TOKEN = "SIMCSE_TOKEN"  # noqa: S105  the variable that lines read the token from


def swagger_folder() -> Path:
    """Where `swagger-ui-bundle.js` and `swagger-ui.css` lie: fastapi-offline has them in its wheel."""
    import fastapi_offline

    return Path(fastapi_offline.__file__).parent / "static"


class Reference(FastAPI):
    """An app whose OpenAPI document says how to call each operation.

    Args:
        needs_token: whether the lines send one.
        options: as of `fastapi.FastAPI`.
    """

    def __init__(self, needs_token: bool, **options: Any) -> None:
        self._needs_token = needs_token
        super().__init__(**options)

    def openapi(self) -> dict[str, Any]:
        """The document; written once."""
        if self.openapi_schema is None:
            document = super().openapi()
            for path, methods in document["paths"].items():
                for method, operation in methods.items():
                    operation.setdefault("tags", [_group(path)])
                    call = (path, method, _example(document, operation))
                    lines = f"```sh\n{self._curl(*call)}\n```\n\n```python\n{self._python(*call)}\n```"
                    about = operation.get("description")
                    operation["description"] = f"{about}\n\n{lines}" if about else lines
        return self.openapi_schema or {}

    def _curl(self, path: str, method: str, body: dict[str, Any] | None) -> str:
        words = ["curl", *([] if method in ("get", "post") else ["-X", method.upper()]), f"{HOST}{path}"]
        header = f' -H "Authorization: Bearer ${TOKEN}"' if self._needs_token else ""
        data = "" if body is None else f" \\\n  -d {shlex.quote(json.dumps(body, ensure_ascii=False))}"
        return f"{' '.join(words)}{header}{data}"

    def _python(self, path: str, method: str, body: dict[str, Any] | None) -> str:
        imports, given = ["import requests"], [f'"{HOST}{path}"']
        if body is not None:
            given.append(f"json={body!r}")
        if self._needs_token:
            imports.insert(0, "import os\n")
            given.append(f'headers={{"Authorization": "Bearer " + os.environ["{TOKEN}"]}}')
        shown = "text" if path == "/metrics" else "json()"
        return "\n".join([*imports, "", f"answer = requests.{method}({', '.join(given)})", f"print(answer.{shown})"])


def _group(path: str) -> str:
    groups = {"/v1/": "For OpenAI's clients", "/api/map": "The map of the page", "/api/": "Search and compare"}
    return next((name for prefix, name in groups.items() if path.startswith(prefix)), "Operation")


def _example(document: dict[str, Any], operation: dict[str, Any]) -> dict[str, Any] | None:
    """A body of the fields that have an example; None where there is no body."""
    if (request := operation.get("requestBody")) is None:
        return None
    name = request["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    fields = document["components"]["schemas"][name]["properties"]
    return {name: field["examples"][0] for name, field in fields.items() if any(field.get("examples", [None]))}
