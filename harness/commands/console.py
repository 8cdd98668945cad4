"""Where commands print their tables."""

import os
import sys

from rich.console import Console

# Columns where nobody says how many: a pipe or a file has no edge at which a table would have to break.
WIDE = 200


def console() -> Console:
    """Standard output, as wide as the terminal or ``$COLUMNS`` says, and wide where there is neither."""
    # Asked for at each call: tests and ranks replace standard output.
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if known else WIDE)
