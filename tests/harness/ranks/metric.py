"""One rank of the metric's own test: rank 0 has five of seven images, rank 1 has two."""

import json

import torch
import torch.distributed as dist

from harness import SegmentationMetric

dist.init_process_group("gloo")
rank = dist.get_rank()
sharded, single = SegmentationMetric(5), SegmentationMetric(5)
for index in range(7):
    generator = torch.Generator().manual_seed(index)
    prediction, labels = (torch.randint(0, 5, (20, 30), generator=generator) for _ in range(2))
    single.update(prediction, labels)
    if (index % 3 == 1) == (rank == 1):
        sharded.update(prediction, labels)
synced, kept = sharded.compute()["confusion"].tolist(), sharded.confusion.tolist()
sharded.add(torch.zeros_like(sharded.confusion))
print(json.dumps({"synced": synced, "kept": kept, "again": sharded.compute()["confusion"].tolist()}))
print(json.dumps(single.confusion.tolist()))
dist.destroy_process_group()
