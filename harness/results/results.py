"""``results.json``: what a run found, in a versioned schema, and the table that a person reads."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from harness.data.protocol import Protocol
from harness.data.vocabulary import Vocabulary
from harness.results.metric import Areas, Scores
from harness.results.per_image import per_image_miou
from harness.results.records import Record
from harness.system.errors import RunError

SCHEMA = 1


def total(records: Sequence[Record], classes: int) -> Areas:
    """The areas of all records together."""
    areas = Areas.zero(classes)
    for record in records:
        areas = areas + record.areas(classes)
    return areas


def check_complete(records: Sequence[Record], ids: Sequence[str]) -> None:
    """A score is given only when every image is there exactly once.

    Raises:
        RunError: Images are missing, repeated or unknown; the message names the first.
    """
    found = [(record.index, record.id) for record in records]
    expected = list(enumerate(ids))
    if found != expected:
        wrong = sorted(set(expected) ^ set(found)) or found
        raise RunError(f"the records do not hold every image exactly once: see image {wrong[0][1]!r}")


def scored(records: Sequence[Record], vocabulary: Vocabulary, protocol: Protocol) -> dict[str, Any]:
    """The part of ``results.json`` that is a pure function of the records.

    Returns:
        ``miou``, ``pixel_accuracy``, ``mean_accuracy`` (percent, unrounded, None when undefined), ``per_image_miou``
        (likewise; another number than mIoU, see ``per_image_miou``), ``num_images`` (scored), ``skipped``,
        ``per_class``, and ``seconds`` (of prediction and scoring, summed over images).
    """
    areas = total(records, len(vocabulary))
    scores = Scores.of(areas, protocol.absent_classes)
    columns = zip(
        vocabulary.names, scores.iou, scores.accuracy, areas.intersection, areas.prediction, areas.label, strict=True
    )
    keys = ("name", "iou", "accuracy", "intersection", "prediction", "label")
    skipped = sum(record.skipped is not None for record in records)
    return {
        "miou": scores.miou,
        "pixel_accuracy": scores.pixel_accuracy,
        "mean_accuracy": scores.mean_accuracy,
        "per_image_miou": per_image_miou(records),
        "num_images": len(records) - skipped,
        "skipped": skipped,
        "per_class": [dict(zip(keys, row, strict=True)) for row in columns],
        "seconds": sum(record.seconds for record in records),
    }


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def table(results: dict[str, Any]) -> Table:
    """Per-class IoU and accuracy, and the summary, rounded for reading."""
    drawn = Table(title=f"{results['method']} on {results['data']} ({results['protocol']['name']})")
    drawn.add_column("class")
    drawn.add_column("IoU", justify="right")
    drawn.add_column("accuracy", justify="right")
    for row in results["per_class"]:
        drawn.add_row(row["name"], _percent(row["iou"]), _percent(row["accuracy"]))
    drawn.add_section()
    drawn.add_row("mIoU", _percent(results["miou"]), "", style="bold")
    drawn.add_row("mean accuracy", "", _percent(results["mean_accuracy"]))
    drawn.add_row("pixel accuracy", "", _percent(results["pixel_accuracy"]))
    drawn.add_row("per-image mean IoU", _percent(results["per_image_miou"]), "")
    drawn.add_section()
    skipped = f" ({results['skipped']} skipped)" if results["skipped"] else ""
    drawn.add_row("images", str(results["num_images"]) + skipped, "")
    drawn.add_row("seconds", f"{results['seconds']:.1f}", "")
    return drawn
