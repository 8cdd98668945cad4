"""The console on which commands print tables."""

import os
import sys

from rich.console import Console

# Width without a terminal or $COLUMNS: tables in a pipe or a file need not wrap.
WIDE = 200


def console() -> Console:
    """Standard output, as wide as the terminal or ``$COLUMNS``, or ``WIDE`` without either."""
    # Created per call: tests and ranks replace standard output.
    has_width = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if has_width else WIDE)
