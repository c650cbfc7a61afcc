"""Applying what was found to the manifest: staged, parsed where it is new, merged in one commit."""
