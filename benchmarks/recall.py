"""What HNSW finds of the exact search, on FOSSIL's collection of an experiment that is in the store.

Usage: ``python benchmarks/recall.py [--experiment FILE] [--store DIR] [--count 150]``
"""

import argparse
import time
from pathlib import Path

from harness.artifacts.store import ArtifactStore
from harness.commands import evaluate
from harness.commands.arguments import instantiate
from methods.fossil.search import FlatIndex, HNSWIndex, Vectors, recall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiment", default="configs/experiments/fossil_miniature.yaml")
    parser.add_argument("--store", type=Path, default=None)
    parser.add_argument("--count", type=int, default=150)
    arguments = parser.parse_args()
    built = evaluate.parser()
    made = instantiate(built, built.parse_args(["--config", arguments.experiment]))
    made.method.make_ready(made.data.vocabulary, made.protocol)
    stages = made.method.stages()
    vectors = Vectors(stages[-1], ArtifactStore(arguments.store))
    names = list(made.data.vocabulary.foreground)
    queries = made.method.clip.encode_classes(names, made.method.collection.templates).float().numpy()
    exact = FlatIndex().search(vectors, queries, arguments.count)
    rows = sum(map(len, vectors.shards()))
    print(f"{len(names)} queries, {rows} references, N = {arguments.count}")
    for links, breadth in ((4, 1), (8, 1), (32, 1), (32, 1000)):
        began = time.perf_counter()
        found = HNSWIndex(links=links, breadth=breadth).search(vectors, queries, arguments.count)
        seconds = time.perf_counter() - began
        # A search looks at N candidates at least.
        breadth = max(breadth, arguments.count)
        print(f"links {links}, breadth {breadth}: recall {recall(found, exact):.4f}, {seconds:.2f} s with building")


if __name__ == "__main__":
    main()
