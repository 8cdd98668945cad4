"""Fully connected CRF (Krähenbühl & Koltun, Efficient Inference in Fully Connected CRFs, NeurIPS 2011), on the CPU.

Parameters and unary terms of CutLER (facebookresearch/CutLER, ``maskcut/crf.py``) and of FreeSeg-Diff
(bcorrad/FreeSegDiff-release, ``crf.py``), both over pydensecrf; here over its maintained fork ``pydensecrf2``.
"""

from collections.abc import Iterable
from importlib.util import find_spec
from types import ModuleType
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from harness.method.part import Requirement
from harness.method.refiner import Refiner
from harness.system.errors import ConfigurationError

Unary = Literal["softmax", "labels", "probability"]

# The least probability whose logarithm is taken, as pydensecrf's.
FLOOR = 1e-5


class DenseCRF(Refiner):
    """A two-label CRF per plane: the plane's class against the rest.

    A CRF over all classes would couple them, and refining the classes of an image in chunks would no longer give
    what refining them together gives. So each plane is a foreground on its own, and comes back as the posterior of
    that foreground after the last mean-field iteration. The defaults are CutLER's.

    Args:
        unary: How a score s becomes the foreground's probability. ``softmax``: exp(s) / (exp(s) + exp(1 - s)), so
            that masks give 0.731 and 0.269 (CutLER). ``labels``: ``label_certainty`` where s > 0.5, its complement
            elsewhere (FreeSeg-Diff). ``probability``: s itself, in [0, 1].
        label_certainty: For ``labels``, in (0, 1).
        gaussian_xy: Standard deviation in pixels of the kernel on positions.
        gaussian_weight: Its weight (``compat``).
        bilateral_xy: Standard deviation in pixels of the kernel on positions and colours.
        bilateral_rgb: Its standard deviation in grey levels of [0, 255].
        bilateral_weight: Its weight.
        iterations: Mean-field iterations.
    """

    def __init__(
        self,
        unary: Unary = "softmax",
        label_certainty: float = 0.9,
        gaussian_xy: float = 3,
        gaussian_weight: float = 7,
        bilateral_xy: float = 50,
        bilateral_rgb: float = 5,
        bilateral_weight: float = 10,
        iterations: int = 10,
    ) -> None:
        super().__init__()
        if not 0 < label_certainty < 1:
            raise ConfigurationError(f"DenseCRF: label_certainty must lie between 0 and 1, not be {label_certainty}")
        if min(gaussian_xy, bilateral_xy, bilateral_rgb) <= 0 or iterations < 1:
            raise ConfigurationError("DenseCRF: standard deviations and iterations must be positive")
        self.unary = unary
        self.label_certainty = label_certainty
        self.gaussian_xy, self.gaussian_weight = gaussian_xy, gaussian_weight
        self.bilateral_xy, self.bilateral_rgb, self.bilateral_weight = bilateral_xy, bilateral_rgb, bilateral_weight
        self.iterations = iterations

    def requirements(self, flag: str) -> Iterable[Requirement]:
        """See ``Part.requirements``."""
        here = find_spec("pydensecrf") is not None
        yield Requirement("package", "pydensecrf2", None if here else "'pip install pydensecrf2' installs it")

    def build(self) -> None:
        """Check that pydensecrf is installed.

        Raises:
            ConfigurationError: It is not; the message says what to install.
        """
        _densecrf()

    @classmethod
    def cutler(cls) -> "DenseCRF":
        """MaskCut's post-processing, for images of 480x480 pixels."""
        return cls()

    @classmethod
    def freeseg_diff(cls) -> "DenseCRF":
        """FreeSeg-Diff's refinement of one cluster's mask."""
        return cls(
            unary="labels",
            label_certainty=0.9,
            gaussian_xy=20,
            gaussian_weight=5,
            bilateral_xy=20,
            bilateral_rgb=20,
            bilateral_weight=100,
        )

    @torch.no_grad()
    def forward(self, image: Tensor, planes: Tensor) -> Tensor:
        """Refine planes; the work is done on the CPU.

        Args:
            image: [3, h, w] uint8 RGB; the kernels compare its grey levels, so floats are not taken.
            planes: [C, h, w] float scores, best in [0, 1].

        Returns:
            [C, h, w] float32 in [0, 1] on the device of ``planes``, the posterior of each class against the rest.

        Raises:
            ConfigurationError: The image is not uint8, or the planes have another size.
        """
        if image.dtype != torch.uint8 or image.shape[1:] != planes.shape[1:]:
            raise ConfigurationError(
                f"DenseCRF takes a uint8 image and planes of its size, not {image.dtype} {tuple(image.shape)} "
                f"and planes {tuple(planes.shape)}"
            )
        pixels = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
        refined = torch.empty(planes.shape, dtype=torch.float32)
        for plane, result in zip(planes, refined, strict=True):
            result.copy_(torch.from_numpy(self._posterior(pixels, plane.float().cpu().numpy())))
        return refined.to(planes.device)

    def mask(self, image: Tensor, mask: Tensor) -> Tensor:
        """The more probable label of each pixel: [3, h, w] uint8 and a bool [h, w] -> bool [h, w]."""
        return self(image, mask[None].float())[0] > 0.5

    def _foreground(self, plane: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.unary == "labels":
            return np.where(plane > 0.5, self.label_certainty, 1 - self.label_certainty).astype(np.float32)
        if self.unary == "softmax":
            return (1 / (1 + np.exp(1 - 2 * plane))).astype(np.float32)
        return plane

    def _posterior(self, pixels: NDArray[np.uint8], plane: NDArray[np.float32]) -> NDArray[np.float32]:
        """[h, w, 3] uint8 and [h, w] scores -> [h, w] foreground posterior."""
        height, width = plane.shape
        foreground = self._foreground(plane)
        energies = -np.log(np.clip(np.stack([1 - foreground, foreground]), FLOOR, 1)).astype(np.float32)
        crf = _densecrf().DenseCRF2D(width, height, 2)
        crf.setUnaryEnergy(np.ascontiguousarray(energies.reshape(2, -1)))
        crf.addPairwiseGaussian(sxy=self.gaussian_xy, compat=self.gaussian_weight)
        crf.addPairwiseBilateral(
            sxy=self.bilateral_xy, srgb=self.bilateral_rgb, rgbim=pixels, compat=self.bilateral_weight
        )
        return np.asarray(crf.inference(self.iterations), dtype=np.float32)[1].reshape(height, width)


def refine_proposal(crf: DenseCRF, image: Tensor, mask: Tensor, agreement: float = 0.5) -> Tensor:
    """MaskCut's post-processing of one mask (CutLER ``maskcut/maskcut.py``): CRF, holes filled, checked against itself.

    Args:
        crf: ``DenseCRF.cutler()`` in the reference.
        image: [3, h, w] uint8 RGB.
        mask: [h, w] bool.
        agreement: A result whose IoU with ``mask`` is smaller is emptied. Two empty masks agree on nothing, and stay
            empty.

    Returns:
        [h, w] bool.
    """
    refined = torch.from_numpy(ndimage.binary_fill_holes(crf.mask(image, mask).cpu().numpy())).to(mask.device)
    union = (refined | mask).sum()
    # An IoU of 0 / 0 is no smaller than any bound, in the reference as here.
    disagrees = (refined & mask).sum() < agreement * union
    return torch.where(disagrees, torch.zeros_like(refined), refined)


def _densecrf() -> ModuleType:
    try:
        from pydensecrf import densecrf
    except ImportError as error:
        raise ConfigurationError(
            "the dense CRF needs pydensecrf2, which is compiled when installed (a C++ compiler is needed): "
            "`pip install pydensecrf2`"
        ) from error
    return densecrf
