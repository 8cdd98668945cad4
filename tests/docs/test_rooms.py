"""The drawing of the rooms is what the imports say; that they follow the contracts is ``make lint``'s business."""

import runpy

from tests.running import REPOSITORY


def test_the_drawing_in_the_documentation_is_that_of_the_code() -> None:
    rooms = runpy.run_path(str(REPOSITORY / "docs" / "rooms.py"))
    pairs = rooms["arrows"]()
    assert ("harness.engine", "harness.method") in pairs
    assert rooms["drawing"](pairs) in (REPOSITORY / "docs" / "architecture.md").read_text()
