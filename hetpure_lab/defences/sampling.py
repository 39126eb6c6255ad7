"""What purifiers that sample share: the scene, the times, chains of purifications, and one noise
level per image.

Images are in [-1, 1]; D(x; sigma) is the denoised image, sigma_t^2 = (1 - abar_t) / abar_t the
noise level beside an unscaled image, and the score of x_t is -eps / sqrt(1 - abar_t).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from hetpure_core import Denoiser, Noise, Plan, Schedule, Uniform, p_xs_xt, q_xt_x0, x0_xt


@dataclass(frozen=True)
class Scene:
    """One batch under one purifier: the input in [-1, 1], the denoiser, the noise and the
    schedule.
    """

    x_adv: Tensor
    eps: Denoiser
    noise: Noise
    schedule: Schedule

    def predict(self, x: Tensor, t: int | Tensor) -> Tensor:
        """One denoiser call at one time, or at one time per image."""
        return self.eps(
            x, t if isinstance(t, Tensor) else torch.full((len(x),), t, device=x.device)
        )

    def start(self, t: int | Tensor, x: Tensor) -> Tensor:
        """Eq 1 with the draw that `Uniform` uses."""
        return q_xt_x0(x, t, self.noise("start", x), self.schedule)

    def sigma(self, t: int) -> float:
        r""":math:`\sigma_t = \sqrt{(1 - \bar\alpha_t) / \bar\alpha_t}`: the noise beside an
        unscaled image.
        """
        return math.sqrt(1 / float(self.schedule.abar[t]) - 1)

    def unscaled_noise(self, x: Tensor, t: int) -> Tensor:
        """The predicted noise of an unscaled image: D(x; sigma_t) is x - sigma_t times it, the
        score -1 / sigma_t times it.
        """
        return self.predict(math.sqrt(float(self.schedule.abar[t])) * x, t)

    def reverse_noise(self, t: int, s: int, x: Tensor) -> Tensor:
        """The draw of the step from t to s that `Uniform` uses as well."""
        return self.noise(f"reverse {t} {s} ", x)

    def ancestral(self, x: Tensor, t: int, s: int, x0: Tensor) -> Tensor:
        """The DDPM step from t to s for a given estimate of the clean image."""
        signal, sigma = self.schedule.signal_and_noise(t, x)
        return p_xs_xt(
            x,
            t,
            s,
            (x - signal * x0) / sigma,
            self.schedule,
            eta=1.0,
            z=self.reverse_noise(t, s, x),
        )


class Rival:
    """What rivals share: no mask, and times like those of `Uniform`."""

    t: float
    steps: int

    def __post_init__(self):
        Uniform(self.t, self.steps)  # its checks

    def mask(
        self, images: Tensor, classifier: nn.Module, taps: Sequence[nn.Module], noise: Noise
    ) -> None:
        """No mask."""

    def times(self, schedule: Schedule) -> list[int]:
        return Uniform(self.t, self.steps).grid(schedule)[1]

    def calls(self, schedule: Schedule) -> int:
        """Denoiser calls per purification."""
        return len(self.times(schedule)) - 1


def not_negative(settings: object, *names: str) -> None:
    """Raise `ValueError` for the first negative of these settings."""
    for name in names:
        if getattr(settings, name) < 0:
            raise ValueError(f"{name} must not be negative, not {getattr(settings, name)}")


def chained(purifiers: Sequence, scene: Scene) -> Plan:
    """Purifications one after another, each on noise of its own; one alone draws the noise that it
    draws outside a chain.
    """
    noises = [
        scene.noise if i == 0 else replace(scene.noise, seed=f"{scene.noise.seed} loop {i}")
        for i in range(len(purifiers))
    ]
    return [
        step
        for p, noise in zip(purifiers, noises)
        for step in p.plan(scene.x_adv, None, scene.eps, noise, scene.schedule)
    ]


def at_levels(scene: Scene, levels: Tensor, steps: int) -> Plan:
    """Uniform DDIM purification with a time of its own for every image (n,): each descends its own
    grid of `steps` steps.
    """
    grid = [(levels * (steps - k) / steps).round().long() for k in range(steps + 1)]
    nominal = [round(float(t.double().mean())) for t in grid]
    return [(nominal[0], partial(scene.start, levels))] + [
        (n, partial(_ddim, scene, t, s)) for n, (t, s) in zip(nominal[1:], pairwise(grid))
    ]


def _ddim(scene: Scene, t: Tensor, s: Tensor, x: Tensor) -> Tensor:
    eps = scene.predict(x, t.clamp(min=1))
    x0 = x0_xt(x, t, eps, scene.schedule)
    return q_xt_x0(x0, s, eps, scene.schedule)
