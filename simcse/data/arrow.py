"""Columns of text as a `datasets.Dataset`: in memory when small, else mapped from an Arrow file on disk."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from simcse.data.opening import reading
from simcse.files import replaced_file

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

__all__ = ["fingerprint", "to_dataset"]

log = logging.getLogger(__name__)

IN_MEMORY = 32 * 2**20  # bytes of text; more, unpacked, gets an Arrow copy on disk that is mapped, not loaded
ROWS_AT_ONCE = 65_536
COPY_VERSION = 1  # raise when the content of the Arrow copies changes


def to_dataset(
    path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], options: Sequence[object]
) -> datasets.Dataset:
    """Put `batches`, read from `path`, in a dataset; consume them only where no copy of an earlier run is there.

    Args:
        path: the source.
        schema: of the batches.
        batches: record batches, read lazily.
        options: whatever else than the source decides the content; JSON types.
    """
    import datasets
    import pyarrow as pa

    with reading(path):
        state = path.stat()
    key = json.dumps([COPY_VERSION, str(path.resolve()), state.st_mtime_ns, state.st_size, *options])
    name = f"{path.name.split('.')[0]}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.arrow"
    copy = Path(datasets.config.HF_DATASETS_CACHE) / "simcse" / name
    if not copy.exists():
        small: list[pa.RecordBatch] = []
        batches = iter(batches)
        while sum(batch.nbytes for batch in small) < IN_MEMORY:
            if (batch := next(batches, None)) is None:
                return datasets.Dataset(datasets.table.InMemoryTable(pa.Table.from_batches(small, schema=schema)))
            small.append(batch)
        log.info("%s: making an Arrow copy at %s", path, copy)
        with replaced_file(copy) as part, pa.OSFile(str(part), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            for batch in itertools.chain(small, batches):
                writer.write_batch(batch)
    return datasets.Dataset.from_file(str(copy))


def fingerprint(dataset: datasets.Dataset) -> str:
    """A SHA-256 of the rows of a dataset of texts and numbers: of their order and bytes, not of how they are stored."""
    import numpy as np
    import pyarrow.compute as pc

    whole = hashlib.sha256()
    for name in dataset.column_names:
        lengths, texts = hashlib.sha256(), hashlib.sha256()
        for batch in dataset.with_format("arrow").iter(ROWS_AT_ONCE):
            column = pc.cast(pc.cast(batch[name], "large_string"), "large_binary").combine_chunks()
            column = column.chunk(0) if hasattr(column, "chunks") else column
            ends = np.frombuffer(column.buffers()[1], np.int64)[column.offset : column.offset + len(column) + 1]
            lengths.update(np.diff(ends).tobytes())
            texts.update(memoryview(column.buffers()[2] or b"")[ends[0] : ends[-1]])
        whole.update(name.encode() + lengths.digest() + texts.digest())
    return whole.hexdigest()
