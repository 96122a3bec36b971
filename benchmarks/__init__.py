"""Benchmarks: each a command that measures one thing and writes what it saw beside the machine's name."""
