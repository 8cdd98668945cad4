"""``ovseg`` on one rank."""

import sys

from harness.cli import main

sys.exit(main())
