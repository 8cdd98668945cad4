"""What a grid of 27 points of FOSSIL (3 N x 3 K x 3 γ) costs in one pass, beside one point of it.

    python benchmarks/one_pass.py --limit 200        (the artifact store: --store or $OVSEG_STORE)

Both are whole processes on Miniature's validation scenes, started one after the other, from the first import to the
last result; the reference collection is made before, if the store lacks it. Regions are OpenCut's, as in the paper;
without them (``--regions null``) a picture costs so little that starting and stitching weigh more. Ends with an error
if a point of the grid counted other pixels than its own run, or if the grid took more than 1.6 times as long.
"""

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness.records import read_lines

EXPERIMENT = "configs/experiments/fossil_miniature.yaml"
OPENCUT = "configs/models/miniature_opencut.yaml"
# As in configs/sweeps/fossil_grid_miniature.yaml.
REFERENCES, PROTOTYPES, GAMMAS = (20, 70, 150), (5, 10, 20), (0.3, 0.5, 0.7)
MIDDLE = (70, 10, 0.5)
MOST = 1.6
TOGETHER = """
import json, sys
from harness.cli import _quiet
_quiet()
from harness.commands.evaluate import parser
from harness.commands.together import evaluate_together
built = parser()
evaluate_together(built, [built.parse_args(point) for point in json.loads(sys.argv[1])])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=200, help="scenes")
    parser.add_argument("--captions", type=int, default=None, help="captions of the collection (default: all)")
    parser.add_argument("--regions", default=OPENCUT, help="the method's regions; null takes patches")
    parser.add_argument("--store", default=None, help="artifact store")
    given = parser.parse_args()
    shared = ["--config", EXPERIMENT, *(["--store", given.store] if given.store else [])]
    shared += ["--method.regions", given.regions]
    if given.captions:
        shared += ["--method.collection.captions.limit", str(given.captions)]
    timed("collection", "-m", "harness.cli", "precompute", *shared)
    shared += ["--data.limit", str(given.limit)]
    with tempfile.TemporaryDirectory() as folder:
        one = point(shared, Path(folder) / "alone", *MIDDLE)
        grid = [
            point(shared, Path(folder) / "-".join(map(str, values)), *values)
            for values in itertools.product(REFERENCES, PROTOTYPES, GAMMAS)
        ]
        alone = timed("one point, `ovseg evaluate`", "-m", "harness.cli", "evaluate", *one)
        together = timed(f"{len(grid)} points together", "-c", TOGETHER, json.dumps(grid))
        equal = counts(Path(folder) / "alone") == counts(Path(folder) / "-".join(map(str, MIDDLE)))
    ratio = together / alone
    print(f"{ratio:.2f} times one point (at most {MOST} asked); the same integers: {equal}")
    sys.exit(0 if equal and ratio <= MOST else 1)


def point(shared: list[str], run_dir: Path, references: int, prototypes: int, gamma: float) -> list[str]:
    settings = {"references": references, "prototypes": prototypes, "gamma": gamma}
    return [*shared, *(f"--method.{name}={value}" for name, value in settings.items()), f"--run_dir={run_dir}"]


def timed(title: str, *command: str) -> float:
    """Run Python; its wall time. CPU time is printed beside it, since other processes lengthen the wall time alone."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{title}: {seconds:.1f} s, {used:.1f} s of CPU", flush=True)
    return seconds


def counts(run_dir: Path) -> list[object]:
    return [record.result for record in read_lines(run_dir / "images.jsonl")]


if __name__ == "__main__":
    main()
