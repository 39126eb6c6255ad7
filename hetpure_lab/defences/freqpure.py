"""FreqPure (Pei et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from hetpure_core import Denoiser, Noise, Plan, Schedule, Uniform, x0_xt
from hetpure_lab.defences.interface import Capabilities, register
from hetpure_lab.defences.sampling import Rival, Scene, chained, not_negative


@register(
    "freqpure",
    Capabilities(published={"levels": (20,) * 5 + (50,) * 5}, shorter=lambda p, *_: p.surrogate()),
)
@dataclass(frozen=True)
class FreqPure(Rival):
    r"""FreqPure: at every step the estimate of the clean image takes the input's low-frequency
    amplitudes, and its low-frequency phases may differ from the input's by at most `delta` radians.

    With F, F' the transforms of estimate and input, in the |k| <= `cut` lowest frequencies of both
    axes: :math:`F \leftarrow |F'| e^{i(\angle F' + \mathrm{clip}(\angle F - \angle F',
    \pm\delta))}`. Pei et al. 2025; released settings: cut 3, delta 0.3, levels 20 x 5 and 50 x 5
    (in thousandths of T) with 5 steps each (50 calls), attacked through a single step from level
    50: `surrogate`. Here two loops at each level, 20 calls. Adaptations: the released code takes
    the disc of frequencies no longer than `cut`, 29 of them for cut 3, where the square here has
    49; it copies the phases before it limits them, so that they equal the input's, and clips the
    estimate to the range of images; one version of it has a one-step estimate of the input, from
    level 20, in the input's place.
    """

    levels: tuple[int, ...] = (20, 20, 50, 50)
    steps: int = 5
    cut: int = 3
    delta: float = 0.3

    def __post_init__(self):
        for level in self.levels:
            Uniform(level / 1000, self.steps)
        not_negative(self, "cut", "delta")

    def surrogate(self) -> FreqPure:
        return replace(self, levels=(50,), steps=1)

    def plan(
        self, x_adv: Tensor, mask: None, eps: Denoiser, noise: Noise, schedule: Schedule
    ) -> Plan:
        return chained(
            [_FrequencyLoop(level / 1000, self.steps, self) for level in self.levels],
            Scene(x_adv, eps, noise, schedule),
        )

    def calls(self, schedule: Schedule) -> int:
        return sum(Uniform(level / 1000, self.steps).calls(schedule) for level in self.levels)


@dataclass(frozen=True)
class _FrequencyLoop(Rival):
    t: float
    steps: int
    settings: FreqPure

    def plan(
        self, x_adv: Tensor, mask: None, eps: Denoiser, noise: Noise, schedule: Schedule
    ) -> Plan:
        scene, times = Scene(x_adv, eps, noise, schedule), self.times(schedule)
        return [(times[0], partial(scene.start, times[0]))] + [
            (s, partial(self.step, scene, t, s)) for t, s in pairwise(times)
        ]

    def step(self, scene: Scene, t: int, s: int, x: Tensor) -> Tensor:
        x0 = x0_xt(x, t, scene.predict(x, t), scene.schedule)
        return scene.ancestral(
            x, t, s, with_low_frequencies(x0, scene.x_adv, self.settings.cut, self.settings.delta)
        )


def with_low_frequencies(x: Tensor, reference: Tensor, cut: int, delta: float) -> Tensor:
    """`x` with the amplitudes of `reference` and phases within `delta` of its, in the `cut` lowest
    frequencies of both axes.
    """
    ours, theirs = torch.fft.fft2(x), torch.fft.fft2(reference)
    turn = torch.angle(ours * theirs.conj()).clamp(-delta, delta)
    k = [torch.fft.fftfreq(size, 1 / size, device=x.device).abs() <= cut for size in x.shape[-2:]]
    low = k[0][:, None] & k[1][None]
    return torch.fft.ifft2(
        torch.where(low, theirs * torch.polar(torch.ones_like(turn), turn), ours)
    ).real
