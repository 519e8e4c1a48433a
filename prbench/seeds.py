"""`prbench.base.seeds` under the name that methods of one's own import."""

from prbench.base.seeds import Rng

__all__ = ["Rng"]
