"""Looking after an installation: its health, its freshness, and what it need not keep."""
