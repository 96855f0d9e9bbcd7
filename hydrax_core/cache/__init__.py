"""The cache on disk; see ``docs/cache.md`` for format, promises and modes.

It knows no loader, no engine and no jax: it is given arrays and a place, and gives them back or says that it has
none.
"""
