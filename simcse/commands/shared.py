"""What several commands need. Names imported for types alone are here, not beside the commands, whose annotations are
resolved when the options are made.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from simcse.display.hits import hit_lines, hits_as_json
from simcse.display.progress import waiting
from simcse.errors import ConfigError

if TYPE_CHECKING:
    from simcse.encoder.model import SentenceEncoder
    from simcse.search.index import Hit, SearchIndex

__all__ = ["Format", "as_text", "encoder_of_index", "load_encoder", "open_index", "print_hits", "print_json", "sources"]

Format = Literal["auto", "text", "json"]


def load_encoder(model: str, device: str, dtype: str, **options: Any) -> SentenceEncoder:
    """The encoder that `--model`, `--device` and `--dtype` name; a folder's name is made absolute, as indexes keep
    it.
    """
    with waiting(f"loading {model}"):  # the first time on a machine, torch alone needs seconds
        from simcse import SentenceEncoder

        name = str(Path(model).resolve()) if Path(model).is_dir() else model
        return SentenceEncoder.from_pretrained(name, device=device, dtype=dtype, **options)


def sources(inputs: Sequence[str], option: str = "INPUT") -> list[str]:
    """The files to read; standard input if none is named and something is piped in.

    Raises:
        ConfigError: nothing is named and standard input is a terminal.
    """
    if inputs:
        return list(inputs)
    if sys.stdin.isatty():
        raise ConfigError(f"{option}: no file is named and nothing is piped in; name files, or - for standard input")
    return ["-"]


def as_text(choice: Format) -> bool:
    """Whether to print for a reader rather than for a program: by default, if stdout is a terminal."""
    return choice == "text" or (choice == "auto" and sys.stdout.isatty())


def print_json(values: Any) -> None:
    """One JSON object on a line of its own."""
    print(json.dumps(values, ensure_ascii=False))


def encoder_of_index(folder: str, model: str | None, device: str, dtype: str) -> SentenceEncoder:
    """The encoder that `--model` names, by default the one in the index's manifest; its vectors are cut as there."""
    from simcse.search.index import SearchIndex

    facts = SearchIndex.load(folder).info
    return load_encoder(model or facts["encoder"], device, dtype, truncate_dim=facts.get("truncate_dim"))


def open_index(folder: str, model: str | None, device: str, dtype: str) -> SearchIndex:
    """The index in a folder with its encoder."""
    from simcse.search.index import SearchIndex

    return SearchIndex.load(folder, encoder_of_index(folder, model, device, dtype))


def print_hits(query: str, hits: list[Hit], readable: bool, headed: bool) -> None:
    """The hits of a query: lines that fit the terminal, or one JSON object; `headed` puts the query above the lines."""
    if not readable:
        print_json(hits_as_json(query, hits))
        return
    print(*([query] if headed else []), *hit_lines(hits, shutil.get_terminal_size((80, 24)).columns), sep="\n")
