"""MimicDiffusion (Song et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor

from hetpure_core import Denoiser, Noise, Plan, Schedule, x0_xt
from hetpure_lab.defences.guidance import guidance
from hetpure_lab.defences.interface import Capabilities, register
from hetpure_lab.defences.sampling import Rival, Scene, not_negative


@register("mimic", Capabilities(published={"steps": 100}))
@dataclass(frozen=True)
class MimicDiffusion(Rival):
    r"""MimicDiffusion: start from pure noise and let only guidance lead back to the input, so that
    its perturbation is never diffused.

    :math:`x_s \leftarrow x_s - \rho \nabla_{\hat x_0} [\ell(\hat x_0 - x) + \ell(\mathrm{up}_4(\hat
    x_0 - x)) / 16]` in the middle of the chain (20 % to 90 %), the network outside the graph as
    published. Song et al. 2024: 100 DDPM steps from T, :math:`\ell = \|\cdot\|_1`, 3000 times its
    mean over a batch of 16 and 32 x 32 pixels, which is `rho` = 3000 / (16 * 32 * 32) = 0.183 per
    pixel. Adaptations: the small denoiser knows no time above 0.42 T, so pure noise enters at `t`;
    `rho` does not depend on the batch, and ours is 0.1, since a sign overshoots by its own length
    and fewer steps follow the guided ones to smooth that; up_4 is bilinear, theirs copies the
    nearest pixel; `smooth` rounds the kink, :math:`\ell = \sum \sqrt{d^2 + \mathrm{smooth}^2}`.
    With ``smooth=0``, as published, the guidance is a sign: the exact gradient of the whole defence
    is zero almost everywhere and no gradient attack can start, which is masking and not robustness.
    """

    t: float = 0.4
    steps: int = 30
    rho: float = 0.1
    smooth: float = 0.05

    def __post_init__(self):
        super().__post_init__()
        not_negative(self, "rho", "smooth")

    def plan(
        self, x_adv: Tensor, mask: None, eps: Denoiser, noise: Noise, schedule: Schedule
    ) -> Plan:
        scene, times = Scene(x_adv, eps, noise, schedule), self.times(schedule)
        guided = range(round(0.2 * (len(times) - 1)), round(0.9 * (len(times) - 1)))
        steps = [
            (s, partial(self.step, scene, t, s, k in guided))
            for k, (t, s) in enumerate(pairwise(times))
        ]
        return [(times[0], lambda x: noise("start", x))] + steps

    def step(self, scene: Scene, t: int, s: int, guided: bool, x: Tensor) -> Tensor:
        x0 = x0_xt(x, t, scene.predict(x, t), scene.schedule)
        x = scene.ancestral(x, t, s, x0)
        return (
            x - self.rho * guidance(lambda y, x_adv: self.distance(y - x_adv), x0, scene.x_adv)
            if guided
            else x
        )

    def distance(self, d: Tensor) -> Tensor:
        """The rounded l1 norm of d and of its fourfold enlargement (n,)."""
        size = lambda v: (v.square() + self.smooth**2).sqrt() if self.smooth else v.abs()
        large = F.interpolate(d, scale_factor=4, mode="bilinear", align_corners=False)
        return size(d).sum((1, 2, 3)) + size(large).sum((1, 2, 3)) / 16
