"""Langevin purification (Hill et al. 2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from hetpure_core import Denoiser, Noise, Plan, Schedule, Uniform
from hetpure_lab.defences.interface import Capabilities, register
from hetpure_lab.defences.sampling import Rival, Scene, not_negative


@register("langevin", Capabilities(published={"stride": 1}))
@dataclass(frozen=True)
class Langevin(Rival):
    r"""Langevin purification (EBM-LD): a long random walk that forgets the input slowly, :math:`x
    \leftarrow x + \tfrac12 \eta^2\, \mathrm{score}(x) + \eta z`.

    Hill et al. 2021: eta = 0.01, 1500 steps on an energy-based model in [-1, 1]; here the score is
    that of the unscaled image at the fixed time `t`, -eps / sigma_t, and one call makes `stride` of
    the `length` steps (30 calls; ``stride=1`` is the published chain).
    """

    t: float = 0.03
    eta: float = 0.01
    length: int = 1500
    stride: int = 50

    def __post_init__(self):
        Uniform(self.t, self.length)
        if not 1 <= self.stride <= self.length:
            raise ValueError(f"stride must be from 1 to {self.length}, not {self.stride}")
        not_negative(self, "eta")

    def plan(
        self, x_adv: Tensor, mask: None, eps: Denoiser, noise: Noise, schedule: Schedule
    ) -> Plan:
        scene, t = Scene(x_adv, eps, noise, schedule), schedule.index(self.t)
        return [(t, partial(self.step, scene, t, k)) for k in range(self.calls(schedule))]

    def step(self, scene: Scene, t: int, k: int, x: Tensor) -> Tensor:
        variance = self.eta**2 * min(self.stride, self.length - k * self.stride)
        score = -scene.unscaled_noise(x, t) / scene.sigma(t)
        return x + variance / 2 * score + math.sqrt(variance) * scene.noise(f"walk {k}", x)

    def calls(self, schedule: Schedule) -> int:
        return math.ceil(self.length / self.stride)
