"""What can go wrong, as one tree.

    SimCSEError            catch this to catch them all
    ├── ConfigError        an option or a config key is wrong: names it and the remedy; exit status 2
    ├── DataError          a file or a row is wrong: names file and line; exit status 1
    ├── ModelError         a checkpoint is wrong or does not fit: names the folder or file; exit status 1
    ├── SearchError        an index is wrong or does not fit: names the index; exit status 1
    └── EncoderError       what an encoder gives is no vectors: a ModelError, and in search a SearchError, too

Each message is one line that says what was found, what was expected and what to do; the command line prints it so.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable

LONGEST, WIDTH = 2000, 40  # characters of a message, and of a value quoted in it
CLOSE_LENGTH, CLOSE_AMONG = 100, 1000  # the characters, and the names, that a near one is looked for in

__all__ = [
    "ConfigError",
    "DataError",
    "EncoderError",
    "ModelError",
    "SearchError",
    "SimCSEError",
    "did_you_mean",
    "shown",
]


class SimCSEError(Exception):
    """Base of every error that this package raises on purpose."""

    exit_code = 1

    def __str__(self) -> str:
        """One line of bounded length, whatever names and values of files stand in it."""
        text = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", super().__str__())
        return text if len(text) <= LONGEST else f"{text[: LONGEST - 505]} ... {text[-500:]}"


class ConfigError(SimCSEError):
    """A wrong option, config key or argument value."""

    exit_code = 2


class DataError(SimCSEError):
    """A wrong file, column, row or label."""


class ModelError(SimCSEError):
    """A checkpoint that is missing, incomplete, or does not fit what is asked of it."""


class SearchError(SimCSEError):
    """An index that is missing, damaged, or does not fit the vectors or the encoder."""


class EncoderError(ModelError, SearchError):
    """An encoder that gives no vectors (n, d), or vectors that have no direction."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the closest known name, or an empty string if none is close."""
    close = difflib.get_close_matches(name[:CLOSE_LENGTH], itertools.islice(known, CLOSE_AMONG), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def shown(value: object) -> str:
    """`value` quoted for a message, cut to WIDTH characters."""
    try:
        quoted = repr(value[: WIDTH + 1] if isinstance(value, str) else value)
    except RecursionError:
        quoted = f"<{type(value).__name__} in many levels>"
    return quoted if len(quoted) <= WIDTH else f"{quoted[: WIDTH - 3]}...{quoted[0]}"
