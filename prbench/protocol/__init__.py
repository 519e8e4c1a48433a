"""The rules of the benchmark: who is seen, what is held out, what may choose, how it is measured and tested.

No method and no model is known here. Metrics and statistics need no torch.
"""

from __future__ import annotations

# Raised whenever a change of code changes scores, so that old results are not taken for new ones.
PROTOCOL_VERSION = 1
