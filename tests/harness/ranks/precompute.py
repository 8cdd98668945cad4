"""One rank of the precompute stage: its settings are the JSON of its only argument."""

import json
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
from tinyseg.painted import Mix, Paint

from harness import ArtifactStore, OvsegError
from harness.artifacts.precompute import precompute
from harness.system import distributed
from harness.system.provenance import hash_tensors

given = json.loads(sys.argv[1])
if given.get("world_size", 1) > 1:
    dist.init_process_group("gloo", timeout=timedelta(seconds=given.get("timeout", 60)))
rank = distributed.rank()
paint = Paint(given["names"], given["log"], **given.get("paint", {}))
stages = [paint, Mix(paint)]
held = {}


def assemble(store: ArtifactStore) -> dict[str, torch.Tensor]:
    return {"means": torch.stack([store.load(item.key)["mean"] for item in stages[1].items()])}


method = SimpleNamespace(name="painted", stages=lambda: stages, assemble=assemble, adopt=held.update)
store = ArtifactStore(Path(given["store"].format(rank=rank)))
try:
    done = precompute(method, store, given.get("heartbeat_timeout", 30))
except OvsegError as error:
    print(json.dumps({"rank": rank, "error": str(error)}))
    distributed.leave_process_group()
    sys.exit(2)
found = {"rank": rank, "bank": done.bank, "held": hash_tensors(held), "keys": store.all_keys()}
print(
    json.dumps(
        found
        | {"made": [stage.computed_per_rank for stage in done.stages], "copied": [s.num_copied for s in done.stages]}
    )
)
distributed.leave_process_group()
