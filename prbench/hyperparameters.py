"""The ranges that hyper-parameters come from; entries and `--set` are checked against them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

MOST = 10_000_000
"""Of anything that is counted: with more, no fit ends."""

Count = Annotated[int, Field(ge=1, le=MOST)]
"""1, 2, ... up to `MOST`."""
Natural = Annotated[int, Field(ge=0)]
"""0, 1, 2, ..."""
Steps = Annotated[int, Field(ge=0, le=MOST)]
"""How many steps of something, none included, up to `MOST`."""
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""A finite number above 0."""
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""A finite number, 0 or above."""
OpenShare = Annotated[float, Field(gt=0, lt=1)]
"""A share of something, neither none nor all of it."""
Share = Annotated[float, Field(ge=0, le=1)]
"""A share of something, up to all of it."""
