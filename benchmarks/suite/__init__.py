"""What is measured: a module a benchmark, with its `run` (which makes rows) and `table`; and what they share."""
