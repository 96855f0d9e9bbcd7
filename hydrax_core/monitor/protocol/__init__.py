"""What crosses between a training and whoever watches it."""
