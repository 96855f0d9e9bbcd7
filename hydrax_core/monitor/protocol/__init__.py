"""Messages between a training and its inspectors."""
