"""hydrax cache: info, verify, clear."""
