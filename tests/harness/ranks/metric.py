"""One rank of the metric's own test: rank 0 has five of seven images, rank 1 has two."""

import json

import torch
import torch.distributed as dist

from harness import SegmentationMetric

dist.init_process_group("gloo")
rank = dist.get_rank()
mine, alone = SegmentationMetric(5), SegmentationMetric(5)
for index in range(7):
    generator = torch.Generator().manual_seed(index)
    prediction, labels = (torch.randint(0, 5, (20, 30), generator=generator) for _ in range(2))
    alone.update(prediction, labels)
    if (index % 3 == 1) == (rank == 1):
        mine.update(prediction, labels)
synced, kept = mine.compute()["confusion"].tolist(), mine.confusion.tolist()
mine.add(torch.zeros_like(mine.confusion))
print(json.dumps({"synced": synced, "kept": kept, "again": mine.compute()["confusion"].tolist()}))
print(json.dumps(alone.confusion.tolist()))
dist.destroy_process_group()
