#!/usr/bin/env bash
# The precompute stage of OVDiff on Miniature, 8 images a class, on one process and on two, each into an empty store.
#   bash benchmarks/precompute.sh
set -euo pipefail
export OMP_NUM_THREADS=1
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
for processes in 1 2; do
    ./launch.sh --devices $processes -- precompute --config configs/experiments/ovdiff_miniature.yaml \
        --method.num_generated 8 --method.support_size 8 --store "$here/$processes" | sed "s/^/$processes: /"
done
