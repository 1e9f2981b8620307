"""An index in one folder: SQLite and a memory map."""
