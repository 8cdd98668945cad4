"""``results.json``: a run's scores in a versioned schema, and as a table to print."""

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


def total_areas(records: Sequence[Record], num_classes: int) -> Areas:
    """The sum of the areas of all records."""
    areas = Areas.zero(num_classes)
    for record in records:
        areas = areas + record.areas(num_classes)
    return areas


def check_complete(records: Sequence[Record], ids: Sequence[str]) -> None:
    """Check that every image has exactly one record.

    Raises:
        RunError: Images are missing, repeated or unknown; the message names the first.
    """
    recorded = [(record.index, record.id) for record in records]
    expected = list(enumerate(ids))
    if recorded != expected:
        wrong = sorted(set(expected) ^ set(recorded)) or recorded
        raise RunError(f"the records do not hold every image exactly once: see image {wrong[0][1]!r}")


def compute_scores(records: Sequence[Record], vocabulary: Vocabulary, protocol: Protocol) -> dict[str, Any]:
    """The part of ``results.json`` that is computed from the records.

    Returns:
        ``miou``, ``pixel_accuracy``, ``mean_accuracy`` and ``per_image_miou`` (percent, unrounded, None if undefined;
        the last is not mIoU, see ``per_image_miou``), ``num_images`` (scored), ``skipped``, ``per_class``, and
        ``seconds`` (of prediction and scoring, summed over images).
    """
    areas = total_areas(records, len(vocabulary))
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


def results_table(results: dict[str, Any]) -> Table:
    """IoU and accuracy per class and the overall scores, in percent with one decimal."""
    table = Table(title=f"{results['method']} on {results['data']} ({results['protocol']['name']})")
    table.add_column("class")
    table.add_column("IoU", justify="right")
    table.add_column("accuracy", justify="right")
    for row in results["per_class"]:
        table.add_row(row["name"], _percent(row["iou"]), _percent(row["accuracy"]))
    table.add_section()
    table.add_row("mIoU", _percent(results["miou"]), "", style="bold")
    table.add_row("mean accuracy", "", _percent(results["mean_accuracy"]))
    table.add_row("pixel accuracy", "", _percent(results["pixel_accuracy"]))
    table.add_row("per-image mean IoU", _percent(results["per_image_miou"]), "")
    table.add_section()
    skipped = f" ({results['skipped']} skipped)" if results["skipped"] else ""
    table.add_row("images", str(results["num_images"]) + skipped, "")
    table.add_row("seconds", f"{results['seconds']:.1f}", "")
    return table
