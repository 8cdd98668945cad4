"""torchrun with its ranks' exit code and without its failure report: exit code 2 (a user's error) stays 2.

``launch.sh`` calls it with torchrun's arguments.
"""

import logging
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run


def main(arguments: list[str] | None = None) -> int:
    """Launch ranks and wait for them.

    Args:
        arguments: torchrun's arguments; None takes the command line.

    Returns:
        The exit code of the rank that failed first (128 + n after signal n), or 0.
    """
    # The ranks print their own errors.
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
