"""Bulk encoding by Ray Data: Parquet files in, Parquet files with vectors out, on one machine or a cluster.

Each worker has an encoder and encodes batches of rows; the batches of a worker that dies go to another. What is written
appears under its name when all of it is there.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from simcse.data.columns import VECTOR_COLUMNS
from simcse.data.parquet import opened_parquet
from simcse.data.vectors import arrow_vectors
from simcse.errors import ConfigError, DataError, did_you_mean
from simcse.files import replaced_folder

__all__ = ["EncodeRows", "encode_parquet"]

log = logging.getLogger(__name__)

VECTOR = VECTOR_COLUMNS[0]
ROWS_A_BATCH = 4096  # enough to sort by length, few enough to do again after a loss
BLOCKS_A_WORKER = 4  # at least, so that none waits long for the last


class EncodeRows:
    """A worker: table of rows -> the same with a column `vector`, a list of d float32 values each."""

    def __init__(
        self, model: str, column: str, options: dict[str, Any], encoding: dict[str, Any], threads: int | None
    ) -> None:
        import torch

        from simcse.encoder.model import SentenceEncoder

        if threads is not None:
            torch.set_num_threads(threads)
        self._encoder = SentenceEncoder.from_pretrained(model, **options)
        rest = dict(encoding)
        asked = {name: rest.pop(name, None) for name in ("prompt", "prompt_name", "role")}
        self._column, self._encoding = column, {**rest, "prompt": self._encoder.resolve_prompt(**asked)}

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Encode a batch."""
        texts = rows[self._column].to_pylist()
        if (missing := next((i for i, text in enumerate(texts) if not isinstance(text, str)), None)) is not None:
            raise DataError(f"column {self._column!r}: found {texts[missing]!r}, expected a text in every row")
        vectors = self._encoder.encode(texts, **self._encoding)  # (n, d)
        return rows.append_column(VECTOR, arrow_vectors(vectors))


def encode_parquet(
    inputs: Sequence[str | Path],
    output: str | Path,
    model: str,
    *,
    workers: int = 2,
    column: str | None = None,
    prompt: str | None = None,
    prompt_name: str | None = None,
    role: str | None = None,
    normalize: bool = True,
    **options: Any,
) -> int:
    """Encode a column of Parquet files; the rows keep their other columns, and their order.

    Where a worker died, blocks that were done again may stand behind later ones: keep a column that numbers the rows.

    Joins the cluster that `RAY_ADDRESS` names, else starts Ray on this machine for the time of the call. Every node
    must reach `model`, the inputs and the output under the same names. A worker uses an accelerator, if there is one.

    Args:
        inputs: Parquet files.
        output: new folder of Parquet files, written beside and renamed when all rows are there.
        model: as for `SentenceEncoder.from_pretrained`.
        workers: encoders at work at the same time.
        column: that holds the text; default `text`, or the only one.
        prompt: put before each text, as in `SentenceEncoder.encode`.
        prompt_name: the same, by its name in the checkpoint.
        role: query or document, for the checkpoint's prompt of it.
        normalize: to unit length.
        options: pooling, max_length, truncate_dim, device, dtype of `SentenceEncoder.from_pretrained`.

    Returns:
        How many rows.

    Raises:
        ConfigError: Ray is not installed, or an option is wrong.
        DataError: a file that is missing or no Parquet, a column that is not there, a row without text, or a cluster
            that could not finish.
    """
    files, output = [Path(name) for name in inputs], Path(output)
    if workers < 1:
        raise ConfigError(f"workers: found {workers}, expected at least 1")
    if output.exists() or not output.name or str(output) == "-":
        raise ConfigError(f"output: found {output}, expected the name of a new folder for parquet files")
    column, rows = _checked(files, column)
    if not Path(model).exists() and model.startswith((".", "/")):
        raise ConfigError(f"model: found {model!r}, no such folder")
    name = str(Path(model).resolve()) if Path(model).is_dir() else model
    encoding = {"prompt": prompt, "prompt_name": prompt_name, "role": role, "normalize": normalize}
    with _ray(workers) as ray, replaced_folder(output) as new:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        gpus = int(ray.cluster_resources().get("GPU", 0)) if options.get("device", "auto") != "cpu" else 0
        # one processor stays free for reading and writing
        cpus = None if gpus else max(1, (int(ray.cluster_resources()["CPU"]) - 1) // workers)
        blocks = max(BLOCKS_A_WORKER * workers, -(-rows // (16 * ROWS_A_BATCH)))
        try:
            data = ray.data.read_parquet([str(file.resolve()) for file in files], override_num_blocks=blocks)
            data.map_batches(
                EncodeRows,
                fn_constructor_args=(name, column, options, encoding, cpus),
                batch_format="pyarrow", batch_size=ROWS_A_BATCH, zero_copy_batch=True,
                concurrency=workers, num_gpus=1 if gpus else None, num_cpus=cpus,
            ).write_parquet(str(new.resolve()))  # fmt: skip
        except ray.exceptions.RayError as error:
            raise DataError(f"{output}: was not written: {_reason(error)}") from error
        written = sum(pq.read_metadata(file).num_rows for file in new.glob("*.parquet"))
        if written != rows:
            raise DataError(f"{output}: was not written: {written} rows came out of {rows}; try again")
    return rows


def _reason(error: Exception) -> str:
    """What failed first, in a line: Ray adds errors of its own to that of a worker."""
    first = str(error).split("\nThe above exception was the direct cause")[0].strip()
    return first.splitlines()[-1].strip().removeprefix("simcse.errors.DataError: ") if first else type(error).__name__


def _checked(files: Sequence[Path], column: str | None) -> tuple[str, int]:
    """The column of texts, and the number of rows of all files."""
    rows = 0
    for file in files:
        parquet = opened_parquet(file)  # engine ray reads no other
        names = parquet.schema_arrow.names
        column = column or ("text" if "text" in names else names[0] if len(names) == 1 else None)
        if column is None or column not in names:
            hint = did_you_mean(column, names) if column else ""
            raise DataError(
                f"{file}: found columns {', '.join(names)}, expected {column or 'text'}{hint}; name it as the option "
                "column"
            )
        if VECTOR in names:
            raise DataError(f"{file}: has a column {VECTOR!r} already; rename it")
        rows += parquet.metadata.num_rows
    if not rows:
        raise DataError(f"{', '.join(map(str, files))}: found no row, expected at least one")
    return column or "text", rows


@contextmanager
def _ray(workers: int) -> Iterator[Any]:
    """Ray, connected; what was started here is stopped here."""
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise ConfigError(f"engine ray needs the package {error.name}: pip install 'simcse-kit[ray]'") from error
    with suppress(ImportError):  # Ray imports it in several threads at once, which can end in half a module
        importlib.import_module("fsspec.implementations.http")
    started = not ray.is_initialized()
    if started and os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    elif started:
        processors = max(os.cpu_count() or 1, workers + 1)
        ray.init(num_cpus=processors, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield ray
    finally:
        if started:
            ray.shutdown()
