"""What a grid of 27 points of FOSSIL (3 N x 3 K x 3 γ) costs in one pass, beside one point of it.

    python benchmarks/one_pass.py --limit 200        (the artifact store: --store or $OVSEG_STORE)

Both are whole processes on Miniature's validation scenes, started one after the other, from the first import to the
last result; the reference collection is made before, if the store lacks it. Regions are OpenCut's, as in the paper;
without them (``--regions null``) an image costs so little that starting and stitching weigh more. Ends with an error
if a point of the grid counted other pixels than its own run, or if the grid took more than 1.6 times as long.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness.results.records import read_lines
from harness.studies.sweeps import read_sweep

EXPERIMENT = "configs/experiments/fossil_miniature.yaml"
OPENCUT = "configs/models/miniature_opencut.yaml"
GRID = "configs/sweeps/fossil_grid_miniature.yaml"
# Of its points, the one that is run alone.
MIDDLE = {"method.num_references": 70, "method.num_prototypes": 10, "method.gamma": 0.5}
MOST = 1.6
# `ovseg sweep` without the drawing of the curves.
TOGETHER = """
import sys
from pathlib import Path
from harness.cli import _quiet
_quiet()
from harness.commands.study import runner_of
from harness.studies.sweeps import read_sweep
study = read_sweep(Path(sys.argv[1]))
runner_of(study, sys.argv[3:], Path(sys.argv[2])).study(study)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=200, help="scenes")
    parser.add_argument("--captions", type=int, default=None, help="captions of the collection (default: all)")
    parser.add_argument("--regions", default=OPENCUT, help="the method's regions; null takes patches")
    parser.add_argument("--store", default=None, help="artifact store")
    given = parser.parse_args()
    shared = ["--store", given.store] if given.store else []
    shared += ["--method.regions", given.regions]
    if given.captions:
        shared += ["--method.collection.captions.limit", str(given.captions)]
    experiment = ["--config", EXPERIMENT, *shared]
    timed("collection", "-m", "harness.cli", "precompute", *experiment)
    limit = ["--data.limit", str(given.limit)]
    study = read_sweep(Path(GRID))
    middle = next(cell for cell in study.cells() if cell.overrides == MIDDLE)
    with tempfile.TemporaryDirectory() as folder:
        own, grid = Path(folder) / "alone", Path(folder) / "grid"
        one = [*experiment, *limit, *middle.arguments, "--run_dir", str(own)]
        alone = timed("one point, `ovseg evaluate`", "-m", "harness.cli", "evaluate", *one)
        together = timed(f"{len(study.rows)} points together", "-c", TOGETHER, GRID, str(grid), *shared, *limit)
        equal = counts(own) == counts(grid / middle.folder)
    ratio = together / alone
    print(f"{ratio:.2f} times one point (at most {MOST} asked); the same integers: {equal}")
    sys.exit(0 if equal and ratio <= MOST else 1)


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
