"""Sentence in, vector out."""
