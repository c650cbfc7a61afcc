"""The kind `records`: rows of a file."""
