"""The screens of ``hydrax inspect``; ``feed.py`` alone knows the loader, the rest knows frozen values."""
