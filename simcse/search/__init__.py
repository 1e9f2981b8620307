"""Vectors in, answers out. The only room that knows faiss."""
