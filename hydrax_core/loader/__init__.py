"""The facade: arguments, iteration, state."""
