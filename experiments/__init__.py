"""Studies: a folder each, with its `run.py` and its results; the files beside the folders are what studies share."""
