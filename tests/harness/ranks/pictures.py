"""One rank of a run on two nodes without a shared file system: gathers what it has of the pictures; see the test."""

import sys
from pathlib import Path

import torch.distributed as dist

from harness.engine.wandb_report import gather_pictures
from harness.system import distributed

dist.init_process_group("gloo")
gather_pictures(Path(sys.argv[1]) / f"node{distributed.rank()}", 3, leads=True)
dist.destroy_process_group()
