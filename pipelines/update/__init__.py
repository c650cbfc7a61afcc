"""One update, step by step: each module is a step, each function reads the tables, does its part, and reports."""
