"""Noise that differs between frequencies: MANI-Pure (Huang et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from hetpure_core import Denoiser, Noise, Plan, Schedule, q_xt_x0, x0_xt
from hetpure_lab.defences.freqpure import with_low_frequencies
from hetpure_lab.defences.interface import register
from hetpure_lab.defences.sampling import Rival, Scene, not_negative


@register("mani")
@dataclass(frozen=True)
class Mani(Rival):
    r"""MANI-Pure (Huang et al. 2025): more noise in the frequencies where the image has little,
    less where it has much; then FreqPure's reverse process.

    The spectrum is cut into `bands` rings of equal width. With :math:`M_b` the mean magnitude of
    the input in ring b, the noise is :math:`\epsilon' = \mathcal F^{-1}(W \mathcal F \epsilon)`,
    :math:`W_b \propto M_b^{-\gamma}`, scaled to as much energy as white noise has, and :math:`x_t =
    \sqrt{\bar\alpha_t} x + \sqrt{1 - \bar\alpha_t}\,\epsilon'`. Every step is FreqPure's: low
    frequencies of the estimate are taken from the input (`cut`, `delta`). The paper weighs bands
    inversely to their mean magnitude; exponent `gamma`, the number of bands, the scale, `t` and
    `steps` are ours, and so is leaving out its second weight, over pixels. The network is told one
    level, as in the paper, although no band has it. The weights depend on the input, and the
    gradient passes through them. ``gamma=0`` is FreqPure in one loop, the control.
    """

    t: float = 0.1
    steps: int = 10
    bands: int = 8
    gamma: float = 0.5
    cut: int = 3
    delta: float = 0.3

    def __post_init__(self):
        super().__post_init__()
        not_negative(self, "gamma", "cut", "delta")
        if self.bands < 1:
            raise ValueError(f"bands must be at least 1, not {self.bands}")

    def plan(
        self, x_adv: Tensor, mask: None, eps: Denoiser, noise: Noise, schedule: Schedule
    ) -> Plan:
        scene, times = Scene(x_adv, eps, noise, schedule), self.times(schedule)
        return [(times[0], partial(self.start, scene, times[0]))] + [
            (s, partial(self.step, scene, t, s)) for t, s in pairwise(times)
        ]

    def start(self, scene: Scene, t: int, x: Tensor) -> Tensor:
        spectrum = torch.fft.fft2(scene.noise("start", x))
        shaped = torch.fft.ifft2(self.weights(x) * spectrum).real
        return q_xt_x0(x, t, shaped, scene.schedule)

    def weights(self, x: Tensor) -> Tensor:
        """How much noise each frequency gets (n, 1, h, w), with mean square 1 over the spectrum."""
        h, w = x.shape[-2:]
        ring = rings(h, w, self.bands).to(x.device)
        magnitude = torch.fft.fft2(x).abs().mean(1).flatten(1)
        member = torch.nn.functional.one_hot(ring.flatten(), self.bands).to(x.dtype)
        mean = magnitude @ member / member.sum(0).clamp(min=1)
        weights = ((mean + 1e-6) ** -self.gamma)[:, ring]
        scale = weights.square().mean((1, 2), keepdim=True).sqrt()
        return (weights / scale)[:, None]

    def step(self, scene: Scene, t: int, s: int, x: Tensor) -> Tensor:
        x0 = x0_xt(x, t, scene.predict(x, t), scene.schedule)
        x0 = with_low_frequencies(x0, scene.x_adv, self.cut, self.delta)
        return scene.ancestral(x, t, s, x0)


def rings(h: int, w: int, bands: int) -> Tensor:
    """The ring (h, w) of every frequency, from 0 at the centre, all of the same width."""
    u, v = torch.fft.fftfreq(h)[:, None], torch.fft.fftfreq(w)[None]
    radius = (u.square() + v.square()).sqrt()
    return (bands * radius / radius.max()).long().clamp(max=bands - 1)
