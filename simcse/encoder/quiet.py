"""transformers without its bars and paragraphs: what it would say is checked and raised here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["first_line", "quiet_transformers"]


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No bars and load reports."""
    from transformers.utils import logging  # slow to import

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def first_line(error: BaseException) -> str:
    """The first line of an error's message: libraries write paragraphs."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
