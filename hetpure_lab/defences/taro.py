"""Temporal rectification after TARO (Wesego & Rooshenas 2026)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from hetpure_core import Denoiser, Noise, Plan, Schedule, Uniform
from hetpure_lab.defences.interface import register
from hetpure_lab.defences.sampling import Rival, Scene, not_negative


@register("taro")
@dataclass(frozen=True)
class Taro(Rival):
    r"""Temporal rectification after TARO: move the image towards what two denoising experts make of
    it, a coarse one at a high noise level and a fine one at a low one.

    In step k of K, with fresh noise for each expert, :math:`x \leftarrow x + \gamma\,(D_f + w_k
    (D_c - D_f) - x)`, :math:`D_s = D(x + \sigma_s z; \sigma_s)`, and :math:`w_k = w\,(1 - k/K)`
    falls to 0: coarse to fine. Only the abstract of Wesego & Rooshenas 2026 (arXiv 2605.08440) was
    available to us: a coarse-to-fine residual target from several noise levels, and a guidance
    strength, are theirs; the form of the target, two levels (`coarse`, and `t` for the fine one),
    `guidance` w, `rate` :math:`\gamma` and `steps` are ours. The residual is followed as a score
    is: the denoiser is not differentiated inside the defence, and the exact gradient of an attack
    passes through all calls. Two calls per step. With ``guidance=0`` the coarse expert has no say.
    """

    t: float = 0.05
    coarse: float = 0.2
    steps: int = 8
    rate: float = 0.3
    guidance: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        Uniform(self.coarse, self.steps)  # its checks
        not_negative(self, "rate", "guidance")
        if self.coarse <= self.t:
            raise ValueError(f"coarse is above t = {self.t}, not {self.coarse}")

    def plan(
        self, x_adv: Tensor, mask: None, eps: Denoiser, noise: Noise, schedule: Schedule
    ) -> Plan:
        scene = Scene(x_adv, eps, noise, schedule)
        return [(0, partial(self.step, scene, k)) for k in range(self.steps)]

    def step(self, scene: Scene, k: int, x: Tensor) -> Tensor:
        fine, coarse = (self.expert(scene, name, k, x) for name in ("fine", "coarse"))
        target = fine + self.guidance * (1 - k / self.steps) * (coarse - fine)
        return x + self.rate * (target - x)

    def expert(self, scene: Scene, name: str, k: int, x: Tensor) -> Tensor:
        """The image denoised from the expert's level: one call."""
        t = scene.schedule.index(self.t if name == "fine" else self.coarse)
        noisy = x + scene.sigma(t) * scene.noise(f"{name} {k}", x)
        return noisy - scene.sigma(t) * scene.unscaled_noise(noisy, t)

    def calls(self, schedule: Schedule) -> int:
        return 2 * self.steps
