"""`prbench.hyperparameters` under its earlier name."""

from prbench.hyperparameters import Count, NonNegative, OpenShare, Positive, Share, Steps

Part = OpenShare

__all__ = ["Count", "NonNegative", "OpenShare", "Part", "Positive", "Share", "Steps"]
