"""hydrax run: exercises a loader."""
