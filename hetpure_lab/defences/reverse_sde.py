"""DiffPure by the reverse-time SDE, as published (Nie et al. 2022), and by the probability-flow
ODE.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from torch import Tensor

from hetpure_core import Denoiser, Noise, Plan, Schedule
from hetpure_lab.defences.interface import Capabilities, register
from hetpure_lab.defences.sampling import Rival, Scene


@register("sde", Capabilities(published={"steps": 100}))
@dataclass(frozen=True)
class ReverseSDE(Rival):
    r"""DiffPure as published: the reverse-time SDE of the diffusion, from `t` to 0 by
    Euler-Maruyama.

    :math:`x_s = x_t + \tfrac12 B x_t + B\, \mathrm{score}(x_t) + \sqrt B\, z`, :math:`B =
    \ln(\bar\alpha_s / \bar\alpha_t)`, the integral of beta over the step. Nie et al. 2022: t = 0.1
    for l-infinity 8/255 and 0.075 for l2 0.5, steps of 1/1000 (100 calls: ``steps=100``); here 20
    steps by default.
    """

    t: float = 0.1
    steps: int = 20

    def plan(
        self, x_adv: Tensor, mask: None, eps: Denoiser, noise: Noise, schedule: Schedule
    ) -> Plan:
        scene, times = Scene(x_adv, eps, noise, schedule), self.times(schedule)
        return [(times[0], partial(scene.start, times[0]))] + [
            (s, partial(self.step, scene, t, s)) for t, s in pairwise(times)
        ]

    def step(self, scene: Scene, t: int, s: int, x: Tensor) -> Tensor:
        B, score = _beta(scene, t, s), self.score(scene, t, x)
        return x + B / 2 * x + B * score + math.sqrt(B) * scene.reverse_noise(t, s, x)

    @staticmethod
    def score(scene: Scene, t: int, x: Tensor) -> Tensor:
        return -scene.predict(x, t) / scene.schedule.signal_and_noise(t, x)[1]


@register("ode", Capabilities(published={"steps": 100}))
@dataclass(frozen=True)
class ProbabilityFlow(ReverseSDE):
    r"""DiffPure by the probability-flow ODE: the same marginals as `ReverseSDE` without noise on
    the way back.

    :math:`x_s = x_t + \tfrac12 B (x_t + \mathrm{score}(x_t))` by Euler's rule. Nie et al. 2022,
    their ablation; Song et al. 2021.
    """

    def step(self, scene: Scene, t: int, s: int, x: Tensor) -> Tensor:
        return x + _beta(scene, t, s) / 2 * (x + self.score(scene, t, x))


def _beta(scene: Scene, t: int, s: int) -> float:
    return math.log(float(scene.schedule.abar[s] / scene.schedule.abar[t]))
