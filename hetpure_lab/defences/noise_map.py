r"""Heterogeneous noise without a redesigned sampler: a denoiser that is told the level of every
pixel.

The paper gives pixels different amounts of noise and then needs a two-stage sampler, because its
network knows one level for all of them. A denoiser that takes a map of levels needs none. With a
map of times t(p) every pixel is diffused to its own level, :math:`x_t(p) =
\sqrt{\bar\alpha_{t(p)}}\, x(p) + \sqrt{1 - \bar\alpha_{t(p)}}\, z(p)`, and goes down its own
schedule, :math:`t_k(p) = t(p)\, (N - k) / N`, by the DDIM step of Eq 11 taken pixel by pixel.
`NoiseMap` is N = 1, one call: :math:`D(x + \sigma z; \sigma)` with a map for sigma. `PerPixel`
takes several. Under a constant map both are `hetpure_core.Uniform`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hetpure_core import (
    Denoiser,
    Noise,
    Plan,
    Schedule,
    Uniform,
    attention_maps,
    random_mask,
    threshold_mask,
    x0_xt,
)
from hetpure_lab.defences.interface import Capabilities, register
from hetpure_lab.defences.sampling import Rival

KINDS = ("attention", "inverted", "random", "random-attended", "fixed", "all", "none")
RANDOM = ("random", "random-attended")  # drawn anew for every purification


_TOLD = Capabilities("mapped", has_mask=True, needs_maps=True)


@register("noise-map", _TOLD)
@dataclass(frozen=True)
class NoiseMap(Rival):
    """Noise `t_l` where the mask is 1, `t_s` elsewhere, and one call of a denoiser that knows which
    pixel has which.

    `mask_kind`: ``attention`` (the method's, at threshold `tau`), ``inverted``, ``random`` (a
    `share` of all blocks, drawn anew for every purification), ``random-attended`` (the same with
    the area of attention), ``fixed`` (one random mask of a `share` for all images and
    purifications), ``all``, ``none``. Masks are in blocks of `block` pixels, for attention by the
    majority of a block's pixels. `loops` purifications follow one another, each with noise and, if
    it is random, a mask of its own.

    Levels are fractions of T in (0, 1], `share` and `tau` are in [0, 1]: `ValueError` otherwise,
    and for images whose sides are no multiples of `block`. The denoiser must take maps.
    """

    steps: ClassVar[int] = 1

    t_l: float = 0.2
    t_s: float = 0.05
    mask_kind: str = "random"
    share: float = 0.5
    block: int = 2
    tau: float = 0.8
    loops: int = 1

    def __post_init__(self):
        for level in (self.t_l, self.t_s):
            Uniform(level, self.steps)  # its checks
        if self.t_s >= self.t_l:
            raise ValueError(
                f"the weak noise t_s = {self.t_s} must be below the strong noise t_l = {self.t_l}"
            )
        if self.mask_kind not in KINDS:
            raise ValueError(f"unknown mask_kind {self.mask_kind!r}; known: {', '.join(KINDS)}")
        for name in ("share", "tau"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], not {getattr(self, name)}")
        for name in ("block", "loops"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")

    # ---- the mask

    def mask(
        self, images: Tensor, classifier: nn.Module, taps: Sequence[nn.Module], noise: Noise
    ) -> Tensor:
        """The mask (n, 1, h, w) of images in [0, 1], constant in blocks, 1 where the strong noise
        goes; computed without gradient."""
        h, w = images.shape[-2:]
        if h % self.block or w % self.block:
            raise ValueError(
                f"images of {h} x {w} pixels cannot be cut into blocks of {self.block}"
            )
        with torch.no_grad():
            return repeat(self.blocks(images, classifier, taps, noise), self.block)

    def blocks(
        self, images: Tensor, classifier: nn.Module, taps: Sequence[nn.Module], noise: Noise
    ) -> Tensor:
        """The mask with one entry per block (n, 1, h / block, w / block)."""
        like = images[:, :1, :: self.block, :: self.block]
        if self.mask_kind in ("all", "none"):
            return torch.full_like(like, float(self.mask_kind == "all"))
        if self.mask_kind == "random":
            return random_mask(first_blocks(like, self.share), noise)
        if self.mask_kind == "fixed":
            one = Noise("fixed mask", ["every image"], [0])
            return random_mask(first_blocks(like[:1], self.share), one).expand(
                len(images), -1, -1, -1
            )
        attended = threshold_mask(attention_maps(images, classifier, taps), self.tau)
        attended = (F.avg_pool2d(attended, self.block) >= 0.5).to(images.dtype)
        if self.mask_kind == "random-attended":
            return random_mask(attended, noise)
        return 1 - attended if self.mask_kind == "inverted" else attended

    def redrawn(self, mask: Tensor, noise: Noise) -> Tensor:
        """The mask of a further loop: a random one is drawn again with as many blocks, any other
        stays."""
        if self.mask_kind not in RANDOM:
            return mask
        return repeat(random_mask(mask[..., :: self.block, :: self.block], noise), self.block)

    # ---- the purification

    def plan(
        self, x_adv: Tensor, mask: Tensor, eps: Denoiser, noise: Noise, schedule: Schedule
    ) -> Plan:
        plan: Plan = []
        for i in range(self.loops):
            own = replace(noise, seed=f"{noise.seed} loop {i}") if i else noise
            drawn = self.redrawn(mask, own) if i else mask
            plan += self.loop(drawn.expand(len(x_adv), -1, -1, -1), eps, own, schedule)
        return plan

    def loop(self, mask: Tensor, eps: Denoiser, noise: Noise, schedule: Schedule) -> Plan:
        """One purification: diffuse every pixel to its time, then `steps` calls."""
        t_l, t_s = schedule.index(self.t_l), schedule.index(self.t_s)
        times = torch.where(mask > 0.5, t_l, t_s)
        grid = [
            (times * (self.steps - k) / self.steps).round().long() for k in range(self.steps + 1)
        ]
        nominal = [round(t_l * (self.steps - k) / self.steps) for k in range(self.steps + 1)]
        start = (nominal[0], lambda x: diffuse(x, grid[0], noise("start", x), schedule))
        return [start] + [
            (at, partial(step, t, s, eps, schedule))
            for at, (t, s) in zip(nominal[1:], pairwise(grid))
        ]

    def calls(self, schedule: Schedule) -> int:
        """Denoiser calls per purification."""
        return self.loops * self.steps


@register("per-pixel", _TOLD)
@dataclass(frozen=True)
class PerPixel(NoiseMap):
    """`NoiseMap` in several calls: every pixel goes down its own schedule, all of them in `steps`
    steps of one stage."""

    block: int = 1
    steps: int = 5


@register("noise-map-untold", Capabilities("mapped", has_mask=True))
@dataclass(frozen=True)
class OneLevel(NoiseMap):
    r"""Control: the noise of `NoiseMap` and one call of a denoiser that is told one time `t` for
    all pixels.

    :math:`D(x + \sigma z; \sigma_t)`: what is left of `NoiseMap` without the knowledge of who got
    how much. The default has about the mean variance of a half-and-half mask at 0.2 and 0.05.
    """

    t: float = 0.15

    def __post_init__(self):
        super().__post_init__()
        Uniform(self.t, 1)  # its checks

    def loop(self, mask: Tensor, eps: Denoiser, noise: Noise, schedule: Schedule) -> Plan:
        times = torch.where(mask > 0.5, schedule.index(self.t_l), schedule.index(self.t_s))
        t = schedule.index(self.t)
        start = (t, lambda x: one_scale(diffuse(x, times, noise("start", x), schedule)))
        told = partial(torch.full, fill_value=t)

        def one_scale(x: Tensor) -> Tensor:
            """The same noise beside the image of time t."""
            return x / signal_and_noise(times, schedule, x)[0] * float(schedule.abar[t]) ** 0.5

        def denoise(x: Tensor) -> Tensor:
            return x0_xt(x, t, eps(x, told((len(x),), device=x.device)), schedule)

        return [start, (0, denoise)]


def first_blocks(like: Tensor, share: float) -> Tensor:
    """As many ones as make the `share` of the entries of `like` (n, 1, h, w), for `random_mask` to
    move."""
    size = like[0].numel()
    ones = torch.arange(size, device=like.device) < round(share * size)
    return ones.to(like.dtype).reshape(1, *like.shape[1:]).expand(len(like), -1, -1, -1)


def repeat(mask: Tensor, block: int) -> Tensor:
    """Every entry as a block of pixels."""
    return mask.repeat_interleave(block, -2).repeat_interleave(block, -1)


def signal_and_noise(t: Tensor, schedule: Schedule, like: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(abar_t) and sqrt(1 - abar_t) of a map of times (n, 1, h, w)."""
    abar = schedule.abar.to(t.device)[t]
    return abar.sqrt().to(like), (1 - abar).sqrt().to(like)


def diffuse(x0: Tensor, t: Tensor, z: Tensor, schedule: Schedule) -> Tensor:
    """Eq 1 with a time for every pixel. Book: ch14, eq-map-forward."""
    signal, sigma = signal_and_noise(t, schedule, x0)
    return signal * x0 + sigma * z


def step(t: Tensor, s: Tensor, eps: Denoiser, schedule: Schedule, x: Tensor) -> Tensor:
    """The DDIM step of every pixel from its time t to its time s, by one call for the whole map.

    Times that are 0 already stay. Book: ch14, eq-map-step.
    """
    predicted = eps(x, t.clamp(min=1))
    signal, sigma = signal_and_noise(t, schedule, x)
    return diffuse((x - sigma * predicted) / signal, s, predicted, schedule)
