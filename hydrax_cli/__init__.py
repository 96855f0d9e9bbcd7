"""The command ``hydrax``."""
