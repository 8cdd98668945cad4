"""torchrun, which also exits as its ranks do: 2 for what a user can mend stays 2, without torchrun's own report.

``launch.sh`` calls it with torchrun's arguments.
"""

import logging
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run


def main(arguments: list[str] | None = None) -> int:
    """Launch ranks and wait for them; returns the exit code of the one that failed first, 128 + n after signal n."""
    # Ranks say themselves what went wrong.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        run(parse_args(sys.argv[1:] if arguments is None else arguments))
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return failure.exitcode if failure.exitcode >= 0 else 128 - failure.exitcode
    except SignalException as signal:
        return 128 + int(signal.sigval)
    return 0


if __name__ == "__main__":
    sys.exit(main())
