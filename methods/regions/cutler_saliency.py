"""One saliency map of CutLER's objects (CLIP-DIY, Table 4 and Sec. A.2)."""

import torch
from torch import Tensor

from methods.regions.cascade_rcnn import Detections
from methods.regions.cutler import CutLER, network_size, paste, resize
from methods.regions.found import Saliency


class CutLERSaliency(Saliency):
    """M_CUT: the sum of all masks, each weighted by its score, divided by its maximum (Sec. A.2, Eq. 5).

    An image without objects has a map of zeros, on which the paper is silent.

    Args:
        detector: CutLER; the paper discards masks with a score below 0.3.
    """

    def __init__(self, detector: CutLER) -> None:
        super().__init__()
        self.detector = detector

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """[3, H, W] uint8 RGB -> [H, W] float32 in [0, 1]."""
        detector = self.detector
        height, width = int(image.shape[1]), int(image.shape[2])
        seen = resize(image, network_size(height, width, detector.size, detector.max_size))
        found = detector.network(seen.float(), detector.score)
        total = torch.zeros(height, width, device=image.device)
        for box, score, mask in zip(*found, strict=True):
            # Alone, since pasting leaves out masks that are empty.
            for pasted in paste(Detections(box[None], score[None], mask[None]), seen, image):
                total += score * pasted
        return total / total.max().clamp(min=torch.finfo().tiny)
