"""`python -m prbench`, the same as the command `prbench`."""

import sys

from prbench.cli import main

sys.exit(main())
