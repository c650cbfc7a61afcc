"""The kind `kafka`: a topic of change events."""
