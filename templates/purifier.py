"""A template for a purifier: one file, registered. Try it: ``hetpure list defences --plugin
templates/purifier.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from hetpure_core import Denoiser, Noise, Plan, Schedule, q_xt_x0, x0_xt
from hetpure_lab.defences import Capabilities, register


@register("template-one-call", Capabilities(randomised=True))
@dataclass(frozen=True)
class OneCall:
    """Noise of level `t` (a fraction of T in (0, 1]), and one call of the denoiser. Source: paper,
    equation.
    """

    t: float = 0.1

    def __post_init__(self):
        if not 0 < self.t <= 1:
            raise ValueError(f"t is a fraction of T in (0, 1], not {self.t}")

    def mask(
        self, images: Tensor, classifier: nn.Module, taps: list[nn.Module], noise: Noise
    ) -> None:
        """No mask."""

    def plan(
        self, x_adv: Tensor, mask: None, eps: Denoiser, noise: Noise, schedule: Schedule
    ) -> Plan:
        """Steps from images in [-1, 1], each with the time at which it arrives."""
        t = schedule.index(self.t)
        start = lambda x: q_xt_x0(x, t, noise("start", x), schedule)
        return [(t, start), (0, partial(self.denoise, t, eps, schedule))]

    def denoise(self, t: int, eps: Denoiser, schedule: Schedule, x: Tensor) -> Tensor:
        return x0_xt(x, t, eps(x, torch.full((len(x),), t, device=x.device)), schedule)

    def calls(self, schedule: Schedule) -> int:
        """Denoiser calls per purification."""
        return 1
