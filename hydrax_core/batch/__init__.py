"""From memory to jax arrays, and what the consumer gets."""
