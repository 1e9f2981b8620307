"""What to type after a run: search with its encoder, evaluate it, load it in Python."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

from simcse.data.columns import chosen_columns
from simcse.data.tabular import format_of, named_rows
from simcse.training.config import DataConfig

__all__ = ["ways_on"]

MANY = 10_000  # texts: indexing more on a CPU takes minutes, and who tries a command wants an answer


def ways_on(best: Path, data: DataConfig, rows: Any) -> dict[str, str]:
    """A line to paste for each of search, evaluate and python.

    Args:
        best: folder of the encoder.
        data: the files of the run.
        rows: a `datasets.Dataset`, the training file as read.
    """
    texts = [text for text in rows[:100][rows.column_names[0]] if text[:1].isalnum()] or ["a sentence"]
    query = " ".join(min(texts, key=len).split()[:12])
    index = best.parent / "index"
    feed, source = index_input(data, len(rows))
    model = shlex.quote(str(best))
    build = f"simcse index build --model {model} --output {shlex.quote(str(index))} --overwrite --input {source}"
    search = f"simcse index search {shlex.quote(str(index))} {shlex.quote(query)}"
    # JSON's double quotes are Python's, too, and stand in the shell's single ones as they are
    load = f"SentenceEncoder.from_pretrained({json.dumps(str(best))})"
    code = f"from simcse import SentenceEncoder; print({load}.encode({json.dumps(query)}))"
    return {
        "search": f"{feed}{build} && {search}",
        "evaluate": evaluation(model, data),
        "python": f"python -c {shlex.quote(code)}",
    }


def index_input(data: DataConfig, count: int) -> tuple[str, str]:
    """What to pipe into `simcse index build`, if anything, and what stands behind its --input."""
    source = data.dev_corpus or data.all_sources()[0].train
    file = Path(source)
    if not file.is_file():  # a data set of the hub
        return "echo 'A text of yours.' | ", "-"
    name = shlex.quote(source)
    if format_of(file) == "txt":
        if count > MANY and source != data.dev_corpus:
            return f"{'zcat' if file.suffix == '.gz' else 'cat'} {name} | head -n {MANY} | ", "-"
        return "", name
    if source == data.dev_corpus:
        return "", name
    first = data.all_sources()[0]
    if first.rows != "roles":  # its columns may have no names
        return "echo 'A text of yours.' | ", "-"
    columns = first.columns or chosen_columns(source, named_rows(file)[0])
    return "", f"{name} --text_column {shlex.quote(columns[min(1, len(columns) - 1)])}"


def evaluation(model: str, data: DataConfig) -> str:
    """How to evaluate a model: on the dev file, else on STS, which has to be fetched where nobody named it."""
    command = f"simcse evaluate --model {model} --tasks"
    if data.dev is not None:
        return f"{command} {shlex.quote(data.dev)}"
    if data.test is None and "SIMCSE_DATA" in os.environ:
        return f"{command} sts"
    fetch = "" if data.test else "simcse data sts --output data && "
    return f"{fetch}{command} sts --data_dir {shlex.quote(data.test or 'data')}"
