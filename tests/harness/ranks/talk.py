"""One rank of the test of communication between ranks."""

import json

import torch.distributed as dist

from harness import RunError
from harness.system import distributed

dist.init_process_group("gloo")
rank = distributed.rank()


def fail() -> None:
    raise RunError("rank 1 could not")


try:
    distributed.run_and_sync_errors(fail if rank == 1 else None)
    failed = None
except RunError as error:
    failed = str(error)
found = {
    "rank": rank,
    "gathered": distributed.gather(["rank", rank, "ü" * rank * 1000]),
    "told": distributed.broadcast({"from": rank}),
    "failed": failed,
    "synced": distributed.run_and_sync_errors((lambda: "value") if rank == 0 else None),
}
distributed.leave_process_group()
found["left"] = [distributed.rank(), distributed.world_size()]
print(json.dumps(found))
