"""One algorithm a file, and `plain_loops`, which the engine is timed against.

Base classes that several methods share are in `prbench.training`.
"""
