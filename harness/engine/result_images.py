"""The images that a run saves: label maps, overlays, explanations."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from harness.data.datamodule import Sample
from harness.engine.overlay import save_comparison, save_explanation, save_indexed
from harness.method.method import SegmentationMethod


@dataclass(frozen=True)
class ResultImages:
    """Files are named by the image's number: ids are the user's text.

    Attributes:
        label_maps: Save every predicted label map as an indexed PNG.
        overlays: Number of first images saved beside ground truth and prediction.
        explanations: Number of first images saved with the evidence for each class, for methods that support it.
    """

    label_maps: bool = False
    overlays: int = 0
    explanations: int = 0

    def save(self, folder: Path, method: SegmentationMethod, sample: Sample, predicted: Tensor) -> None:
        """Write the requested files of one image below ``folder``."""
        name, vocabulary = f"{sample.number:06d}.png", method.vocabulary
        labels = predicted.cpu().numpy()
        if self.label_maps:
            save_indexed(folder / "label_maps" / name, labels, vocabulary)
        if sample.number >= max(self.overlays, self.explanations):
            return
        image = sample.original.permute(1, 2, 0).cpu().numpy()
        if sample.number < self.overlays:
            truth = {} if sample.labels is None else {"ground truth": sample.labels.cpu().numpy()}
            save_comparison(folder / "overlays" / name, image, {**truth, "prediction": labels}, vocabulary)
        if sample.number < self.explanations:
            evidence = method.explain(sample, predicted)
            if evidence:
                save_explanation(folder / "explanations" / name, image, labels, evidence, vocabulary)
