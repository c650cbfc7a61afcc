"""One module a format, each with `parse(content, media_type, config) -> Parsed`; see `pipelines.parsing.routes`.

A parser raises a `ParseFailure` where it knows the reason. Any other exception means a damaged document.
"""
