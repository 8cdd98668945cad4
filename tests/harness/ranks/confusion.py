"""An evaluation on one rank, which prints the metric's confusion matrix."""

import json
import sys
from pathlib import Path

from lightning.pytorch import Trainer
from tinyseg import NearestColour, Squares

from harness import Protocol, evaluate
from harness.system import distributed

if __name__ == "__main__":
    run_dir, devices = Path(sys.argv[1]), int(sys.argv[2])
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
    )
    protocol = Protocol(name="squares", size=(400, 48), window=32, stride=16)
    metric = evaluate(NearestColour(), Squares(), protocol, trainer, run_dir).metric
    print(json.dumps(metric.compute()["confusion"].tolist()))
    distributed.leave_process_group()
