"""Encoding more texts than memory holds."""
