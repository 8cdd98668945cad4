#!/usr/bin/env bash
# One entry for one GPU, many GPUs, many nodes: runs ovseg under torchrun, with matching Trainer flags.
set -euo pipefail

usage() {
    cat <<'END'
usage: ./launch.sh [--devices D] [--nodes N --node-rank R --master HOST:PORT] [--dry-run] -- COMMAND [ARGUMENT...]

Run "ovseg COMMAND ARGUMENT..." as D processes on each of N nodes, one process per GPU.

  --devices D         processes on this node (default: its GPUs, or 1 without any)
  --nodes N           number of nodes (default: 1); call launch.sh once on each, with the same arguments but the rank
  --node-rank R       which of them this is, from 0
  --master HOST:PORT  an address of node 0 that all nodes reach, and a free port there
  --dry-run           print the command instead of running it

Under SLURM, all of these are taken from the environment: "srun --ntasks-per-node=1 ./launch.sh -- evaluate ...".
The exit code is that of the rank that failed first: 2 for errors that you can fix.

  ./launch.sh -- evaluate --config configs/experiments/clip_diy_miniature.yaml
  ./launch.sh --devices 2 -- evaluate --config configs/experiments/clip_diy_miniature.yaml --run_dir runs/mine
  ./launch.sh --nodes 2 --node-rank 0 --master 10.0.0.1:29500 -- evaluate --config ...   # and --node-rank 1 on node 1
END
}

fail() {
    printf 'launch.sh: %s (see ./launch.sh --help)\n' "$1" >&2
    exit 2
}

# whole_number VALUE MINIMUM NAME
whole_number() {
    [[ $1 =~ ^[0-9]{1,9}$ ]] && ((10#$1 >= $2)) || fail "$3 must be a whole number of at least $2, not '$1'"
}

# "gpu[07-09,12],x1" -> "gpu07"
first_host() {
    local hosts=()
    if command -v scontrol >/dev/null; then
        mapfile -t hosts < <(scontrol show hostnames "$1" 2>/dev/null)
    fi
    if ((${#hosts[@]})); then
        printf '%s' "${hosts[0]}"
    elif [[ $1 =~ ^([^][,]*)\[([^],-]+)[^]]*\]([^,]*) ]]; then
        printf '%s' "${BASH_REMATCH[1]}${BASH_REMATCH[2]}${BASH_REMATCH[3]}"
    else
        printf '%s' "${1%%,*}"
    fi
}

gpus() {
    if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
        [[ -z $CUDA_VISIBLE_DEVICES ]] || tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES"
    elif command -v nvidia-smi >/dev/null; then
        nvidia-smi --list-gpus 2>/dev/null | grep '^GPU' || true
    fi | wc -l | tr -d ' '
}

devices='' nodes='' node_rank='' master='' dry_run=''
while (($#)); do
    case $1 in
        --help | -h) usage && exit 0 ;;
        --dry-run) dry_run=yes && shift ;;
        --) shift && break ;;
        --devices | --nodes | --node-rank | --master)
            (($# > 1)) && [[ $2 != -- ]] || fail "$1 needs a value"
            name=${1#--} && printf -v "${name//-/_}" '%s' "$2" && shift 2
            ;;
        --devices=* | --nodes=* | --node-rank=* | --master=*)
            name=${1%%=*} && name=${name#--} && printf -v "${name//-/_}" '%s' "${1#*=}" && shift
            ;;
        --*) fail "unknown option $1; ovseg's own arguments come after --" ;;
        *) fail "'$1' must come after --, as in ./launch.sh -- $1" ;;
    esac
done
(($#)) || fail "say what to run: ./launch.sh -- evaluate --config FILE"

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [[ -x $here/.venv/bin/python ]]; then
    python=$here/.venv/bin/python
else
    python=$(command -v python3 || command -v python) || fail "there is neither $here/.venv (make it with make) nor a python"
fi

if [[ $1 == evaluate || $1 == segment || $1 == precompute || $1 == table || $1 == sweep || $1 == reproduce ]]; then
    if [[ -n ${SLURM_NNODES:-} && -z $nodes ]]; then
        nodes=$SLURM_NNODES
        if [[ $nodes != 1 ]]; then
            node_rank=${node_rank:-${SLURM_NODEID:-}}
            # A port per job, since jobs may share a node.
            master=${master:-$(first_host "${SLURM_JOB_NODELIST:-}"):$((20000 + ${SLURM_JOB_ID:-0} % 10000))}
        fi
    fi
    devices=${devices:-${SLURM_GPUS_ON_NODE:-$(gpus)}}
    [[ $devices != 0 ]] || devices=1
    nodes=${nodes:-1}
    whole_number "$devices" 1 --devices
    whole_number "$nodes" 1 --nodes
    ranks=(--nproc-per-node "$devices")
    if ((nodes == 1)); then
        [[ -z $master && ${node_rank:-0} == 0 ]] || fail "--master and --node-rank need --nodes of at least 2"
        # torchrun picks a free port.
        ranks=(--standalone "${ranks[@]}")
    else
        [[ -n $node_rank ]] || fail "--nodes $nodes needs --node-rank: which node is this, from 0"
        whole_number "$node_rank" 0 --node-rank
        ((node_rank < nodes)) || fail "--node-rank $node_rank is not one of $nodes nodes, which are counted from 0"
        [[ $master =~ ^.+:[0-9]+$ ]] || fail "--nodes $nodes needs --master HOST:PORT, not '$master'"
        ranks+=(--nnodes "$nodes" --node-rank "$node_rank")
        ranks+=(--master-addr "${master%:*}" --master-port "${master##*:}")
    fi
    trainer=(--trainer.devices "$devices" --trainer.num_nodes "$nodes" --trainer.strategy ddp)
    command=("$python" -m harness.system.launch "${ranks[@]}" -m harness.cli "$@" "${trainer[@]}")
    # torchrun would set one thread per process, with a warning.
    cores=$(getconf _NPROCESSORS_ONLN)
    threads=$((cores > devices ? cores / devices : 1))
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$threads}
else
    command=("$python" -m harness.cli "$@")
fi

if [[ -n $dry_run ]]; then
    printf '%q ' "${command[@]}"
    printf '\n'
else
    exec "${command[@]}"
fi
