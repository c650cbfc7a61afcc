"""The kind `database`: rows of a table or view."""
