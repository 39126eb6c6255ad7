r"""Through which Gaussian noise a purifier sees the image: what a certificate is measured in
(`evidence.certify`).

`spread` knows the purifiers to which an image only comes through noise whose level does not depend
on it, and says why there is no such noise for others. A purifier of yours is entered with
``@spread.register``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch

import torch
from torch import Tensor, nn

from hetpure_core import HetPure, Noise, Schedule, Uniform, draws_of
from hetpure_lab.common import specs
from hetpure_lab.defences.densepure import DensePure
from hetpure_lab.defences.interface import DEFENCES
from hetpure_lab.defences.noise_map import NoiseMap

DEPENDS = (
    "the mask of kind {!r} depends on the image: a perturbation changes who gets how much noise, "
    "and the theorem of randomised smoothing does not hold"
)


class NoCertificate(ValueError):
    """There is no proof for this purifier; the message says why."""


@dataclass(frozen=True)
class Spread:
    """Standard deviations `sigma` (1, h, w), or (1, 1, 1), of the noise beside an image in [0, 1];
    `drawn`: which pixel has which is drawn anew for every purification."""

    sigma: Tensor
    drawn: bool = False

    @property
    def inner(self) -> float:
        """The l2 radius of a certificate per unit of its margin: the smallest sigma."""
        return float(self.sigma.min())

    @property
    def equal_volume(self) -> float:
        """The radius, per unit of margin, of the ball with the volume of the certified set: the
        geometric mean of sigma, or `inner` where levels are drawn."""
        return self.inner if self.drawn else float(self.sigma.log().mean().exp())

    def length(self, delta: Tensor) -> Tensor:
        """Perturbations (n, 3, h, w) measured in the noise: a certificate covers what is at most
        its margin (n,)."""
        sigma = torch.full_like(self.sigma[..., :1, :1], self.inner) if self.drawn else self.sigma
        return (delta / sigma.to(delta)).flatten(1).norm(dim=1)


def sigma_of(t: int | Tensor, schedule: Schedule) -> Tensor:
    r"""The noise of time t beside an image in [0, 1]: :math:`\tfrac12\sqrt{(1 - \bar\alpha_t) /
    \bar\alpha_t}`, half of what it is on [-1, 1]."""
    abar = schedule.abar[t]
    return 0.5 * ((1 - abar) / abar).sqrt()


@singledispatch
def spread(
    purifier: object, schedule: Schedule, size: tuple[int, int], mask: Tensor | None = None
) -> Spread:
    """Through which noise `purifier` sees an image of `size`, under `mask` (1, 1, h, w) if that is
    held fixed. Raises `NoCertificate` where it also sees the image itself."""
    name = specs.describe(purifier, DEFENCES)
    raise NoCertificate(f"{name} is not known to see the image through its noise alone")


@spread.register(Uniform)
@spread.register(DensePure)
def _(
    purifier: Uniform | DensePure,
    schedule: Schedule,
    size: tuple[int, int],
    mask: Tensor | None = None,
) -> Spread:
    """One noisy image, whatever becomes of it."""
    return Spread(sigma_of(schedule.index(purifier.t), schedule).reshape(1, 1, 1))


@spread.register(NoiseMap)
def _(
    purifier: NoiseMap, schedule: Schedule, size: tuple[int, int], mask: Tensor | None = None
) -> Spread:
    """The map of the first loop; further ones never see the image."""
    t_l, t_s = schedule.index(purifier.t_l), schedule.index(purifier.t_s)
    if purifier.mask_kind == "random":
        return Spread(sigma_of(torch.tensor([[[t_l, t_s]]]), schedule), drawn=True)
    if purifier.mask_kind not in ("fixed", "all", "none"):
        raise NoCertificate(DEPENDS.format(purifier.mask_kind))
    blank = torch.zeros(1, 3, *size)
    mask = purifier.mask(blank, nn.Identity(), [], Noise(0, [0], [0]))
    return Spread(sigma_of(torch.where(mask[0] > 0.5, t_l, t_s), schedule))


@spread.register(HetPure)
def _(
    purifier: HetPure, schedule: Schedule, size: tuple[int, int], mask: Tensor | None = None
) -> Spread:
    """Inside the mask the image is seen once, at t_l; outside by every draw that brings it in
    again (Eq 6), each of noise of its own: precisions add up."""
    if mask is None and purifier.mask_kind in ("all", "none"):
        mask = torch.full((1, 1, *size), float(purifier.mask_kind == "all"))
    if mask is None:
        raise NoCertificate(f"{DEPENDS.format(purifier.mask_kind)}; hold one with --fixed-mask")
    stage_1, _ = purifier.grid(schedule)
    names = draws_of(purifier, schedule, (1, 3, *size))
    again = [int(name.split()[1]) for name in names if name.startswith("known ")]
    weak = [stage_1[-1]] if "start weak" in names else []
    precision = sum(sigma_of(t, schedule) ** -2 for t in weak + again)
    inside = sigma_of(stage_1[0], schedule)
    return Spread(torch.where(mask[0] > 0.5, inside, precision**-0.5))
