"""A probe that has no meaning for a fit is skipped by name; it is no failure."""

from __future__ import annotations


class NotApplicableError(Exception):
    """The probe cannot be made of this fit; the message says why, in one phrase."""
