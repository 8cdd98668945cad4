"""Integer statistics first, ratios second: the confusion matrix, and the scores that mmsegmentation defines on it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric


class ScoredPixels(NamedTuple):
    """The pixels of a label map that are scored; shared by all predictions of one image.

    Attributes:
        places: [N] int64, their indices in the flattened label map.
        rows: [N] int64, label times ``classes``: where each pixel's row begins in a flattened confusion matrix.
        classes: Number of classes.
    """

    places: Tensor
    rows: Tensor
    classes: int

    @classmethod
    def of(cls, labels: Tensor, classes: int, ignore_label: int = 255) -> "ScoredPixels":
        """The pixels of [H, W] integer ``labels`` that are not ``ignore_label``."""
        flat = labels.flatten()
        places = (flat != ignore_label).nonzero().squeeze(1)
        return cls(places, flat.index_select(0, places).long() * classes, classes)

    def confusion(self, prediction: Tensor) -> Tensor:
        """[classes, classes] int64 of a prediction, [H, W] integers in [0, classes); rows are labels."""
        pairs = self.rows + prediction.flatten().index_select(0, self.places)
        return torch.bincount(pairs, minlength=self.classes**2).reshape(self.classes, self.classes)


def confusion_matrix(prediction: Tensor, labels: Tensor, classes: int, ignore_label: int = 255) -> Tensor:
    """Count pixels by (label, prediction).

    Args:
        prediction: [H, W] integer class indices in [0, classes).
        labels: [H, W] integer class indices in [0, classes), or ``ignore_label``, whose pixels are left out.
        classes: Number of classes.
        ignore_label: The label that is not scored.

    Returns:
        [classes, classes] int64; rows are labels, columns predictions.
    """
    return ScoredPixels.of(labels, classes, ignore_label).confusion(prediction)


@dataclass(frozen=True)
class Areas:
    """Pixels per class; everything that mIoU and the accuracies need.

    Attributes:
        intersection: Pixels labelled and predicted as the class.
        prediction: Pixels predicted as the class (and not ignored).
        label: Pixels labelled as the class.
    """

    intersection: tuple[int, ...]
    prediction: tuple[int, ...]
    label: tuple[int, ...]

    @classmethod
    def of(cls, confusion: Tensor) -> "Areas":
        """The areas of a confusion matrix, [C, C] int64, rows labels."""
        table = torch.stack([confusion.diagonal(), confusion.sum(0), confusion.sum(1)]).tolist()
        return cls(*(tuple(row) for row in table))

    @classmethod
    def zero(cls, classes: int) -> "Areas":
        """No pixels at all."""
        return cls((0,) * classes, (0,) * classes, (0,) * classes)

    def __add__(self, other: "Areas") -> "Areas":
        def add(left: Sequence[int], right: Sequence[int]) -> tuple[int, ...]:
            return tuple(a + b for a, b in zip(left, right, strict=True))

        return Areas(
            add(self.intersection, other.intersection),
            add(self.prediction, other.prediction),
            add(self.label, other.label),
        )


def _percent(numerator: int, denominator: int) -> float | None:
    return 100 * numerator / denominator if denominator else None


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


@dataclass(frozen=True)
class Scores:
    """Percent in [0, 100], unrounded; None where undefined (nothing to divide by).

    Attributes:
        miou: Mean of the defined IoUs.
        pixel_accuracy: Share of scored pixels predicted rightly (mmsegmentation's aAcc).
        mean_accuracy: Mean of the defined per-class accuracies (mAcc).
        iou: Per class, intersection over union; None for a class neither labelled nor predicted.
        accuracy: Per class, intersection over label area; None for a class not labelled.
    """

    miou: float | None
    pixel_accuracy: float | None
    mean_accuracy: float | None
    iou: tuple[float | None, ...]
    accuracy: tuple[float | None, ...]

    @classmethod
    def of(cls, areas: Areas, absent_classes: str = "drop") -> "Scores":
        """Scores of dataset-level areas, as mmsegmentation's ``IoUMetric`` defines them.

        Args:
            areas: Summed over all images.
            absent_classes: ``drop`` leaves classes without label and prediction out of the mean, ``zero`` counts
                them as 0.
        """
        iou = [
            _percent(i, p + g - i) for i, p, g in zip(areas.intersection, areas.prediction, areas.label, strict=True)
        ]
        if absent_classes == "zero":
            iou = [0.0 if value is None else value for value in iou]
        accuracy = [_percent(i, g) for i, g in zip(areas.intersection, areas.label, strict=True)]
        pixel_accuracy = _percent(sum(areas.intersection), sum(areas.label))
        return cls(_mean(iou), pixel_accuracy, _mean(accuracy), tuple(iou), tuple(accuracy))


class SegmentationMetric(Metric):
    """An int64 confusion matrix, reduced over ranks by sum.

    Args:
        classes: Number of classes.
        ignore_label: The label that is not scored.
        absent_classes: As in ``Scores.of``.
    """

    full_state_update = False
    confusion: Tensor

    def __init__(self, classes: int, ignore_label: int = 255, absent_classes: str = "drop") -> None:
        super().__init__()
        self.classes = classes
        self.ignore_label = ignore_label
        self.absent_classes = absent_classes
        self.add_state("confusion", torch.zeros(classes, classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, labels: Tensor) -> None:
        """Add one image: both [H, W] integer maps, see ``confusion_matrix``."""
        self.add(confusion_matrix(prediction, labels, self.classes, self.ignore_label))

    def add(self, confusion: Tensor) -> None:
        """Add a confusion matrix that was counted elsewhere, [C, C] int64."""
        self.confusion += confusion
        # torchmetrics forgets a computed score in update() only.
        self._computed = None

    def compute(self) -> dict[str, Tensor]:
        """The scores of all images seen, over all ranks when called inside a process group.

        Returns:
            ``miou``, ``pixel_accuracy`` and ``mean_accuracy``, scalars; ``iou`` and ``accuracy`` [C]; all in percent,
            float64, NaN where undefined. ``confusion`` [C, C] int64.
        """
        scores = Scores.of(Areas.of(self.confusion), self.absent_classes)

        def tensor(value: float | tuple[float | None, ...] | None) -> Tensor:
            values = value if isinstance(value, tuple) else (value,)
            filled = torch.tensor([math.nan if each is None else each for each in values], dtype=torch.float64)
            return filled if isinstance(value, tuple) else filled[0]

        found = {
            "miou": tensor(scores.miou),
            "pixel_accuracy": tensor(scores.pixel_accuracy),
            "mean_accuracy": tensor(scores.mean_accuracy),
            "iou": tensor(scores.iou),
            "accuracy": tensor(scores.accuracy),
        }
        return {**found, "confusion": self.confusion.clone()}
