"""The parts of the cache screen."""
