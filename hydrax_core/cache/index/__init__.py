"""Which entries a cache has: the SQLite database beside the array files."""
