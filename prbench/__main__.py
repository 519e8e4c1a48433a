"""`python -m prbench`, the same as the command `prbench`."""

import sys

from prbench.cli import main

if __name__ == "__main__":
    sys.exit(main())
