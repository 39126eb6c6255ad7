"""SSNI (Sun et al. 2025): a noise level per image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hetpure_core import Denoiser, Noise, Plan, Schedule, Uniform, q_xt_x0
from hetpure_lab.defences.interface import register
from hetpure_lab.defences.sampling import Rival, Scene, at_levels


@register("ssni")
@dataclass(frozen=True)
class SSNI(Rival):
    r"""SSNI: each image gets the noise level that its own score asks for; an image that looks clean
    gets less.

    :math:`t(x) = (t + b) / (1 + e^{-(\|\bar s(x)\| - \mu) / \tau})`, :math:`\bar s` the mean score
    (here: predicted noise) of the image at `probes` low times up to `probe`, its norm per pixel.
    Sun et al. 2025, sigmoid form. Its constants belong to a score network: `centre` and `width`
    here are the mean and standard deviation over training images of the small CIFAR-10 bench;
    `bias` is b, and `t` such that a typical image gets DiffPure's 0.1. Neither these nor the
    probing times were looked up in their release: they are ours. The level is piecewise constant,
    so holding it fixed loses no gradient.
    """

    t: float = 0.2
    steps: int = 10
    bias: float = 0.0
    centre: float = 0.48
    width: float = 0.013
    probes: int = 4
    probe: float = 0.03

    def __post_init__(self):
        super().__post_init__()
        Uniform(self.probe, self.probes)
        if self.width <= 0:
            raise ValueError(f"width must be positive, not {self.width}")

    def plan(
        self, x_adv: Tensor, mask: None, eps: Denoiser, noise: Noise, schedule: Schedule
    ) -> Plan:
        scene = Scene(x_adv, eps, noise, schedule)
        share = torch.sigmoid((self.score_norm(scene) - self.centre) / self.width)
        levels = ((self.t + self.bias) * share * schedule.T).round().long().clamp(1, schedule.T)
        return at_levels(scene, levels, self.steps)

    @torch.no_grad()
    def score_norm(self, scene: Scene) -> Tensor:
        """The root mean square of the image's mean predicted noise (n,)."""
        times = Uniform(self.probe, self.probes).grid(scene.schedule)[1][:-1]
        draws = [
            q_xt_x0(scene.x_adv, t, scene.noise(f"probe {t}", scene.x_adv), scene.schedule)
            for t in times
        ]
        return (
            torch.stack([scene.predict(x, t) for x, t in zip(draws, times)])
            .mean(0)
            .square()
            .mean((1, 2, 3))
            .sqrt()
        )

    def calls(self, schedule: Schedule) -> int:
        return self.steps + len(Uniform(self.probe, self.probes).grid(schedule)[1]) - 1
