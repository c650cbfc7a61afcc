"""Telling what was: the versions of a document, and where a row of the index comes from."""
