"""What the cache screen shows, as values."""
