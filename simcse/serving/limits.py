"""What one request, and all of them together, may ask of the service."""

from __future__ import annotations

from dataclasses import dataclass, fields

from simcse.errors import ConfigError

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """Bounds of the service; each has an option of the same name on the command line."""

    max_body: int = 1_048_576
    """Bytes of a request's body; more is refused with status 413."""
    max_text: int = 10_000
    """Characters of a text; more is refused with status 422."""
    max_texts: int = 128
    """Texts in a request; more is refused with status 422."""
    max_top_k: int = 100
    """Hits for a query that may be asked for; more is refused with status 422."""
    max_queue: int = 1024
    """Texts that may wait to be encoded; a request that would make it more is refused with status 429."""
    max_batch: int = 64
    """Texts encoded together; 1 switches batching off."""
    max_wait_ms: float = 2.0
    """Milliseconds that the first text of a batch waits for others."""
    timeout: float = 30.0
    """Seconds that a request may last: 408 if its body has not come by then, 503 if its answer has not."""

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            ConfigError: a value out of range.
        """
        for field in fields(self):
            value, least = getattr(self, field.name), 0 if field.name == "max_wait_ms" else 1
            if not least <= value < float("inf"):
                raise ConfigError(f"{field.name}: found {value}, expected at least {least}")
        if self.max_queue < self.max_texts:
            raise ConfigError(
                f"max_queue: found {self.max_queue}, expected at least max_texts ({self.max_texts}), "
                "or a request could never be served"
            )
