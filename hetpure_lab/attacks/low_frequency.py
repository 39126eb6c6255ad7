"""An attack that may only paint broad strokes: perturbations of low spatial frequency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from hetpure_core import Noise
from hetpure_lab.attacks.pgd import PGD
from hetpure_lab.attacks.threat import length, register

ROUNDS = 10  # of alternating projections before a perturbation is shrunk into the cube


@register("low-frequency")
@dataclass(frozen=True)
class LowFrequency(PGD):
    r"""PGD+EOT whose perturbation has only the lowest `share` of the frequencies of the discrete
    cosine transform along each axis, as in Guo et al. 2019 (low frequency adversarial
    perturbation).

    The perturbation is in the subspace *and* in the ball of radius `eps`, in pixels: of the l2 ball
    it is projected exactly; of the l-infinity ball by alternating projections, and what then leaves
    the ball is shrunk into it, which keeps the frequencies. Clipping to [0, 1] and rounding to 8
    bits come after, and are all that is left above the cut: the ball is what the record promises.
    A low-frequency image survives denoising, so a defence that stops the whole ball's best attack
    of radius 8/255 may not stop this one at 16/255. The null control is random noise in the same
    subspace, of norm `eps`. DiffBreak's attack of that name bounds a perceptual distance instead,
    and filters adaptively..
    """

    strength: ClassVar[int | None] = 1  # it uses a part of the ball: a whole one may do better

    share: float = 0.25

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.share <= 1:
            raise ValueError(f"share is that of the kept frequencies in (0, 1], not {self.share}")

    def low(self, delta: Tensor) -> Tensor:
        """The nearest perturbation of low frequency (n, c, h, w)."""
        rows, columns = (
            projector(size, max(1, math.ceil(self.share * size))).to(delta)
            for size in delta.shape[-2:]
        )
        return rows @ delta @ columns

    def project(self, x: Tensor, images: Tensor) -> Tensor:
        """A point of low frequency in the ball, then in [0, 1]."""
        delta = x - images
        if self.norm == "Linf":
            for _ in range(ROUNDS):
                delta = self.low(delta).clamp(-self.eps, self.eps)
        return (images + self.within(self.low(delta))).clamp(0, 1)

    def within(self, delta: Tensor) -> Tensor:
        """Perturbations shrunk into the ball where they are outside."""
        return delta * (self.eps / length(delta, self.norm).clamp(min=max(self.eps, 1e-12)))

    def ascent(self, gradient: Tensor) -> Tensor:
        return super().ascent(self.low(gradient))

    def start(self, images: Tensor, ids: Sequence, tag: str) -> Tensor:
        if not self.random_start:
            return images.clone()
        return self.null(images, ids, f"start {tag}")

    def null(self, images: Tensor, ids: Sequence, seed: int | str) -> Tensor:
        """Random noise of low frequency and norm `eps`, keyed by image, clipped to [0, 1]."""
        delta = self.low(Noise(seed, ids, [0] * len(images))("direction", images))
        delta = delta * (self.eps / length(delta, self.norm).clamp(min=1e-12))
        return (images + delta).clamp(0, 1)


@lru_cache(maxsize=32)
def projector(size: int, kept: int) -> Tensor:
    """The projection (size, size) of a row of pixels onto its `kept` lowest cosines (DCT-II)."""
    place = torch.arange(size, dtype=torch.float64) + 0.5
    order = torch.arange(kept, dtype=torch.float64)[:, None]
    waves = torch.cos(math.pi * order * place / size)
    waves = waves / waves.norm(dim=1, keepdim=True)
    return waves.T @ waves
