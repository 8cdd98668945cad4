"""One rank of a run on two nodes without a shared file system: gathers the images that it has; see the test."""

import sys
from pathlib import Path

import torch.distributed as dist

from harness.engine.wandb_report import gather_images
from harness.system import distributed

dist.init_process_group("gloo")
gather_images(Path(sys.argv[1]) / f"node{distributed.rank()}", 3, is_node_main=True)
dist.destroy_process_group()
