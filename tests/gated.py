"""Data that stops before its last image: a run of any method can be killed in the middle, whatever its speed."""

import time
from pathlib import Path
from typing import Literal

from datamodules import Folder
from harness.data.datamodule import LabeledImage


class Gated(Folder):
    """A folder of images, the last of which cannot be read for as long as a file is there.

    Args:
        root: As in ``Folder``.
        gate: The file; where it is missing nothing waits.
        limit: As in ``Folder``.
        on_error: Likewise.
    """

    def __init__(
        self, root: str, gate: str, limit: int | None = None, on_error: Literal["stop", "skip"] = "stop"
    ) -> None:
        super().__init__(root, limit=limit, on_error=on_error)
        self._gate = Path(gate)

    def read(self, index: int) -> LabeledImage:
        while index == len(self.ids) - 1 and self._gate.exists():
            time.sleep(0.02)
        return super().read(index)
