"""Normalised cuts of patches (Shi & Malik 2000): the graph of similar patches and its second eigenvector."""

from typing import NamedTuple

import torch
from torch import Tensor

# The weight of an edge between unlike patches (CutLER, ``get_affinity_matrix``).
WEAK = 1e-5
# Vectors iterated together: near-equal eigenvalues, as of regions of near-equal size, are told apart within a block.
BLOCK = 8
LARGEST_BASIS = 12 * BLOCK
ROWS = 512


class Ritz(NamedTuple):
    """What an iteration has found.

    Attributes:
        vectors: [n, BLOCK], the leading approximate eigenvectors.
        error: A bound on the angle between the first and the true eigenvector, in radians.
    """

    vectors: Tensor
    error: float


class PatchGraph:
    """An image's patches, joined by 1 where their cosine exceeds τ and by 1e-5 elsewhere.

    With a cosine matrix at hand, a graph for another τ is one comparison, and generation patches costs nothing: their
    rows and columns are replaced while multiplying.

    Args:
        cosine: [n, n] cosines, float32 or float64, on any device.
        tau: Threshold.
    """

    def __init__(self, cosine: Tensor, tau: float) -> None:
        self.tau = tau
        self._edges = (cosine > tau).to(torch.float32)
        self._excluded = torch.zeros(cosine.shape[0], dtype=torch.bool, device=cosine.device)
        self._vectors: Tensor | None = None
        self._second: Tensor | None = None
        self._degrees = self._sums()

    @property
    def device(self) -> torch.device:
        """Where the graph lies."""
        return self._edges.device

    def exclude(self, patches: Tensor) -> None:
        """Set the features of ``patches``, [n] bool, to zero, in addition to those excluded before.

        Their cosines become 0: they join no patch, nor even themselves, or every patch if τ is negative.
        """
        excluded = self._excluded | patches
        if not torch.equal(excluded, self._excluded):
            self._excluded, self._second = excluded, None
            self._degrees = self._sums()

    @property
    def uniform(self) -> bool:
        """Whether all edges are alike, so that every cut is as good as any other."""
        patches = len(self._degrees)
        # A patch that is joined to none or to all but one differs from these bounds by almost 1.
        return bool((self._degrees > patches - 0.5).all() or (self._degrees < patches * WEAK + 0.5).all())

    def second_eigenvector(self) -> Tensor:
        """The vector x of (D - A) x = λ D x with the second smallest λ, [n] float64, of either sign, D-normalised.

        Block Krylov iteration in float32 from fixed vectors and the last ones found; where the eigenvalues lie so close
        that float32 cannot separate them, it continues in float64. If they are equal, any vector of theirs may come.
        """
        if self._second is None:
            self._second = self._solve()
        return self._second

    def _sums(self) -> Tensor:
        """D's diagonal, [n, 1] float64."""
        return self._multiply(torch.ones(len(self._edges), 1, dtype=torch.float64, device=self._edges.device))

    def _solve(self) -> Tensor:
        degrees = self._degrees
        if len(degrees) <= 2 * LARGEST_BASIS:
            identity = torch.eye(len(degrees), dtype=torch.float64, device=degrees.device)
            scaled = self._multiply(identity) / degrees.sqrt() / degrees.sqrt().T
            vectors = torch.linalg.eigh(scaled).eigenvectors.flip(1)[:, 1 : 1 + BLOCK]
        else:
            start = _start(len(degrees), degrees.device)
            if self._vectors is not None:
                # Fresh vectors stay beside the old ones, which alone could all be blind to the new second one.
                start = torch.cat([self._vectors.double(), start], dim=1)
            found = self._iterate(start.float(), tolerance=5e-5)
            if found.error > 5e-5:
                found = self._iterate(found.vectors.double(), tolerance=1e-6)
            vectors = self._vectors = found.vectors
        return (vectors[:, :1].double() / degrees.sqrt()).flatten()

    def _multiply(self, vectors: Tensor) -> Tensor:
        """A @ vectors, [n, b], with A's excluded rows and columns as if the cosines had been computed anew."""
        kept = (~self._excluded)[:, None].to(vectors.dtype)
        # Only some rows at a time are turned to float64, if that is what the vectors are.
        rows = self._edges.split(ROWS if vectors.dtype == torch.float64 else len(self._edges))
        joined = kept * torch.cat([some.to(vectors.dtype) @ (kept * vectors) for some in rows])
        total = vectors.sum(dim=0)
        if self.tau < 0:
            joined = joined + (1 - kept) * total + kept * ((1 - kept) * vectors).sum(dim=0)
        return WEAK * total + (1 - WEAK) * joined

    def _iterate(self, start: Tensor, tolerance: float, products: int = 100) -> Ritz:
        """Leading eigenvectors of P = D^-1/2 A D^-1/2 but for the first, which is D^1/2 1.

        The basis grows by the residuals of the leading vectors, which before any restart is the Krylov space of
        ``start``, and is cut back to its best vectors when it is full.

        Args:
            start: [n, BLOCK or more], float32 or float64, the precision of the iteration.
            tolerance: The angle at which to stop.
            products: The most products with P.
        """
        root = self._degrees.sqrt()
        first = (root / root.norm()).to(start.dtype)
        scale = (1 / root).to(start.dtype)
        # What rounding leaves of a residual; going on below it is in vain.
        floor = 8 * torch.finfo(start.dtype).eps
        basis = image = start.new_zeros(start.shape[0], 0)
        block = _orthonormal(start, first)
        vectors, error = block, float("inf")
        for _ in range(products):
            basis = torch.cat([basis, block], dim=1)
            image = torch.cat([image, scale * self._multiply(scale * block)], dim=1)
            small = (basis.T @ image).double()
            values, turns = torch.linalg.eigh((small + small.T) / 2)
            values, turns = values.flip(0), turns.flip(1).to(start.dtype)
            vectors = basis @ turns[:, :BLOCK]
            residuals = image @ turns[:, :BLOCK] - vectors * values[:BLOCK].to(start.dtype)
            residual, gap = residuals[:, 0].norm().item(), (values[0] - values[1]).item()
            error = residual / max(gap, floor)
            if error < tolerance or residual < floor:
                break
            if basis.shape[1] + BLOCK > LARGEST_BASIS:
                basis, image = basis @ turns[:, : 3 * BLOCK], image @ turns[:, : 3 * BLOCK]
            block = _orthonormal(residuals, torch.cat([first, basis], dim=1))
        return Ritz(vectors, error)


def _start(patches: int, device: torch.device) -> Tensor:
    """[patches, BLOCK] fixed pseudo-random numbers, the same on every device."""
    return torch.randn(patches, BLOCK, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device)


def _orthonormal(vectors: Tensor, against: Tensor) -> Tensor:
    """An orthonormal basis of what ``vectors`` [n, b] add to the orthonormal columns of ``against``."""
    for _ in range(2):
        vectors = vectors / vectors.norm(dim=0).clamp(min=torch.finfo(vectors.dtype).tiny)
        vectors = torch.linalg.qr(vectors - against @ (against.T @ vectors)).Q
    return vectors
