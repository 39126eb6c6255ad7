"""DensePure (Xiao et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from hetpure_core import Denoiser, Noise, Plan, Schedule, Uniform
from hetpure_lab.defences.interface import register
from hetpure_lab.defences.sampling import Rival, Scene


@register("densepure")
@dataclass(frozen=True)
class DensePure(Rival):
    """DensePure: noise once, denoise several times from there, let the results vote.

    `votes` ancestral chains of `steps` calls share one noisy image. Xiao et al. 2023 wrap it in
    randomised smoothing at a sigma that fixes `t` by sigma_t = 2 sigma (images in [-1, 1]), 100,000
    draws of noise for CIFAR-10, and certify; here t = 0.14 is about their sigma = 0.25, 2 steps and
    10 votes are the examples of their README, and no smoothing is around them. Adaptations: the
    mean probability of the votes stands for their hard vote, which has no gradient; the estimate of
    the clean image is not clipped.
    """

    t: float = 0.14
    steps: int = 2
    votes: int = 10

    def __post_init__(self):
        Uniform(self.t, self.steps)
        if self.votes < 1:
            raise ValueError(f"votes must be at least 1, not {self.votes}")

    def plan(
        self, x_adv: Tensor, mask: None, eps: Denoiser, noise: Noise, schedule: Schedule
    ) -> Plan:
        common = replace(noise, copies=[c // self.votes for c in noise.copies])
        (t, _), *reverse = Uniform(self.t, self.steps, "ddpm").plan(
            x_adv, None, eps, noise, schedule
        )
        return [(t, partial(Scene(x_adv, eps, common, schedule).start, t)), *reverse]
