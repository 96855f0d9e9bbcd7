"""A cache looked at, verified and cleared from outside."""
