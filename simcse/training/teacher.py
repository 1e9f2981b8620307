"""What a teacher makes of the training texts: computed once, kept on disk, shared by all runs that need the same."""

from __future__ import annotations

import fcntl
import hashlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from simcse.data.arrow import fingerprint
from simcse.data.collate import SCORE, TextVectors
from simcse.data.vectors import mapped_npy
from simcse.encoder.model import SentenceEncoder
from simcse.errors import DataError
from simcse.files import make_folder
from simcse.training.config import TeacherConfig

__all__ = ["FITTED", "fitted_map", "kept_vectors", "teacher_facts", "teacher_vectors"]

FITTED = 8192  # texts that the first linear map is fitted to


def teacher_vectors(config: TeacherConfig, rows: Sequence[Any]) -> list[list[TextVectors]]:
    """For each source the vectors of each of its columns; what is not in the cache is computed.

    A file of the cache is named by teacher and texts. Computing one goes on where it was interrupted.

    Args:
        config: names the teachers and the cache.
        rows: the sources, a `datasets.Dataset` each.

    Raises:
        ModelError: no such teacher, or a damaged one.
        DataError: the cache has a damaged file, or one of another size.
    """
    columns = [[name for name in source.column_names if name != SCORE] for source in rows]
    found: list[list[list[np.ndarray]]] = [[[] for _ in names] for names in columns]
    for teacher in config.name:
        encoder = SentenceEncoder.from_pretrained(teacher)
        for source, names, parts in zip(rows, columns, found, strict=True):
            for name, part in zip(names, parts, strict=True):
                part.append(column_vectors(encoder, source, name, Path(config.cache)))
    return [[TextVectors(parts) for parts in source] for source in found]


def teacher_facts(columns: Sequence[Sequence[TextVectors]]) -> dict[str, dict[str, str]]:
    """What tells on resuming whether a teacher is the same: a digest of the vectors of its first rows.

    Args:
        columns: of `teacher_vectors`; empty for none.
    """
    digest = hashlib.sha256()
    for vectors in (one for source in columns for one in source):
        digest.update(vectors[0].tobytes())
    return {"teacher": {"fingerprint": digest.hexdigest()}} if columns else {}


def column_vectors(encoder: SentenceEncoder, source: Any, name: str, cache: Path) -> np.ndarray:
    """(N, D) the unit vectors of a column, mapped from a file."""
    texts = fingerprint(source.select_columns([name]))
    return kept_vectors(encoder, column_texts(source, name), len(source), texts, cache, name)


def kept_vectors(
    encoder: SentenceEncoder, texts: Iterable[str], rows: int, digest: str, cache: Path, said: str
) -> np.ndarray:
    """(rows, D) the unit vectors of texts, mapped from a file of a cache; what of it is not there yet is computed.

    Args:
        encoder: gives the vectors.
        texts: as many as `rows`.
        rows: their number.
        digest: tells these texts from others.
        cache: the folder.
        said: what the texts are, for the line that says where their vectors are kept.

    Raises:
        DataError: the file is damaged, or of another shape.
    """
    key = hashlib.sha256(f"{encoder.fingerprint} {encoder.resolve_prompt()!r} {digest}".encode()).hexdigest()[:16]
    file = cache / f"{key}.npy"
    make_folder(cache)
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run that computes the same is waited for
        if not file.is_file():
            print(f"{encoder.name}: vectors of {rows:,} texts ({said}), kept in {file}", file=sys.stderr)
            encoder.encode_to(file, texts, total=rows, show_progress=sys.stderr.isatty())
    return cached_vectors(file, rows, encoder.dimension)


def cached_vectors(file: Path, rows: int, dimension: int) -> np.ndarray:
    """(rows, dimension) from a file of the cache.

    Raises:
        DataError: it is damaged, or has another shape.
    """
    try:
        vectors = mapped_npy(file)
    except DataError as error:
        raise DataError(f"{file}: damaged; delete it, and run again") from error
    if vectors.shape != (rows, dimension):
        raise DataError(
            f"{file}: holds vectors of shape {vectors.shape}, expected {(rows, dimension)}; delete it, and run again"
        )
    return vectors


def column_texts(source: Any, name: str) -> Iterator[str]:
    """The texts of a column, a few at a time."""
    for batch in source.iter(10_000):
        yield from batch[name]


def fitted_map(encoder: SentenceEncoder, texts: Sequence[str], teacher: np.ndarray) -> nn.Linear:
    """The linear map from the encoder's unit vectors that is nearest to a teacher's by least squares.

    Args:
        encoder: the student, D dimensions.
        texts: at least one.
        teacher: (n, D_t) the vectors of these.
    """
    student = torch.from_numpy(encoder.encode(list(texts)))  # (n, D)
    target = torch.from_numpy(np.asarray(teacher, dtype=np.float32))  # (n, D_t)
    width = student.shape[1]
    # a ridge far below the variance of a dimension, 1 / D: fewer texts than dimensions leave the rest at 0
    gram = student.T @ student + 1e-3 * len(student) / width * torch.eye(width)
    weight = torch.linalg.solve(gram, student.T @ target).T  # (D_t, D)
    found = nn.Linear(width, target.shape[1], bias=False)
    found.load_state_dict({"weight": weight})
    return found
