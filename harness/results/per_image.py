"""The mean of per-image mean IoU, which some releases report as mIoU, and which is another number."""

from collections.abc import Sequence

from harness.results.records import Record


def per_image_miou(records: Sequence[Record]) -> float | None:
    """Each image's mean IoU over the classes that are labelled in it, averaged over images.

    FreeSeg-Diff's release reports this number (bcorrad/FreeSegDiff-release, ``evaluation.py``). A class that is
    predicted but not labelled costs only the pixels that it takes from other classes, and small images count as much
    as large ones, so it usually differs a lot from the dataset-level mIoU and never replaces it. The background counts
    as a class.

    Args:
        records: Of all images; skipped images and images without a labelled pixel are left out.

    Returns:
        Percent in [0, 100], unrounded; None without any image.
    """
    means = []
    for record in records:
        areas = zip(record.intersection, record.prediction, record.label, strict=True)
        ious = [100 * i / (p + g - i) for i, p, g in areas if g]
        if ious:
            means.append(sum(ious) / len(ious))
    return sum(means) / len(means) if means else None
