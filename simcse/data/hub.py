"""Datasets that live on the hub."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from simcse.data.columns import chosen_columns, roles_of
from simcse.data.tabular import FORMATS
from simcse.errors import DataError, did_you_mean

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

__all__ = ["hub_id", "read_hub"]


def hub_id(source: str) -> tuple[str, str | None, str | None] | None:
    """(owner/name, config, revision), or None where the source cannot be a hub id."""
    found = re.fullmatch(
        r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(:(?P<config>[\w.-]+))?(@(?P<revision>[\w./-]+))?", source
    )
    if not found or any(found["name"].endswith((ending, f"{ending}.gz")) for ending in FORMATS):
        return None
    return found["name"], found["config"], found["revision"]


def read_hub(
    name: str, config: str | None, revision: str | None, *, columns: Sequence[str] | None, blank_lines: str
) -> datasets.Dataset:
    """The `train` split of a hub dataset, its columns named by their roles.

    Raises:
        DataError: no such dataset or column, a column that holds no strings, blank rows where they are an error.
    """
    import datasets
    import pyarrow.compute as pc

    try:
        whole = datasets.load_dataset(name, config, revision=revision, split="train")
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{name}: neither a file here nor a dataset that the hub gives ({reason})") from error
    known = list(whole.column_names)
    if missing := next((column for column in columns or () if column not in known), None):
        raise DataError(f"{name}: no column {missing!r} among {', '.join(known)}{did_you_mean(missing, known)}")
    chosen = list(columns) if columns else chosen_columns(name, known)
    for column in chosen:
        if whole.features[column] != datasets.Value("string"):
            raise DataError(
                f"{name}: column {column!r} holds {whole.features[column]}, expected strings; pick others with columns"
            )
    part = whole.select_columns(chosen).rename_columns(dict(zip(chosen, roles_of(len(chosen)), strict=True)))

    def filled(batch: pa.Table) -> pa.ChunkedArray:
        """Which rows have text in every column."""
        kept = [pc.fill_null(pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(c)), 0), False) for c in batch.columns]
        return list(itertools.accumulate(kept, pc.and_))[-1]

    kept = part.with_format("arrow").filter(filled, batched=True).with_format(None)
    if len(kept) < len(part) and blank_lines == "error":
        raise DataError(
            f"{name}: {len(part) - len(kept)} of {len(part)} rows are blank; leave them out with blank_lines=skip"
        )
    return kept
