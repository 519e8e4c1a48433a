"""Tables, figures and pages from finished cells. Nothing here fits, adapts or needs torch.

A report of one's own is a function marked with `@report`, a piece of one with `@piece`.
"""

from prbench.registry.marks import piece, report

__all__ = ["piece", "report"]
