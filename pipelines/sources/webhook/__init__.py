"""The kind `webhook`: change events sent by HTTP."""
