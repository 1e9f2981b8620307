"""An index as files that other packages read: parquet, or a flat index of faiss."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from simcse.data.columns import VECTOR_COLUMNS
from simcse.data.vectors import ROWS_A_BLOCK, arrow_vectors
from simcse.errors import ConfigError
from simcse.files import replaced_file
from simcse.search.index import SearchIndex
from simcse.search.rows import Row
from simcse.search.storage import Snapshot
from simcse.vectors import Matrix

__all__ = ["FORMATS", "check_format", "export"]

Advance = Callable[[int], None]

FORMATS = (".parquet", ".faiss")
OWN = ("id", "text", VECTOR_COLUMNS[0])
EXACT = 2**53  # whole numbers up to here are exact among others


def check_format(path: Path) -> None:
    """Refuse a file that an index cannot be written to.

    Raises:
        ConfigError: the extension is none of `FORMATS`.
    """
    if path.suffix not in FORMATS:
        raise ConfigError(f"output: found {path}, expected a name that ends in {' or '.join(FORMATS)}")


def export(index: SearchIndex, path: str | Path, advance: Advance = lambda n: None) -> int:
    """Write ids, texts, metadata and unit vectors of an index as it is now; a file is there whole or not at all.

    `.parquet`: columns `id`, `text`, `vector`, and one for each field of the metadata, in constant memory. Ids are
    numbers, or texts where one is; so are fields, whose other values are JSON. `.faiss`: an `IndexFlatIP`, which faiss
    makes in memory; beside it `PATH.jsonl` holds the rest, a line for each vector. Both can be built from again, with
    the file itself, or the one beside, as text, and `vectors` as vectors.

    Args:
        index: what to write.
        path: the file.
        advance: called with the number of rows written since.

    Returns:
        How many rows.

    Raises:
        ConfigError: the name ends in none of `FORMATS`.
        OSError: it cannot be written.
    """
    path = Path(path)
    check_format(path)
    snapshot = index.storage.snapshot()
    write = _write_parquet if path.suffix == ".parquet" else _write_faiss
    return write(snapshot, path, index.dimension, advance)


def _write_parquet(snapshot: Snapshot, path: Path, dimension: int, advance: Advance) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds, count = _kinds(snapshot), 0
    vector = pa.field(OWN[2], pa.list_(pa.float32(), dimension))
    schema = pa.schema([*((name, pa.type_for_alias(kind)) for name, kind in kinds.items()), vector])
    with replaced_file(path) as new, pq.ParquetWriter(new, schema) as writer:
        for rows, vectors in _batches(snapshot):
            columns = [pa.array([_as(row[name], kind) for row in rows], kind) for name, kind in kinds.items()]
            writer.write_table(pa.table([*columns, arrow_vectors(vectors)], schema=schema))
            count += len(rows)
            advance(len(rows))
    return count


def _write_faiss(snapshot: Snapshot, path: Path, dimension: int, advance: Advance) -> int:
    import faiss

    fields, index = list(_kinds(snapshot)), faiss.IndexFlatIP(dimension)
    with replaced_file(path) as new, replaced_file(path.with_name(path.name + ".jsonl")) as beside:
        with beside.open("w", encoding="utf-8", newline="\n") as file:
            for rows, vectors in _batches(snapshot):
                index.add(np.ascontiguousarray(vectors))
                file.writelines(
                    f"{json.dumps({name: row[name] for name in fields}, ensure_ascii=False)}\n" for row in rows
                )
                advance(len(rows))
        faiss.write_index(index, str(new))
    return int(index.ntotal)


def _batches(snapshot: Snapshot) -> Iterator[tuple[list[dict[str, Any]], Matrix]]:
    """Rows as columns by name, and unit vectors (m, d); a field that a row lacks is None."""
    stream = snapshot.rows()
    while some := list(islice(stream, ROWS_A_BLOCK)):
        yield [_named(row) for _, row in some], snapshot.vectors(np.array([slot for slot, _ in some], np.int64))


def _named(row: Row) -> dict[str, Any]:
    """A row as columns; a field of metadata with the name of another column is called `metadata_NAME`."""
    key, text, metadata = row
    fields = {f"metadata_{name}" if name in OWN else name: value for name, value in metadata.items()}
    return defaultdict(lambda: None, {**fields, "id": key, "text": text})


def _kinds(snapshot: Snapshot) -> dict[str, str]:
    """The columns and what each holds, as arrow names types: id and text first."""
    found: dict[str, set[str]] = {"id": set(), "text": {"string"}}
    for _, row in snapshot.rows():
        for name, value in _named(row).items():
            found.setdefault(name, set()).update(() if value is None else [_kind(value)])
    return {name: _common(kinds) for name, kinds in found.items()}


def _kind(value: Any) -> str:
    match value:
        case bool():
            return "bool"
        case int():
            return "int" if abs(value) <= EXACT else "int64" if abs(value) < 2**63 else "string"
        case float():
            return "double"
    return "string"


def _common(kinds: set[str]) -> str:
    if kinds and kinds <= {"int", "int64"}:
        return "int64"
    if kinds and kinds <= {"int", "double"}:
        return "double"
    return "bool" if kinds == {"bool"} else "string"


def _as(value: Any, kind: str) -> Any:
    return json.dumps(value, ensure_ascii=False) if kind == "string" and not isinstance(value, str | None) else value
