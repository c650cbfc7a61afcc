"""Making what the manifest lacks: chunks, and vectors."""
