"""Addresses of documents inside a source, and patterns that choose among them."""
