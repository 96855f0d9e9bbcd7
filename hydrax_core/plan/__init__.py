"""Which batch comes n-th, and what it holds: pure functions of n."""
