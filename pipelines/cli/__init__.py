"""The command `lockstep`, one module a group of commands."""
