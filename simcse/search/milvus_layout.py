"""How an index lies in Milvus: two collections, and rows as they are sent and received."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from simcse.errors import SearchError
from simcse.search.documents import Document
from simcse.search.identity import Matrix
from simcse.search.index import Hit
from simcse.search.store import Id, Row

__all__ = ["about_name", "create_about", "create_rows", "hit_of", "id_of", "key_of", "numbered", "packed"]

LONGEST = 65_535  # bytes of a text, and of its metadata as JSON


def numbered(chunk: list[Document], given: set[Id], following: int) -> tuple[list[Row], int]:
    """Rows with an id each, and the next free number."""
    rows: list[Row] = []
    for key, text, metadata in chunk:
        if key is None:
            key = following
        elif key in given:
            raise SearchError(f"id {key!r} is given twice; each text needs its own")
        given.add(key)
        following = max(following, key + 1) if isinstance(key, int) else following
        rows.append((key, text, metadata))
    return rows, following


def packed(row: Row, vector: Matrix) -> dict[str, Any]:
    """A row with its vector (d,) as it is sent."""
    key, text, metadata = row
    try:
        written = json.dumps(metadata, ensure_ascii=False, allow_nan=False)
        sizes = {"text": len(text.encode()), "metadata": len(written.encode())}
    except (TypeError, ValueError) as error:
        raise SearchError(f"row with id {key!r}: text or metadata cannot be stored as UTF-8 JSON ({error})") from error
    for what, size in sizes.items():
        if size > LONGEST:
            raise SearchError(f"row with id {key!r}: {what} has {size} bytes, Milvus takes {LONGEST}; split the text")
    # null is no value to Milvus: a field that is None is left out of what filters look at
    fields = {name: value for name, value in metadata.items() if value is not None}
    return {"key": key_of(key), "text": text, "metadata": written, "fields": fields, "vector": vector.tolist()}


def key_of(key: Id) -> str:
    """`7` and `"7"` are two ids."""
    return json.dumps(key, ensure_ascii=False)


def id_of(key: str) -> Id:
    """The inverse of `key_of`."""
    found: Id = json.loads(key)
    return found


def hit_of(found: Any) -> Hit:
    """A result as it is received."""
    entity = found["entity"]
    score = float(np.clip(found["distance"], -1, 1))
    return Hit(entity["text"], score, id_of(found["key"]), json.loads(entity["metadata"]))


def create_rows(client: Any, collection: str, dimension: int, exact: bool) -> None:
    """The collection of texts, ids, metadata and vectors."""
    from pymilvus import DataType

    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("key", DataType.VARCHAR, is_primary=True, max_length=1024)
    schema.add_field("text", DataType.VARCHAR, max_length=LONGEST)
    schema.add_field("metadata", DataType.VARCHAR, max_length=LONGEST)
    schema.add_field("fields", DataType.JSON)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
    index = client.prepare_index_params()
    # of unit vectors the inner product is the cosine, and 0 for a zero vector
    index.add_index("vector", index_type="FLAT" if exact else "AUTOINDEX", metric_type="IP")
    client.create_collection(collection, schema=schema, index_params=index, consistency_level="Strong")


def create_about(client: Any, collection: str) -> None:
    """The collection of one row: what belongs to the index as a whole."""
    from pymilvus import DataType

    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("number", DataType.INT64, is_primary=True)
    schema.add_field("values", DataType.VARCHAR, max_length=LONGEST)
    schema.add_field("nothing", DataType.FLOAT_VECTOR, dim=2)  # Milvus wants a vector in each collection
    index = client.prepare_index_params()
    index.add_index("nothing", index_type="FLAT", metric_type="IP")
    client.create_collection(about_name(collection), schema=schema, index_params=index, consistency_level="Strong")


def about_name(collection: str) -> str:
    """Of the second collection."""
    return f"{collection}_about"
