"""Prepared weights that compute token states; `select.py` chooses."""
