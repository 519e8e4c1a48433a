"""`prbench.base.errors` under the name that methods and loaders of one's own import."""

from prbench.base.errors import InputError, nearest

__all__ = ["InputError", "nearest"]
