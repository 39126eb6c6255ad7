"""Rival purifiers without training, on the method's own noise-prediction network; those that need a gradient are in `guided`.

Each is a frozen dataclass with the interface of `hetpure_core.Uniform`, so `Purified` gives its exact gradient, keys its noise by image and
recomputes its activations. Images are in [-1, 1]; D(x; sigma) is the denoised image, sigma_t^2 = (1 - abar_t) / abar_t the noise level
beside an unscaled image, and the score of x_t is -eps / sqrt(1 - abar_t). Implemented from formulas; where a paper has another network
or a longer chain, its docstring says what was adapted. DDPM, DDIM and one-shot denoising need no class of their own:
``uniform:t=0.1,sampler=ddpm``, ``uniform:t=0.1`` and ``uniform:t=0.14,steps=1``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hetpure_core import Denoiser, HetPure, Noise, Plan, Schedule, Uniform, p_xs_xt, q_xt_x0, x0_xt


@dataclass(frozen=True)
class Scene:
    """One batch under one purifier: the input in [-1, 1], the denoiser, the noise and the schedule."""

    x_adv: Tensor
    eps: Denoiser
    noise: Noise
    schedule: Schedule

    def predict(self, x: Tensor, t: int | Tensor) -> Tensor:
        """One denoiser call at one time, or at one time per image."""
        return self.eps(x, t if isinstance(t, Tensor) else torch.full((len(x),), t, device=x.device))

    def start(self, t: int | Tensor, x: Tensor) -> Tensor:
        """Eq 1 with the draw that `Uniform` uses."""
        return q_xt_x0(x, t, self.noise("start", x), self.schedule)

    def sigma(self, t: int) -> float:
        r""":math:`\sigma_t = \sqrt{(1 - \bar\alpha_t) / \bar\alpha_t}`: the noise beside an unscaled image."""
        return math.sqrt(1 / float(self.schedule.abar[t]) - 1)

    def unscaled_noise(self, x: Tensor, t: int) -> Tensor:
        """The predicted noise of an unscaled image: D(x; sigma_t) is x - sigma_t times it, the score -1 / sigma_t times it."""
        return self.predict(math.sqrt(float(self.schedule.abar[t])) * x, t)

    def reverse_noise(self, t: int, s: int, x: Tensor) -> Tensor:
        """The draw of the step from t to s that `Uniform` uses as well."""
        return self.noise(f"reverse {t} {s} ", x)

    def ancestral(self, x: Tensor, t: int, s: int, x0: Tensor) -> Tensor:
        """The DDPM step from t to s for a given estimate of the clean image."""
        signal, sigma = self.schedule.signal_and_noise(t, x)
        return p_xs_xt(x, t, s, (x - signal * x0) / sigma, self.schedule, eta=1.0, z=self.reverse_noise(t, s, x))


class Rival:
    """What rivals share: no mask, one vote, no stand-in for attacks, and times like those of `Uniform`.

    `randomised` is False for purifiers that draw no noise; `published` has the settings that make the authors' chain where the default
    is a shorter one.
    """

    votes = 1
    randomised: ClassVar[bool] = True
    published: ClassVar[dict] = {}

    def __post_init__(self):
        Uniform(self.t, self.steps)  # its checks

    def mask(self, images: Tensor, classifier: nn.Module, taps: Sequence[nn.Module], noise: Noise) -> None:
        """No mask."""

    def surrogate(self):
        """A shorter chain of the same kind that an attack differentiates instead, where the authors' own attack does so."""
        raise ValueError(f"{type(self).__name__} has no surrogate; attack it with gradient=exact or gradient=bpda")

    def times(self, schedule: Schedule) -> list[int]:
        return Uniform(self.t, self.steps).grid(schedule)[1]

    def calls(self, schedule: Schedule) -> int:
        """Denoiser calls per purification."""
        return len(self.times(schedule)) - 1


def not_negative(settings: object, *names: str) -> None:
    """Raise `ValueError` for the first negative of these settings."""
    for name in names:
        if getattr(settings, name) < 0:
            raise ValueError(f"{name} must not be negative, not {getattr(settings, name)}")


def chained(purifiers: Sequence, scene: Scene) -> Plan:
    """Purifications one after another, each on noise of its own; one alone draws the noise that it draws outside a chain."""
    noises = [scene.noise if i == 0 else replace(scene.noise, seed=f"{scene.noise.seed} loop {i}") for i in range(len(purifiers))]
    return [step for p, noise in zip(purifiers, noises) for step in p.plan(scene.x_adv, None, scene.eps, noise, scene.schedule)]


# ---- other samplers of the same reverse process ------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReverseSDE(Rival):
    r"""DiffPure as published: the reverse-time SDE of the diffusion, from `t` to 0 by Euler-Maruyama.

    :math:`x_s = x_t + \tfrac12 B x_t + B\, \mathrm{score}(x_t) + \sqrt B\, z`, :math:`B = \ln(\bar\alpha_s / \bar\alpha_t)`, the integral
    of beta over the step. Nie et al. 2022: t = 0.1 for l-infinity 8/255 and 0.075 for l2 0.5, steps of 1/1000 (100 calls: ``steps=100``);
    here 20 steps by default.
    """

    published: ClassVar[dict] = {"steps": 100}

    t: float = 0.1
    steps: int = 20

    def plan(self, x_adv: Tensor, mask: None, eps: Denoiser, noise: Noise, schedule: Schedule) -> Plan:
        scene, times = Scene(x_adv, eps, noise, schedule), self.times(schedule)
        return [(times[0], partial(scene.start, times[0]))] + [(s, partial(self.step, scene, t, s)) for t, s in pairwise(times)]

    def step(self, scene: Scene, t: int, s: int, x: Tensor) -> Tensor:
        B, score = _beta(scene, t, s), self.score(scene, t, x)
        return x + B / 2 * x + B * score + math.sqrt(B) * scene.reverse_noise(t, s, x)

    @staticmethod
    def score(scene: Scene, t: int, x: Tensor) -> Tensor:
        return -scene.predict(x, t) / scene.schedule.signal_and_noise(t, x)[1]


@dataclass(frozen=True)
class ProbabilityFlow(ReverseSDE):
    r"""DiffPure by the probability-flow ODE: the same marginals as `ReverseSDE` without noise on the way back.

    :math:`x_s = x_t + \tfrac12 B (x_t + \mathrm{score}(x_t))` by Euler's rule. Nie et al. 2022, their ablation; Song et al. 2021.
    """

    def step(self, scene: Scene, t: int, s: int, x: Tensor) -> Tensor:
        return x + _beta(scene, t, s) / 2 * (x + self.score(scene, t, x))


def _beta(scene: Scene, t: int, s: int) -> float:
    return math.log(float(scene.schedule.abar[s] / scene.schedule.abar[t]))


@dataclass(frozen=True)
class Gradual(Rival):
    """Lee & Kim's gradual noise: whole DDPM purifications one after another at rising levels.

    `levels` in thousandths of T, `steps` of each. Lee & Kim 2023, CIFAR-10: levels 30 x 4, 50 x 2, 125 x 2 with every index visited (470
    calls: ``steps`` equal to ``levels``); here 34 calls by default. Their attack differentiates 30, 50, 125 with 1, 1, 5 steps:
    `surrogate`.
    """

    published: ClassVar[dict] = {"steps": (30, 30, 30, 30, 50, 50, 125, 125)}

    levels: tuple[int, ...] = (30, 30, 30, 30, 50, 50, 125, 125)
    steps: tuple[int, ...] = (2, 2, 2, 2, 4, 4, 9, 9)

    def __post_init__(self):
        if len(self.levels) != len(self.steps) or not self.levels:
            raise ValueError(f"levels and steps need as many entries: {self.levels} and {self.steps}")
        self.loops()  # their checks

    def loops(self) -> list[Uniform]:
        return [Uniform(level / 1000, n, "ddpm") for level, n in zip(self.levels, self.steps)]

    def surrogate(self) -> Gradual:
        return Gradual((30, 50, 125), (1, 1, 5))

    def plan(self, x_adv: Tensor, mask: None, eps: Denoiser, noise: Noise, schedule: Schedule) -> Plan:
        return chained(self.loops(), Scene(x_adv, eps, noise, schedule))

    def calls(self, schedule: Schedule) -> int:
        return sum(loop.calls(schedule) for loop in self.loops())


@dataclass(frozen=True)
class DensePure(Rival):
    """DensePure: noise once, denoise several times from there, let the results vote.

    `votes` ancestral chains of `steps` calls share one noisy image. Xiao et al. 2023 wrap it in randomised smoothing at a sigma that
    fixes `t` by sigma_t = 2 sigma (images in [-1, 1]), 100,000 draws of noise for CIFAR-10, and certify; here t = 0.14 is about
    their sigma = 0.25, 2 steps and 10 votes are the examples of their README, and no smoothing is around them. Adaptations: the mean
    probability of the votes stands for their hard vote, which has no gradient; the estimate of the clean image is not clipped.
    """

    t: float = 0.14
    steps: int = 2
    votes: int = 10

    def __post_init__(self):
        Uniform(self.t, self.steps)
        if self.votes < 1:
            raise ValueError(f"votes must be at least 1, not {self.votes}")

    def plan(self, x_adv: Tensor, mask: None, eps: Denoiser, noise: Noise, schedule: Schedule) -> Plan:
        common = replace(noise, copies=[c // self.votes for c in noise.copies])
        (t, _), *reverse = Uniform(self.t, self.steps, "ddpm").plan(x_adv, None, eps, noise, schedule)
        return [(t, partial(Scene(x_adv, eps, common, schedule).start, t)), *reverse]


@dataclass(frozen=True)
class RandomSampling(Rival):
    r"""DiffAP: every step forgets the predicted noise and draws new noise, :math:`x_s = \sqrt{\bar\alpha_s}\, \hat x_0 + \sqrt{1 -
    \bar\alpha_s}\, z`.

    `guidance` g pulls the estimate to the input first, :math:`\hat x_0 \leftarrow \hat x_0 - g \sqrt{\bar\alpha_t} (\hat x_0 - x)`. Zhang
    et al. 2024. Adaptations: the released code draws noise of the DDPM posterior's standard deviation, :math:`\sqrt{(1 - \bar\alpha_t /
    \bar\alpha_s)(1 - \bar\alpha_s) / (1 - \bar\alpha_t)}`, here it is that of the formula; its script starts from T, above what the small
    denoiser knows; its guidance is on in the defence and off in the attack, and the gradient of a mean over a batch of 16 times 3e4, g = 2
    * 3e4 / (16 * 3072) = 1.22: here per image, off by default, and in the attack what it is in the defence.
    """

    t: float = 0.1
    steps: int = 5
    guidance: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        not_negative(self, "guidance")

    def plan(self, x_adv: Tensor, mask: None, eps: Denoiser, noise: Noise, schedule: Schedule) -> Plan:
        scene, times = Scene(x_adv, eps, noise, schedule), self.times(schedule)
        return [(times[0], partial(scene.start, times[0]))] + [(s, partial(self.step, scene, t, s)) for t, s in pairwise(times)]

    def step(self, scene: Scene, t: int, s: int, x: Tensor) -> Tensor:
        x0 = x0_xt(x, t, scene.predict(x, t), scene.schedule)
        x0 = x0 - self.guidance * math.sqrt(float(scene.schedule.abar[t])) * (x0 - scene.x_adv)
        return q_xt_x0(x0, s, scene.reverse_noise(t, s, x), scene.schedule) if s else x0


# ---- what the input still knows: low rank, low frequencies ----------------------------------------------------------------------


class TopSubspace(torch.autograd.Function):
    r"""The projector :math:`P = \sum_{i \le r} u_i u_i^T` on the r leading eigenvectors of symmetric matrices (n, h, h).

    Its derivative needs only the gaps across the cut, :math:`dP = \sum_{i \le r < j} (\lambda_i - \lambda_j)^{-1} (u_i u_i^T\, dA\, u_j
    u_j^T + \cdot^T)`, so equal eigenvalues on one side, which a flat image has, do no harm; automatic differentiation would return NaN.
    """

    @staticmethod
    def forward(ctx, matrices: Tensor, rank: int) -> Tensor:
        values, vectors = torch.linalg.eigh(matrices)
        ctx.save_for_backward(values, vectors)
        ctx.rank = rank
        top = vectors[..., values.shape[-1] - rank :]
        return top @ top.mT

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        values, vectors = ctx.saved_tensors
        cut = values.shape[-1] - ctx.rank
        gap = values[:, cut:, None] - values[:, None, :cut]
        gap = gap.clamp(min=1e-7 * float(values.abs().amax().clamp(min=1e-30)))
        inner = vectors[..., cut:].mT @ (gradient + gradient.mT) / 2 @ vectors[..., :cut] / gap
        outer = vectors[..., cut:] @ inner @ vectors[..., :cut].mT
        return outer + outer.mT, None


def low_rank(x: Tensor, share: float) -> Tensor:
    """The Tucker approximation by truncated HOSVD: rows and columns (n, c, h, w) projected on `share` of their leading directions."""
    if share >= 1:
        return x
    keep = [max(1, round(share * size)) for size in x.shape[-2:]]
    rows = TopSubspace.apply((x @ x.mT).sum(1), keep[0])
    columns = TopSubspace.apply((x.mT @ x).sum(1), keep[1])
    return rows[:, None] @ x @ columns[:, None]


@dataclass(frozen=True)
class LoRID(Rival):
    """LoRID: a low-rank (Tucker) approximation of the input, then several short DDPM purifications at a low level.

    `share` of the rows' and columns' directions is kept (1: all). Zollicoffer et al. 2025 ("Geigh et al." in the paper): the loops keep the
    purification error low, the low rank takes what a higher level would. There is no public code, and we had the abstract only: "loops at
    the early time-steps" and a Tucker decomposition "at high-noise regimes" are theirs, all four numbers ours. One loop at share 1 is
    ``uniform`` with the DDPM sampler.
    """

    t: float = 0.05
    steps: int = 5
    loops: int = 4
    share: float = 0.75

    def __post_init__(self):
        super().__post_init__()
        if self.loops < 1 or not 0 < self.share <= 1:
            raise ValueError(f"loops must be at least 1 and share in (0, 1], not {self.loops} and {self.share}")

    def plan(self, x_adv: Tensor, mask: None, eps: Denoiser, noise: Noise, schedule: Schedule) -> Plan:
        loops = chained([Uniform(self.t, self.steps, "ddpm")] * self.loops, Scene(x_adv, eps, noise, schedule))
        return [(0, partial(low_rank, share=self.share)), *loops]

    def calls(self, schedule: Schedule) -> int:
        return self.loops * super().calls(schedule)


@dataclass(frozen=True)
class FreqPure(Rival):
    r"""FreqPure: at every step the estimate of the clean image takes the input's low-frequency amplitudes, and its low-frequency phases may
    differ from the input's by at most `delta` radians.

    With F, F' the transforms of estimate and input, in the |k| <= `cut` lowest frequencies of both axes: :math:`F \leftarrow |F'|
    e^{i(\angle F' + \mathrm{clip}(\angle F - \angle F', \pm\delta))}`. Pei et al. 2025; released settings: cut 3, delta 0.3, levels 20 x
    5 and 50 x 5 (in thousandths of T) with 5 steps each (50 calls), attacked through a single step from level 50: `surrogate`. Here two
    loops at each level, 20 calls. Adaptations: the released code takes the disc of frequencies no longer than `cut`, 29 of them for cut 3,
    where the square here has 49; it copies the phases before it limits them, so that they equal the input's, and clips the estimate to the
    range of images; one version of it has a one-step estimate of the input, from level 20, in the input's place.
    """

    published: ClassVar[dict] = {"levels": (20,) * 5 + (50,) * 5}

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

    def plan(self, x_adv: Tensor, mask: None, eps: Denoiser, noise: Noise, schedule: Schedule) -> Plan:
        return chained([_FrequencyLoop(level / 1000, self.steps, self) for level in self.levels], Scene(x_adv, eps, noise, schedule))

    def calls(self, schedule: Schedule) -> int:
        return sum(Uniform(level / 1000, self.steps).calls(schedule) for level in self.levels)


@dataclass(frozen=True)
class _FrequencyLoop(Rival):
    t: float
    steps: int
    settings: FreqPure

    def plan(self, x_adv: Tensor, mask: None, eps: Denoiser, noise: Noise, schedule: Schedule) -> Plan:
        scene, times = Scene(x_adv, eps, noise, schedule), self.times(schedule)
        return [(times[0], partial(scene.start, times[0]))] + [(s, partial(self.step, scene, t, s)) for t, s in pairwise(times)]

    def step(self, scene: Scene, t: int, s: int, x: Tensor) -> Tensor:
        x0 = x0_xt(x, t, scene.predict(x, t), scene.schedule)
        return scene.ancestral(x, t, s, with_low_frequencies(x0, scene.x_adv, self.settings.cut, self.settings.delta))


def with_low_frequencies(x: Tensor, reference: Tensor, cut: int, delta: float) -> Tensor:
    """`x` with the amplitudes of `reference` and phases within `delta` of its, in the `cut` lowest frequencies of both axes."""
    ours, theirs = torch.fft.fft2(x), torch.fft.fft2(reference)
    turn = torch.angle(ours * theirs.conj()).clamp(-delta, delta)
    k = [torch.fft.fftfreq(size, 1 / size, device=x.device).abs() <= cut for size in x.shape[-2:]]
    low = k[0][:, None] & k[1][None]
    return torch.fft.ifft2(torch.where(low, theirs * torch.polar(torch.ones_like(turn), turn), ours)).real


# ---- chains that run on the score alone -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Langevin(Rival):
    r"""Langevin purification (EBM-LD): a long random walk that forgets the input slowly, :math:`x \leftarrow x + \tfrac12 \eta^2\,
    \mathrm{score}(x) + \eta z`.

    Hill et al. 2021: eta = 0.01, 1500 steps on an energy-based model in [-1, 1]; here the score is that of the unscaled image at the
    fixed time `t`, -eps / sigma_t, and one call makes `stride` of the `length` steps (30 calls; ``stride=1`` is the published chain).
    """

    published: ClassVar[dict] = {"stride": 1}

    t: float = 0.03
    eta: float = 0.01
    length: int = 1500
    stride: int = 50

    def __post_init__(self):
        Uniform(self.t, self.length)
        if not 1 <= self.stride <= self.length:
            raise ValueError(f"stride must be from 1 to {self.length}, not {self.stride}")
        not_negative(self, "eta")

    def plan(self, x_adv: Tensor, mask: None, eps: Denoiser, noise: Noise, schedule: Schedule) -> Plan:
        scene, t = Scene(x_adv, eps, noise, schedule), schedule.index(self.t)
        return [(t, partial(self.step, scene, t, k)) for k in range(self.calls(schedule))]

    def step(self, scene: Scene, t: int, k: int, x: Tensor) -> Tensor:
        variance = self.eta**2 * min(self.stride, self.length - k * self.stride)
        score = -scene.unscaled_noise(x, t) / scene.sigma(t)
        return x + variance / 2 * score + math.sqrt(variance) * scene.noise(f"walk {k}", x)

    def calls(self, schedule: Schedule) -> int:
        return math.ceil(self.length / self.stride)


@dataclass(frozen=True)
class ADP(Rival):
    r"""Adaptive denoising purification: noise, then a few steps along the score whose length follows the curvature.

    :math:`x \leftarrow x + \alpha s(x)`, :math:`\alpha = \kappa \lambda / (1 - z)`, :math:`z = \langle s(x + \lambda s), s \rangle /
    \|s\|^2`; an image rests once alpha is below 1e-3. Yoon et al. 2021, in [0, 1]: noise 0.25, lambda = 1e-3, kappa = 0.05, at most 10
    steps, alpha in [1e-5, 0.1], the mean of 10 copies. Adaptation: their score network knows no time; here the score is that of the
    unscaled image at the fixed time `t` whose sigma_t is about their noise, for which kappa is larger. No clip to [0, 1], and the copies
    are the votes that every row gets. Two calls per step.
    """

    t: float = 0.14
    steps: int = 10
    kappa: float = 0.15
    probe: float = 1e-3

    def __post_init__(self):
        super().__post_init__()
        not_negative(self, "kappa", "probe")

    def plan(self, x_adv: Tensor, mask: None, eps: Denoiser, noise: Noise, schedule: Schedule) -> Plan:
        scene, t = Scene(x_adv, eps, noise, schedule), schedule.index(self.t)
        start = (t, lambda x: x + scene.sigma(t) * noise("start", x))
        return [start] + [(t, partial(self.step, scene, t))] * self.steps

    def step(self, scene: Scene, t: int, x: Tensor) -> Tensor:
        unit = 4.0  # a step length in [0, 1] images is four times as long in [-1, 1]
        score = lambda y: -scene.unscaled_noise(y, t) / scene.sigma(t)
        s, probe = score(x), unit * self.probe
        bend = 1 - _dot(score(x + probe * s), s) / _dot(s, s)
        alpha = (self.kappa * probe / bend.clamp(min=1e-6)).clamp(unit * 1e-5, unit * 0.1)
        return x + torch.where(alpha > unit * 1e-3, alpha, 0) * s

    def calls(self, schedule: Schedule) -> int:
        return 2 * self.steps


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((1, 2, 3), keepdim=True)


# ---- one noise level per image -----------------------------------------------------------------------------------------------


def at_levels(scene: Scene, levels: Tensor, steps: int) -> Plan:
    """Uniform DDIM purification with a time of its own for every image (n,): each descends its own grid of `steps` steps."""
    grid = [(levels * (steps - k) / steps).round().long() for k in range(steps + 1)]
    nominal = [round(float(t.double().mean())) for t in grid]
    return [(nominal[0], partial(scene.start, levels))] + [
        (n, partial(_ddim, scene, t, s)) for n, (t, s) in zip(nominal[1:], pairwise(grid))
    ]


def _ddim(scene: Scene, t: Tensor, s: Tensor, x: Tensor) -> Tensor:
    eps = scene.predict(x, t.clamp(min=1))
    x0 = x0_xt(x, t, eps, scene.schedule)
    return q_xt_x0(x0, s, eps, scene.schedule)


@dataclass(frozen=True)
class SSNI(Rival):
    r"""SSNI: each image gets the noise level that its own score asks for; an image that looks clean gets less.

    :math:`t(x) = (t + b) / (1 + e^{-(\|\bar s(x)\| - \mu) / \tau})`, :math:`\bar s` the mean score (here: predicted noise) of the image
    at `probes` low times up to `probe`, its norm per pixel. Sun et al. 2025, sigmoid form. Its constants belong to a score network:
    `centre` and `width` here are the mean and standard deviation over training images of the small CIFAR-10 bench; `bias` is b, and `t`
    such that a typical image gets DiffPure's 0.1. Neither these nor the probing times were looked up in their release: they are ours. The
    level is piecewise constant, so holding it fixed loses no gradient.
    """

    t: float = 0.2
    steps: int = 10
    bias: float = 0.0
    centre: float = 0.48
    width: float = 0.013
    probes: int = 4
    probe: float = 0.03

    def __post_init__(self):
        super().__post_init__()
        Uniform(self.probe, self.probes)
        if self.width <= 0:
            raise ValueError(f"width must be positive, not {self.width}")

    def plan(self, x_adv: Tensor, mask: None, eps: Denoiser, noise: Noise, schedule: Schedule) -> Plan:
        scene = Scene(x_adv, eps, noise, schedule)
        share = torch.sigmoid((self.score_norm(scene) - self.centre) / self.width)
        levels = ((self.t + self.bias) * share * schedule.T).round().long().clamp(1, schedule.T)
        return at_levels(scene, levels, self.steps)

    @torch.no_grad()
    def score_norm(self, scene: Scene) -> Tensor:
        """The root mean square of the image's mean predicted noise (n,)."""
        times = Uniform(self.probe, self.probes).grid(scene.schedule)[1][:-1]
        draws = [q_xt_x0(scene.x_adv, t, scene.noise(f"probe {t}", scene.x_adv), scene.schedule) for t in times]
        return torch.stack([scene.predict(x, t) for x, t in zip(draws, times)]).mean(0).square().mean((1, 2, 3)).sqrt()

    def calls(self, schedule: Schedule) -> int:
        return self.steps + len(Uniform(self.probe, self.probes).grid(schedule)[1]) - 1


# ---- controls of the method ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EqualEnergy(HetPure):
    r"""Control: uniform noise with the energy of the method's, :math:`1 - \bar\alpha_t = m (1 - \bar\alpha_{t_l}) + (1 - m)(1 -
    \bar\alpha_{t_s})`.

    m is the share of the image's pixels in its mask, so every image has its own t; DDIM with as many calls as the method makes. If the
    method gains from *where* the noise goes, it must beat this row.
    """

    def plan(self, x_adv: Tensor, mask: Tensor, eps: Denoiser, noise: Noise, schedule: Schedule) -> Plan:
        strong, weak = (1 - schedule.abar[schedule.index(t)] for t in (self.t_l, self.t_s))
        share = mask.double().mean((1, 2, 3)).cpu().expand(len(x_adv))
        energy = share * strong + (1 - share) * weak
        levels = (1 - schedule.abar - energy[:, None]).abs().argmin(1).to(x_adv.device)
        return at_levels(Scene(x_adv, eps, noise, schedule), levels, self.calls(schedule))


@dataclass(frozen=True)
class ImageGradient(HetPure):
    """Control: the method with a mask that the classifier has no part in: as many pixels as the attention mask, where the image's own
    gradient magnitude (central differences, 3 x 3 mean) is largest."""

    def mask(self, images: Tensor, classifier: nn.Module, taps: Sequence[nn.Module], noise: Noise) -> Tensor:
        area = super().mask(images, classifier, taps, noise).flatten(1).sum(1, keepdim=True)
        rank = edges(images.detach()).flatten(1).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        return (rank < area).to(images.dtype).reshape(len(images), 1, *images.shape[2:])


def edges(images: Tensor) -> Tensor:
    """The gradient magnitude of images (n, 3, h, w), summed over channels and smoothed: (n, 1, h, w)."""
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    across, down = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2], padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    size = (across.square() + down.square()).sum(1, keepdim=True).sqrt()
    return F.avg_pool2d(F.pad(size, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
