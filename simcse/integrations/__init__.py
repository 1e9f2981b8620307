"""Encoders and indexes as other libraries know them: a module a library, which is imported by name."""
