"""Points evaluated together on one rank: the argument is a JSON list of command lines of ``ovseg evaluate``."""

import json
import sys

from harness import OvsegError
from harness.commands.evaluate import parser
from harness.commands.joint_evaluation import evaluate_group, groups
from harness.system import distributed

if __name__ == "__main__":
    # As the command line does: a rank whose launcher is gone must not continue.
    built = parser()
    parsed = [built.parse_args(arguments) for arguments in json.loads(sys.argv[1])]
    try:
        evaluations = [
            evaluation
            for group in groups(parsed)
            for evaluation in evaluate_group(built, [parsed[place] for place in group])
        ]
        print(json.dumps([str(evaluation.directory.path) for evaluation in evaluations]))
    except OvsegError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    finally:
        distributed.leave_process_group()
