"""The first lines of a rank that ``tests/conftest.py`` starts: its environment, its streams, then its script."""

import os
import runpy
import sys

import torch

given = globals()
os.environ.clear()
os.environ.update(given["environment"])
sys.path[:0] = given["path"]
for number, end in ((1, "out"), (2, "err")):
    os.dup2(os.open(f"{given['output']}.{end}", os.O_WRONLY | os.O_CREAT, 0o644), number)
sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
torch.set_num_threads(1)
sys.argv = [given["script"], *given["arguments"]]
runpy.run_path(given["script"], run_name="__main__")
