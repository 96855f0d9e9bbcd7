"""What is shown of a run: a file a form."""
