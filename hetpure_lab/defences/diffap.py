"""DiffAP (Zhang et al. 2024)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from torch import Tensor

from hetpure_core import Denoiser, Noise, Plan, Schedule, q_xt_x0, x0_xt
from hetpure_lab.defences.interface import register
from hetpure_lab.defences.sampling import Rival, Scene, not_negative


@register("diffap")
@dataclass(frozen=True)
class RandomSampling(Rival):
    r"""DiffAP: every step forgets the predicted noise and draws new noise, :math:`x_s =
    \sqrt{\bar\alpha_s}\, \hat x_0 + \sqrt{1 - \bar\alpha_s}\, z`.

    `guidance` g pulls the estimate to the input first, :math:`\hat x_0 \leftarrow \hat x_0 - g
    \sqrt{\bar\alpha_t} (\hat x_0 - x)`. Zhang et al. 2024. Adaptations: the released code draws
    noise of the DDPM posterior's standard deviation, :math:`\sqrt{(1 - \bar\alpha_t /
    \bar\alpha_s)(1 - \bar\alpha_s) / (1 - \bar\alpha_t)}`, here it is that of the formula; its
    script starts from T, above what the small denoiser knows; its guidance is on in the defence and
    off in the attack, and the gradient of a mean over a batch of 16 times 3e4, g = 2 * 3e4 / (16 *
    3072) = 1.22: here per image, off by default, and in the attack what it is in the defence.
    """

    t: float = 0.1
    steps: int = 5
    guidance: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        not_negative(self, "guidance")

    def plan(
        self, x_adv: Tensor, mask: None, eps: Denoiser, noise: Noise, schedule: Schedule
    ) -> Plan:
        scene, times = Scene(x_adv, eps, noise, schedule), self.times(schedule)
        return [(times[0], partial(scene.start, times[0]))] + [
            (s, partial(self.step, scene, t, s)) for t, s in pairwise(times)
        ]

    def step(self, scene: Scene, t: int, s: int, x: Tensor) -> Tensor:
        x0 = x0_xt(x, t, scene.predict(x, t), scene.schedule)
        x0 = x0 - self.guidance * math.sqrt(float(scene.schedule.abar[t])) * (x0 - scene.x_adv)
        return q_xt_x0(x0, s, scene.reverse_noise(t, s, x), scene.schedule) if s else x0
