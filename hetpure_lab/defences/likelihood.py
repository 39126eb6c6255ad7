"""Likelihood maximisation (Chen et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from hetpure_core import Denoiser, Noise, Plan, Schedule, Uniform
from hetpure_lab.defences.guidance import guidance
from hetpure_lab.defences.interface import register
from hetpure_lab.defences.sampling import Rival, Scene, not_negative


@register("likelihood")
@dataclass(frozen=True)
class Likelihood(Rival):
    r"""Likelihood maximisation: the first half of the robust diffusion classifier (RDC, Chen et al.
    2024), the most likely image within `eta` of the input.

    :math:`\max_{\|\hat x - x\|_\infty \le \eta} -\mathbb E_{\sigma, z} \|\epsilon_\theta(\hat x +
    \sigma z; \sigma) - z\|^2`, a bound on the log-likelihood: `steps` steps of Adam with rate
    `rate`, each on fresh noise and a level drawn for each image between the times `low` and `high`,
    and after each the projection to the ball. Published: 5 steps, sigma uniform in [0.4, 0.6]
    (images in [-1, 1]; here uniform in time, which is nearly that), eta 8/255, rate 0.1. That rate
    fills the ball at the first step, and then signs are all that is left of the gradient: ours is
    0.02. The second half, classification by Bayes' rule with a class-conditional denoiser, is left
    out, as no small one exists: **the bench's classifier decides**, which is the paper's ablation
    "LM". Gradients are exact, through Adam, the projection and the denoiser's own derivative.
    ScoreOpt is the same without a ball and with one level: ``eta=1`` and ``low=high``.
    """

    low: float = 0.115
    high: float = 0.165
    steps: int = 5
    rate: float = 0.02
    eta: float = 8 / 255

    def __post_init__(self):
        for t in (self.low, self.high):
            Uniform(t, self.steps)  # its checks
        not_negative(self, "rate", "eta")
        if self.low > self.high:
            raise ValueError(f"low must not be above high = {self.high}, not {self.low}")

    def plan(
        self, x_adv: Tensor, mask: None, eps: Denoiser, noise: Noise, schedule: Schedule
    ) -> Plan:
        return [(0, partial(self.optimise, Scene(x_adv, eps, noise, schedule)))]

    def optimise(self, scene: Scene, x: Tensor) -> Tensor:
        first, second = torch.zeros_like(x), torch.zeros_like(x)
        for k in range(1, self.steps + 1):
            loss = partial(error, scene, self.level(scene, k), scene.noise(f"optimise {k}", x))
            gradient = guidance(loss, x)
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient.square()
            x = x - self.rate * first / (1 - 0.9**k) / ((second / (1 - 0.999**k) + 1e-16).sqrt())
            x = scene.x_adv + (x - scene.x_adv).clamp(-2 * self.eta, 2 * self.eta)
        return x

    def level(self, scene: Scene, k: int) -> Tensor:
        """The time of every image (n,) in step k."""
        like = scene.x_adv.new_empty(len(scene.x_adv), 1, 1, 1)
        share = torch.special.ndtr(scene.noise(f"level {k}", like)).flatten()
        first, last = scene.schedule.index(self.low), scene.schedule.index(self.high)
        return (first + (last + 1 - first) * share).long().clamp(first, last)

    def calls(self, schedule: Schedule) -> int:
        return self.steps


def error(scene: Scene, t: Tensor, z: Tensor, x: Tensor) -> Tensor:
    r"""The error of the predicted noise, :math:`\tfrac12 \|\epsilon_\theta(x + \sigma_t z; t) -
    z\|^2` (n,), at a time per image: one call.
    """
    signal, sigma = scene.schedule.signal_and_noise(t, x)
    return (scene.predict(signal * x + sigma * z, t) - z).square().sum((1, 2, 3)) / 2
