"""Bytes of a document to elements: detection of the format, the parse in a guarded process, the rows of `elements`.

Importing this package costs nothing: a parse worker starts for a single document, and the libraries that read formats
are imported there.
"""
