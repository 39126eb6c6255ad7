"""ScoreOpt (Zhang et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from hetpure_core import Denoiser, Noise, Plan, Schedule
from hetpure_lab.defences.guidance import guidance, residual
from hetpure_lab.defences.interface import register
from hetpure_lab.defences.sampling import Rival, Scene, not_negative


@register("scoreopt")
@dataclass(frozen=True)
class ScoreOpt(Rival):
    r"""ScoreOpt: instead of sampling, optimise the image itself until the denoiser has nothing to
    change, on fresh noise each time.

    `steps` steps of Adam with rate `rate` on :math:`\|D(x + \sigma z; \sigma) - x\|^2`. Zhang et
    al. 2023, released settings against BPDA+EOT: 5 steps, rate 0.1, sigma about 0.5 in [-1, 1]
    (about t = 0.14); they draw sigma in a band of 0.1 around it, here it is fixed; they clip the
    result. The gradient of the defence passes through the whole optimisation, Adam's moments
    included; their PGD differentiates one-shot denoising instead, which is another defence and no
    `surrogate` here.
    """

    t: float = 0.14
    steps: int = 5
    rate: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        not_negative(self, "rate")

    def plan(
        self, x_adv: Tensor, mask: None, eps: Denoiser, noise: Noise, schedule: Schedule
    ) -> Plan:
        return [
            (0, partial(self.optimise, Scene(x_adv, eps, noise, schedule), schedule.index(self.t)))
        ]

    def optimise(self, scene: Scene, t: int, x: Tensor) -> Tensor:
        first, second = torch.zeros_like(x), torch.zeros_like(x)
        for k in range(1, self.steps + 1):
            gradient = guidance(partial(residual, scene, t, z=scene.noise(f"optimise {k}", x)), x)
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient.square()
            x = x - self.rate * first / (1 - 0.9**k) / ((second / (1 - 0.999**k) + 1e-16).sqrt())
        return x

    def calls(self, schedule: Schedule) -> int:
        return self.steps
