"""PAMR, pixel-adaptive mask refinement (Araslanov & Roth, Single-Stage Semantic Segmentation from Image Labels, 2020).

Every iteration replaces a pixel's scores by a mean over pixels around it, weighted by how alike their colours are.
Settings and conventions of kakaobrain/tcl (``models/tcl/pamr.py``), which the papers here refine with.
"""

import warnings
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.method.refiner import Refiner
from harness.method.windows import class_chunks
from harness.system.errors import ConfigurationError

DILATIONS = (1, 2, 4, 8, 12, 24)


class PAMR(Refiner):
    """PAMR with the affinity of an image computed once, and its iterations as products with one sparse matrix.

    The affinity of a pixel p to its 8 neighbours n at each dilation is

        softmax over all n of mean over channels of -|I(p) - I(n)| / (1e-8 + 0.1 std(p)),

    where std, unbiased, runs over p and its 8 neighbours at every dilation (p counts once per dilation) and the image
    is continued by its border pixels. p itself has no weight. Scaling or shifting a channel changes nothing, so the
    image may be in [0, 255] or normalised.

    The last image's affinity is kept (two 4-byte numbers per pixel and neighbour, 77 MB at 448x448), since the engine
    refines the classes of one image in several calls.

    Args:
        iterations: How often scores are averaged; 0 returns them as they are.
        dilations: Distances of the neighbours in pixels.
    """

    takes_floats = True

    def __init__(self, iterations: int = 10, dilations: Sequence[int] = DILATIONS) -> None:
        super().__init__()
        if iterations < 0 or not dilations or min(dilations) < 1:
            raise ConfigurationError("PAMR: iterations must be at least 0, and dilations one or more positive integers")
        self.iterations = iterations
        self.dilations = tuple(dilations)
        self._seen: tuple[Tensor, Tensor] | None = None
        self._grid: tuple[tuple[int, int], Tensor, Tensor] | None = None

    @torch.no_grad()
    def forward(self, image: Tensor, planes: Tensor) -> Tensor:
        """Refine planes.

        Args:
            image: [3, h, w], uint8 or float.
            planes: [C, h', w'] float; another size than the image's is first brought to it, bilinearly with
                align_corners=True.

        Returns:
            [C, h, w] float32. No class affects another.
        """
        with torch.autocast(planes.device.type, enabled=False):
            size = (int(image.shape[1]), int(image.shape[2]))
            planes = planes.float()
            if tuple(planes.shape[1:]) != size:
                planes = F.interpolate(planes[None], size, mode="bilinear", align_corners=True)[0]
            if self.iterations == 0:
                return planes
            weights = self._weights(image)
            average = self._multiply if weights.is_sparse_csr else self._shift_and_add
            # Two chunks are alive at once, whatever the number of classes.
            return torch.cat([average(weights, planes[chunk]) for chunk in class_chunks(planes.shape[0], *size)])

    def _offsets(self) -> Iterator[tuple[int, int]]:
        """(down, right) of every neighbour."""
        for distance in self.dilations:
            for down in (-distance, 0, distance):
                for right in (-distance, 0, distance):
                    if down or right:
                        yield down, right

    def _neighbours(self, planes: Tensor) -> Iterator[Tensor]:
        """For every offset, [C, h, w]: the value of each pixel's neighbour, beyond the border that of the border."""
        reach = max(self.dilations)
        height, width = planes.shape[1:]
        padded = F.pad(planes[None], (reach, reach, reach, reach), mode="replicate")[0]
        for down, right in self._offsets():
            top, left = reach + down, reach + right
            yield padded[:, top : top + height, left : left + width]

    def affinity(self, image: Tensor) -> Tensor:
        """[3, h, w] -> [neighbours, h, w] float32, a distribution over each pixel's neighbours."""
        image = image.float()
        total, squares = torch.zeros_like(image), torch.zeros_like(image)
        for neighbour in self._neighbours(image):
            difference = neighbour - image
            total += difference
            squares.addcmul_(difference, difference)
        # Moments about the pixel itself: its own zeros in them keep the subtraction well-conditioned.
        samples = 9 * len(self.dilations)
        variance = (squares - total.square() / samples).clamp_(min=0) / (samples - 1)
        scale = -1 / (image.shape[0] * (1e-8 + 0.1 * variance.sqrt()))
        logits = [((each - image).abs_() * scale).sum(dim=0) for each in self._neighbours(image)]
        return torch.stack(logits).softmax(dim=0)

    def _weights(self, image: Tensor) -> Tensor:
        """The image's affinity, as planes or, where that is faster, as a sparse matrix [pixels, pixels]."""
        if self._seen is not None:
            seen, weights = self._seen
            # Compared by content: an address or object may be reused for another image.
            if seen.device == image.device and seen.dtype == image.dtype and torch.equal(seen, image):
                return weights
        self._seen = None
        weights = self.affinity(image)
        # PyTorch multiplies sparse matrices on the CPU by MKL alone.
        if image.device.type == "cpu" and torch.backends.mkl.is_available():
            weights = self._as_matrix(weights)
        self._seen = (image.clone(), weights)
        return weights

    def _as_matrix(self, affinity: Tensor) -> Tensor:
        """[neighbours, h, w] -> sparse CSR [h w, h w]; a border pixel that is met several times has several entries."""
        neighbours, height, width = affinity.shape
        pixels = height * width
        if self._grid is None or self._grid[0] != (height, width):
            rows, columns = torch.arange(height), torch.arange(width)
            indices = torch.empty(pixels, neighbours, dtype=torch.int32)
            for i, (down, right) in enumerate(self._offsets()):
                row, column = (rows + down).clamp_(0, height - 1), (columns + right).clamp_(0, width - 1)
                indices[:, i] = (row[:, None] * width + column).flatten()
            starts = torch.arange(0, pixels * neighbours + 1, neighbours, dtype=torch.int32)
            self._grid = ((height, width), starts, indices.flatten())
        _, starts, indices = self._grid
        values = affinity.flatten(1).T.contiguous().flatten()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*(CSR tensor support is in beta|invariant checks).*")
            return torch.sparse_csr_tensor(starts, indices, values, (pixels, pixels), check_invariants=False)

    def _multiply(self, matrix: Tensor, planes: Tensor) -> Tensor:
        scores = planes.flatten(1).T.contiguous()
        for _ in range(self.iterations):
            scores = matrix @ scores
        return scores.T.reshape(planes.shape)

    def _shift_and_add(self, affinity: Tensor, planes: Tensor) -> Tensor:
        for _ in range(self.iterations):
            refined = torch.zeros_like(planes)
            for neighbour, weight in zip(self._neighbours(planes), affinity, strict=True):
                refined.addcmul_(neighbour, weight)
            planes = refined
        return planes
