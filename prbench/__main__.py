"""The command `prbench`, and `python -m prbench`: an interruption leaves no traceback, whenever it comes."""

import signal
import sys


def main() -> int:
    """Run the command line and return its exit code; 130 where it is interrupted while it is still imported."""
    try:
        from prbench import cli

        return cli.main()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    finally:
        # What is left is the interpreter's own end: a signal then ends it without a word.
        signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(main())
