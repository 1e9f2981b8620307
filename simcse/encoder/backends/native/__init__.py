"""Whole layers by a kernel of our own, compiled for this CPU."""
