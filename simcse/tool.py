"""`from simcse.tool import SimCSE`, as scripts for the original package have it."""

from simcse.compat import SimCSE

__all__ = ["SimCSE"]
