"""Adaptive denoising purification (Yoon et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from hetpure_core import Denoiser, Noise, Plan, Schedule
from hetpure_lab.defences.interface import register
from hetpure_lab.defences.sampling import Rival, Scene, not_negative


@register("adp")
@dataclass(frozen=True)
class ADP(Rival):
    r"""Adaptive denoising purification: noise, then a few steps along the score whose length
    follows the curvature.

    :math:`x \leftarrow x + \alpha s(x)`, :math:`\alpha = \kappa \lambda / (1 - z)`, :math:`z =
    \langle s(x + \lambda s), s \rangle / \|s\|^2`; an image rests once alpha is below 1e-3. Yoon et
    al. 2021, in [0, 1]: noise 0.25, lambda = 1e-3, kappa = 0.05, at most 10 steps, alpha in [1e-5,
    0.1], the mean of 10 copies. Adaptation: their score network knows no time; here the score is
    that of the unscaled image at the fixed time `t` whose sigma_t is about their noise, for which
    kappa is larger. No clip to [0, 1], and the copies are the votes that every row gets. Two calls
    per step.
    """

    t: float = 0.14
    steps: int = 10
    kappa: float = 0.15
    probe: float = 1e-3

    def __post_init__(self):
        super().__post_init__()
        not_negative(self, "kappa", "probe")

    def plan(
        self, x_adv: Tensor, mask: None, eps: Denoiser, noise: Noise, schedule: Schedule
    ) -> Plan:
        scene, t = Scene(x_adv, eps, noise, schedule), schedule.index(self.t)
        start = (t, lambda x: x + scene.sigma(t) * noise("start", x))
        return [start] + [(t, partial(self.step, scene, t))] * self.steps

    def step(self, scene: Scene, t: int, x: Tensor) -> Tensor:
        unit = 4.0  # a step length in [0, 1] images is four times as long in [-1, 1]
        score = lambda y: -scene.unscaled_noise(y, t) / scene.sigma(t)
        s, probe = score(x), unit * self.probe
        bend = 1 - _dot(score(x + probe * s), s) / _dot(s, s)
        alpha = (self.kappa * probe / bend.clamp(min=1e-6)).clamp(unit * 1e-5, unit * 0.1)
        return x + torch.where(alpha > unit * 1e-3, alpha, 0) * s

    def calls(self, schedule: Schedule) -> int:
        return 2 * self.steps


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((1, 2, 3), keepdim=True)
