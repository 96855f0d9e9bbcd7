"""A cache in use: opened, read, written, locked."""
