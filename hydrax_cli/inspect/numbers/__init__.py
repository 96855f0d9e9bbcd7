"""What the screens compute from arrays and statistics."""
