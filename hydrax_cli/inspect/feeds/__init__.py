"""Where the screens get batches from."""
