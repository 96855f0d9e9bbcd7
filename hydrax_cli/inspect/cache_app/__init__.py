"""``hydrax inspect --cache``: a cache on disk, seen and put in order."""
