"""prbench: the benchmark suite for personalised reward models."""

__version__ = "0.1.0"
