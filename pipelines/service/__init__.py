"""Servers that Lockstep runs itself."""
