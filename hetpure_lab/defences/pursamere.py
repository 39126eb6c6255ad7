"""A deterministic purifier after PurSAMERE (Hoang et al. 2026)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from hetpure_core import Denoiser, Noise, Plan, Schedule
from hetpure_lab.defences.guidance import guidance, residual
from hetpure_lab.defences.interface import Capabilities, register
from hetpure_lab.defences.sampling import Rival, Scene, not_negative


@register("pursamere", Capabilities(randomised=False))
@dataclass(frozen=True)
class SharpnessAware(Rival):
    r"""A deterministic purifier after PurSAMERE: descend the residual of the denoiser at the worst
    point nearby, without any noise.

    :math:`x \leftarrow x - \gamma g(x + \rho\, g(x) / \|g(x)\|)`, :math:`g = \nabla_x \tfrac12
    \|D(x; \sigma_t) - x\|^2`. Only the abstract of Hoang et al. 2026 (arXiv 2602.06269) was
    available to us: the idea is theirs; `t`, `rate`, `radius` (an l2 norm) and `steps` are ours.
    Adaptation: they minimise the *expected* error under noise, here it is the error at the noise's
    centre, one call instead of many. No noise is drawn, so a failure of this purifier is a failure
    every time. Two calls per step; ``radius=0`` is plain descent.
    """

    t: float = 0.05
    steps: int = 8
    rate: float = 0.5
    radius: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        not_negative(self, "rate", "radius")

    def plan(
        self, x_adv: Tensor, mask: None, eps: Denoiser, noise: Noise, schedule: Schedule
    ) -> Plan:
        scene, t = Scene(x_adv, eps, noise, schedule), schedule.index(self.t)
        return [(0, partial(self.step, scene, t))] * self.steps

    def step(self, scene: Scene, t: int, x: Tensor) -> Tensor:
        gradient = guidance(partial(residual, scene, t), x)
        length = (gradient.square().sum((1, 2, 3), keepdim=True) + 1e-12).sqrt()
        return x - self.rate * guidance(
            partial(residual, scene, t), x + self.radius * gradient / length
        )

    def calls(self, schedule: Schedule) -> int:
        return 2 * self.steps
