"""GDMP (Wang et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

from torch import Tensor

from hetpure_core import Denoiser, Noise, Plan, Schedule, p_xs_xt, q_xt_x0
from hetpure_lab.defences.interface import Capabilities, register
from hetpure_lab.defences.sampling import Rival, Scene, chained, not_negative


@register("gdmp", Capabilities(published={"steps": 36}))
@dataclass(frozen=True)
class GDMP(Rival):
    r"""GDMP: DDPM purification whose every step is pulled towards the input at the same noise
    level, and the whole repeated.

    :math:`x_s \leftarrow x_s - \sigma^2 g_t \nabla_{x_t} \mathrm{MSE}(x_t, x_t^{ref})`,
    :math:`x_t^{ref} \sim q(x_t | x)`, :math:`\sigma^2` the variance of the step, :math:`g_t = 3
    \cdot 255\, \mathrm{scale}\, \sigma_t / (2\, \mathrm{ptb})`. Wang et al. 2022, CIFAR-10: t =
    0.036 index by index, 4 loops (144 calls: ``steps=36``), scale 6e4, ptb 8; here 9 steps per
    loop. Adaptations: the published MSE is a mean over the batch, here over one image; the released
    network has "fixedlarge" variance, beta_t for guidance and noise, here it is the posterior's, 0
    on the last step; the release clips the estimate of the clean image. Its configuration against
    BPDA is another: 2 loops from t = 0.06, and SSIM times 1e3 for the MSE. ``scale=0`` is unguided
    DDPM in loops.
    """

    t: float = 0.036
    steps: int = 9
    loops: int = 4
    scale: float = 6e4
    ptb: float = 8.0

    def __post_init__(self):
        super().__post_init__()
        not_negative(self, "scale")
        if self.loops < 1 or self.ptb <= 0:
            raise ValueError(
                f"loops must be at least 1 and ptb positive, not {self.loops} and {self.ptb}"
            )

    def plan(
        self, x_adv: Tensor, mask: None, eps: Denoiser, noise: Noise, schedule: Schedule
    ) -> Plan:
        if self.loops > 1:
            return chained(
                [replace(self, loops=1)] * self.loops, Scene(x_adv, eps, noise, schedule)
            )
        scene, times = Scene(x_adv, eps, noise, schedule), self.times(schedule)
        return [(times[0], partial(scene.start, times[0]))] + [
            (s, partial(self.step, scene, t, s)) for t, s in pairwise(times)
        ]

    def step(self, scene: Scene, t: int, s: int, x: Tensor) -> Tensor:
        abar_t, abar_s = float(scene.schedule.abar[t]), float(scene.schedule.abar[s])
        variance = (1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s)
        strength = 3 * 255 * self.scale * scene.sigma(t) / (2 * self.ptb)
        reference = q_xt_x0(scene.x_adv, t, scene.noise(f"reference {t}", x), scene.schedule)
        pull = 2 * (x - reference) / x[0].numel()  # the gradient of the MSE in closed form
        z = scene.reverse_noise(t, s, x)
        return (
            p_xs_xt(x, t, s, scene.predict(x, t), scene.schedule, eta=1.0, z=z)
            - variance * strength * pull
        )

    def calls(self, schedule: Schedule) -> int:
        return self.loops * super().calls(schedule)
