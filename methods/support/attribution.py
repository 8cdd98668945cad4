"""Where a picture attended to a word: cross-attention of a denoising UNet, summed up while it paints.

Two conventions, which share little more than their subject: OVDiff's (karazijal/sdov, ``sd.py``) and DAAM's (Tang et
al., What the DAAM: Interpreting Stable Diffusion Using Cross Attention, ACL 2023; castorini/daam, ``trace.py``).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor

from harness.errors import ConfigurationError
from methods.support.words import word_positions

Convention = Literal["ovdiff", "daam"]
# Attention that is held at once, in numbers: 64 MB.
BUDGET = 1 << 24


class WordAttribution:
    ...
