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
        indices: [N] int64, their indices in the flattened label map.
        row_offsets: [N] int64, label times ``num_classes``: the start of the label's row in a flattened confusion
            matrix.
        num_classes: Number of classes.
    """

    indices: Tensor
    row_offsets: Tensor
    num_classes: int

    @classmethod
    def of(cls, labels: Tensor, num_classes: int, ignore_label: int = 255) -> "ScoredPixels":
        """The pixels of [H, W] integer ``labels`` that are not ``ignore_label``."""
        flat = labels.flatten()
        indices = (flat != ignore_label).nonzero().squeeze(1)
        return cls(indices, flat.index_select(0, indices).long() * num_classes, num_classes)

    def confusion(self, prediction: Tensor) -> Tensor:
        """[C, C] int64 confusion matrix of a prediction, [H, W] integers in [0, C); rows are labels."""
        pairs = self.row_offsets + prediction.flatten().index_select(0, self.indices)
        return torch.bincount(pairs, minlength=self.num_classes**2).reshape(self.num_classes, self.num_classes)


def confusion_matrix(prediction: Tensor, labels: Tensor, num_classes: int, ignore_label: int = 255) -> Tensor:
    """Count pixels by (label, prediction).

    Args:
        prediction: [H, W] integer class indices in [0, num_classes).
        labels: [H, W] integer class indices in [0, num_classes), or ``ignore_label``, whose pixels are left out.
        num_classes: Number of classes.
        ignore_label: Label of pixels that are not scored.

    Returns:
        [num_classes, num_classes] int64; rows are labels, columns predictions.
    """
    return ScoredPixels.of(labels, num_classes, ignore_label).confusion(prediction)


@dataclass(frozen=True)
class Areas:
    """Numbers of pixels per class, from which mIoU and accuracies are computed.

    Attributes:
        intersection: Pixels labelled and predicted as the class.
        prediction: Scored pixels predicted as the class.
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
    def zero(cls, num_classes: int) -> "Areas":
        """Zero pixels of every class."""
        return cls((0,) * num_classes, (0,) * num_classes, (0,) * num_classes)

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
    """Scores in percent, [0, 100], unrounded; None where undefined (zero denominator).

    Attributes:
        miou: Mean of the defined IoUs.
        pixel_accuracy: Share of scored pixels with the right class (mmsegmentation's aAcc).
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
        """Scores of dataset-level areas, as defined by mmsegmentation's ``IoUMetric``.

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
    """Segmentation scores from an int64 confusion matrix, which is summed over ranks.

    Args:
        num_classes: Number of classes.
        ignore_label: Label of pixels that are not scored.
        absent_classes: ``drop`` or ``zero``, see ``Scores.of``.
    """

    full_state_update = False
    confusion: Tensor

    def __init__(self, num_classes: int, ignore_label: int = 255, absent_classes: str = "drop") -> None:
        super().__init__()
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        self.absent_classes = absent_classes
        self.add_state("confusion", torch.zeros(num_classes, num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, labels: Tensor) -> None:
        """Add one image; prediction and labels are [H, W] integer maps, see ``confusion_matrix``."""
        self.add(confusion_matrix(prediction, labels, self.num_classes, self.ignore_label))

    def add(self, confusion: Tensor) -> None:
        """Add a confusion matrix, [C, C] int64."""
        self.confusion += confusion
        # torchmetrics resets its cached result only in update().
        self._computed = None

    def compute(self) -> dict[str, Tensor]:
        """The scores of all images so far, over all ranks inside a process group.

        Returns:
            ``miou``, ``pixel_accuracy`` and ``mean_accuracy``, scalars; ``iou`` and ``accuracy`` [C]; all in percent,
            float64, NaN where undefined. ``confusion`` [C, C] int64.
        """
        scores = Scores.of(Areas.of(self.confusion), self.absent_classes)

        def tensor(value: float | tuple[float | None, ...] | None) -> Tensor:
            values = value if isinstance(value, tuple) else (value,)
            filled = torch.tensor([math.nan if number is None else number for number in values], dtype=torch.float64)
            return filled if isinstance(value, tuple) else filled[0]

        return {
            "miou": tensor(scores.miou),
            "pixel_accuracy": tensor(scores.pixel_accuracy),
            "mean_accuracy": tensor(scores.mean_accuracy),
            "iou": tensor(scores.iou),
            "accuracy": tensor(scores.accuracy),
            "confusion": self.confusion.clone(),
        }
