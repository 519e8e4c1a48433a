"""The ranges that hyper-parameters come from; entries and `--set` are checked against them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Count = Annotated[int, Field(ge=1)]
"""1, 2, ..."""
Natural = Annotated[int, Field(ge=0)]
"""0, 1, 2, ..."""
Steps = Natural
"""How many steps of something, none included."""
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""A finite number above 0."""
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""A finite number, 0 or above."""
OpenShare = Annotated[float, Field(gt=0, lt=1)]
"""A share of something, neither none nor all of it."""
Share = Annotated[float, Field(ge=0, le=1)]
"""A share of something, up to all of it."""
