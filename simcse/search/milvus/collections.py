"""How an index lies in Milvus: two collections, and rows as they are sent and received."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import unquote

import numpy as np

from simcse.errors import SearchError, shown
from simcse.search.hit import Hit
from simcse.search.milvus.filters import fields_of
from simcse.search.rows import Id, Row, packed_metadata
from simcse.vectors import Matrix

__all__ = ["create_manifest", "create_rows", "drop", "hit_of", "id_of", "key_of", "manifest_name", "packed", "row_of"]

LONGEST = 65_535  # bytes of a text, and of its metadata as JSON
LONGEST_KEY = 1024  # bytes of an id, see `key_of`


def packed(row: Row, vector: Matrix) -> dict[str, Any]:
    """A row with its vector (d,) as it is sent."""
    key, text, metadata = row
    written = packed_metadata(metadata)
    sizes = {"id": (key_of(key), LONGEST_KEY), "text": (text, LONGEST), "metadata": (written, LONGEST)}
    for what, (value, most) in sizes.items():
        if (size := len(value.encode())) > most:
            raise SearchError(
                f"row with id {shown(key)}: {what} has {size} bytes, Milvus accepts {most}; shorten or split it"
            )
    return {
        "key": key_of(key), "text": text, "metadata": written, "fields": fields_of(metadata), "vector": vector.tolist(),
    }  # fmt: skip


def key_of(key: Id) -> str:
    """`7` and `"7"` are two ids: `7` and `t 7`. pymilvus puts keys between quotes as they are, so that what ends or
    escapes a quotation is written as `%27`.
    """
    if isinstance(key, int):
        return str(key)
    return "t " + re.sub(r"[\x00-\x1f\x7f'\"\\%]", lambda found: f"%{ord(found[0]):02x}", key)


def id_of(key: str) -> Id:
    """The inverse of `key_of`."""
    return unquote(key[2:]) if key.startswith("t ") else int(key)


def hit_of(found: Any) -> Hit:
    """A result as it is received."""
    entity = found["entity"]
    score = float(np.clip(found["distance"], -1, 1))
    return Hit(entity["text"], score, id_of(found["key"]), json.loads(entity["metadata"]))


def row_of(found: Any) -> Row:
    """A row as it is received."""
    return id_of(found["key"]), found["text"], json.loads(found["metadata"])


def create_rows(client: Any, collection: str, dimension: int, exact: bool) -> None:
    """The collection of texts, ids, metadata and vectors."""
    from pymilvus import DataType

    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("key", DataType.VARCHAR, is_primary=True, max_length=LONGEST_KEY)
    schema.add_field("text", DataType.VARCHAR, max_length=LONGEST)
    schema.add_field("metadata", DataType.VARCHAR, max_length=LONGEST)
    schema.add_field("fields", DataType.JSON)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
    index = client.prepare_index_params()
    # of unit vectors the inner product is the cosine, and 0 for a zero vector
    index.add_index("vector", index_type="FLAT" if exact else "AUTOINDEX", metric_type="IP")
    client.create_collection(collection, schema=schema, index_params=index, consistency_level="Strong")


def create_manifest(client: Any, collection: str) -> None:
    """The collection of one row: what belongs to the index as a whole."""
    from pymilvus import DataType

    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("number", DataType.INT64, is_primary=True)
    schema.add_field("values", DataType.VARCHAR, max_length=LONGEST)
    schema.add_field("unused", DataType.FLOAT_VECTOR, dim=2)  # Milvus wants a vector in each collection
    index = client.prepare_index_params()
    index.add_index("unused", index_type="FLAT", metric_type="IP")
    client.create_collection(manifest_name(collection), schema=schema, index_params=index, consistency_level="Strong")


def drop(client: Any, collection: str) -> None:
    """Remove both collections, as far as they are there."""
    for name in (collection, manifest_name(collection)):
        if client.has_collection(name):
            client.drop_collection(name)


def manifest_name(collection: str) -> str:
    """Of the second collection."""
    return f"{collection}_manifest"
