"""Real servers for integration tests, each started in a folder of its own on a free port of 127.0.0.1."""
