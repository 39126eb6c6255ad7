"""Heterogeneous adversarial purification (Pei et al., CVPR 2025), with the paper's mistakes removed.

The contract is three objects:

- a **denoiser** ``eps(x_t, t)``: noisy images (n, 3, h, w) in the [-1, 1] scale and integer times (n,) in 1..T to the predicted noise;
- a **classifier**: images (n, 3, h, w) in [0, 1] to logits (n, classes); it owns its normalisation, and its ``taps()`` (or the argument
  `taps`) names the modules whose outputs are the activations of Eq 2;
- a **purifier**: a frozen dataclass of settings, `HetPure` (the method) or `Uniform` (one noise level for every pixel).

`purify` returns purified images, `Purified` is the defended classifier. Everything else is the method section, in order. Images are in
[0, 1] at the public boundary and in [-1, 1] inside; noise is `eps`, times are indices into `Schedule.abar`, fractions are of T.
Randomness is keyed by (seed, image, copy, draw) and never by the position in a batch. This module knows no data set, file, attack
or network by name.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Denoiser = Callable[[Tensor, Tensor], Tensor]
Step = Callable[[Tensor], Tensor]
Plan = list[tuple[int, Step]]  # (the time at which the step arrives, the step)

READINGS = ("paper", "released", "multi-step")
SAMPLERS = ("ddim", "ddpm")
MASKS = ("attention", "top-fraction", "random", "inverted", "all", "none")


# ---- 1. diffusion: schedule, noise, forward and reverse steps (Eq 1, 6, 7, 9, 10, 11) -------------------------------------


@dataclass(frozen=True)
class Schedule:
    """The cumulative signal fractions abar_0 = 1 > abar_1 > ... > abar_T > 0, float64 (T + 1,)."""

    abar: Tensor

    def __post_init__(self):
        if self.abar[0] != 1 or (self.abar.diff() >= 0).any() or self.abar[-1] <= 0:
            raise ValueError("abar must start at 1 and fall strictly, staying positive")

    @property
    def T(self) -> int:
        return len(self.abar) - 1

    def index(self, fraction: float) -> int:
        """The time index nearest to a fraction of T; raises outside (0, 1]."""
        if not 0 < fraction <= 1:
            raise ValueError(f"a noise level is a fraction of T in (0, 1], not {fraction}")
        return max(1, round(fraction * self.T))

    def signal_and_noise(self, t: int | Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(abar_t) and sqrt(1 - abar_t), taken in float64 and broadcasting over images; `t` is one index or one per image."""
        abar = self.abar[t.cpu() if isinstance(t, Tensor) else t].reshape(-1, 1, 1, 1)
        return abar.sqrt().to(like), (1 - abar).sqrt().to(like)


def linear_schedule(T: int = 1000, beta_1: float = 1e-4, beta_T: float = 2e-2) -> Schedule:
    r"""The linear schedule of DDPM, :math:`\bar\alpha_t = \prod_{s \le t} (1 - \beta_s)`. Paper: §5.1. Book: ch01, eq-schedule."""
    beta = torch.linspace(beta_1, beta_T, T, dtype=torch.float64)
    return Schedule(torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - beta, 0)]))


@dataclass(frozen=True)
class Noise:
    """Standard normal noise keyed by (seed, image, copy, draw): the same key gives the same noise in any batch, shard or order.

    `images` and `copies` hold one entry per row of the batch: whose noise it is, and which of its independent purifications.
    """

    seed: int | str
    images: Sequence[int | str]
    copies: Sequence[int]

    def __post_init__(self):
        if len(self.images) != len(self.copies):
            raise ValueError(f"{len(self.images)} images but {len(self.copies)} copies")

    def generators(self, draw: str) -> Iterator[torch.Generator]:
        for image, copy in zip(self.images, self.copies):
            key = hashlib.blake2b(f"{self.seed}\0{image}\0{copy}\0{draw}".encode(), digest_size=8).digest()
            yield torch.Generator().manual_seed(int.from_bytes(key, "big") >> 1)

    def __call__(self, draw: str, like: Tensor) -> Tensor:
        """Noise of the shape, type and device of `like`; always drawn in float32 on the CPU, so that all devices agree."""
        if len(like) != len(self.images):
            raise ValueError(f"noise for {len(self.images)} images was asked of a batch of {len(like)}")
        return torch.stack([torch.randn(like.shape[1:], generator=g) for g in self.generators(draw)]).to(like)


def q_xt_x0(x0: Tensor, t: int | Tensor, eps: Tensor, schedule: Schedule) -> Tensor:
    r"""Diffuse: :math:`x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon`. Paper: Eq 1, 6. Book: ch01, eq-forward."""
    signal, sigma = schedule.signal_and_noise(t, x0)
    return signal * x0 + sigma * eps


def q_xt_xs(xs: Tensor, s: int, t: int, eps: Tensor, schedule: Schedule) -> Tensor:
    r"""Diffuse on from s to t > s,
    :math:`x_t = \sqrt{\bar\alpha_t / \bar\alpha_s}\, x_s + \sqrt{1 - \bar\alpha_t / \bar\alpha_s}\, \epsilon`.

    One step of it is Eq 10 (with the index corrected: erratum E4); t - s of them compose to this. Book: ch03, eq-renoise.
    """
    ratio = float(schedule.abar[t] / schedule.abar[s])
    return math.sqrt(ratio) * xs + math.sqrt(1 - ratio) * eps


def x0_xt(xt: Tensor, t: int, eps: Tensor, schedule: Schedule) -> Tensor:
    r"""The denoised estimate :math:`\hat x_0 = (x_t - \sqrt{1 - \bar\alpha_t}\, \epsilon) / \sqrt{\bar\alpha_t}`.

    Paper: in Eq 11. Book: ch01, eq-x0.
    """
    signal, sigma = schedule.signal_and_noise(t, xt)
    return (xt - sigma * eps) / signal


def p_xs_xt(xt: Tensor, t: int, s: int, eps: Tensor, schedule: Schedule, eta: float = 0.0, z: Tensor | None = None) -> Tensor:
    r"""Denoise from t to s < t: :math:`x_s = \sqrt{\bar\alpha_s}\, \hat x_0 + \sqrt{1 - \bar\alpha_s - \sigma^2}\, \epsilon + \sigma z`,
    :math:`\sigma = \eta \sqrt{\tfrac{1 - \bar\alpha_s}{1 - \bar\alpha_t} (1 - \tfrac{\bar\alpha_t}{\bar\alpha_s})}`.

    `eta` = 0 is DDIM and Eq 11; `eta` = 1 is the ancestral DDPM step, and with s = t - 1 exactly Eq 7 and 9. `z` is standard normal
    noise, needed when `eta` > 0. Book: ch01, eq-reverse.
    """
    abar_t, abar_s = float(schedule.abar[t]), float(schedule.abar[s])
    variance = eta**2 * (1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s)
    xs = math.sqrt(abar_s) * x0_xt(xt, t, eps, schedule) + math.sqrt(max(0.0, 1 - abar_s - variance)) * eps
    return xs + math.sqrt(variance) * z if eta else xs


def time_grid(t_l: int, t_s: int, steps: int) -> tuple[list[int], list[int]]:
    """The times visited in stage 1 (t_l down to t_s) and stage 2 (t_s down to 0), both ends included.

    `steps` is shared in proportion to the two lengths, rounding in favour of stage 2; t_l and t_s are always visited exactly, and no
    stage has more steps than indices.
    With t_s = t_l stage 1 is empty: the grid of uniform purification. Book: ch01, eq-grid.
    """
    if not 1 <= t_s <= t_l:
        raise ValueError(f"the grid needs 1 <= t_s <= t_l, not t_s = {t_s}, t_l = {t_l}")
    n_2 = max(1, math.ceil(steps * t_s / t_l))
    n_1 = 0 if t_s == t_l else max(1, min(steps - n_2, t_l - t_s))
    n_2 = min(max(steps - n_1, 0), t_s)
    if n_2 < 1:
        raise ValueError(f"{steps} steps are too few to contain both times: two levels need at least 2")
    return _descend(t_l, t_s, n_1), _descend(t_s, 0, n_2)


def _descend(start: int, stop: int, n: int) -> list[int]:
    return [round(start + (stop - start) * i / n) for i in range(n + 1)] if n else [start]


# ---- 2. attention mask (Eq 2-4, Alg 2) -------------------------------------------------------------------------------------


@contextmanager
def tapped(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Collect the outputs of `modules` during a forward pass, in the order given; every hook is gone when the block ends."""
    outputs: dict[int, Tensor] = {}
    ordered: list[Tensor] = []
    hooks = [m.register_forward_hook(lambda _m, _i, out, k=k: outputs.__setitem__(k, out)) for k, m in enumerate(modules)]
    try:
        yield ordered
    finally:
        for hook in hooks:
            hook.remove()
        ordered.extend(outputs[k] for k in sorted(outputs))


def activation_map(activation: Tensor, p: int = 2, root: bool = True) -> Tensor:
    r"""The p-norm over channels, :math:`G_m = (\sum_i |A_{mi}|^p)^{1/p}`, (n, c, h, w) to (n, 1, h, w). Paper: Eq 2. Book: ch02, eq-pnorm.

    ``root=False`` leaves the sum of powers, as the released code does with p = 2.
    """
    _check_count("p", p)
    if root:
        return torch.linalg.vector_norm(activation, ord=p, dim=1, keepdim=True)
    return activation.abs().pow(p).sum(1, keepdim=True)


def min_max(maps: Tensor) -> Tensor:
    """Scale every map to [0, 1] by its own extremes; a constant map becomes 0.

    What Eq 3's phi has to be (erratum E2). Book: ch02, eq-minmax.
    """
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    spread = high - low
    return torch.where(spread > 0, (maps - low) / torch.where(spread > 0, spread, 1), 0)


def spatial_softmax(maps: Tensor) -> Tensor:
    """Eq 3 to the letter: a softmax over pixels. It sums to 1, so at most one pixel per block can exceed 1/2. Book: ch02, eq-softmax."""
    return maps.flatten(-2).softmax(-1).reshape(maps.shape)


def attention_maps(
    images: Tensor, classifier: nn.Module, taps: Sequence[nn.Module], p: int = 2, root: bool = True, phi: Callable = min_max
) -> Tensor:
    r"""One map per block at image size, :math:`AM_m = \phi(\mathrm{Bi}(G_m))`: (n, 3, h, w) to (n, M, h, w).

    Paper: Eq 2, 3, Alg 2. Book: ch02, eq-maps.
    """
    if not taps:
        raise ValueError("an attention map needs at least one tap")
    with tapped(taps) as activations:
        classifier(images)
    if len(activations) != len(taps):
        raise ValueError(f"only {len(activations)} of {len(taps)} taps ran in the classifier's forward pass")
    size = images.shape[-2:]
    blocks = [F.interpolate(activation_map(a, p, root), size, mode="bilinear", align_corners=False) for a in activations]
    return phi(torch.cat(blocks, dim=1))


def threshold_mask(maps: Tensor, tau: float) -> Tensor:
    r"""The union of the blocks, :math:`\mathcal M = \bigcup_m [AM_m > \tau]`: (n, M, h, w) to (n, 1, h, w) of 0 and 1.

    Paper: Eq 4. Book: ch02, eq-mask.
    """
    return (maps > tau).any(1, keepdim=True).to(maps.dtype)


def soft_mask(maps: Tensor, tau: float, temperature: float = 0.05) -> Tensor:
    """A differentiable stand-in for `threshold_mask`, for attacks that look through the mask; tends to it as `temperature` falls to 0."""
    return torch.sigmoid((maps.amax(1, keepdim=True) - tau) / temperature)


def top_fraction_mask(maps: Tensor, fraction: float) -> Tensor:
    """The `fraction` of pixels with the highest maximum over blocks (the released code's ImageNet mask). Book: ch02, eq-topk."""
    score = maps.amax(1).flatten(1)
    return _first_pixels(score.argsort(dim=1, descending=True, stable=True), int(fraction * score.shape[1]), maps)


def random_mask(mask: Tensor, noise: Noise) -> Tensor:
    """Control: as many pixels as `mask` has, chosen at random per image."""
    score = noise("mask", mask).flatten(1)
    return _first_pixels(score.argsort(dim=1), mask.flatten(1).sum(1, keepdim=True), mask)


def _first_pixels(order: Tensor, count: int | Tensor, like: Tensor) -> Tensor:
    n, (h, w) = len(order), like.shape[-2:]
    chosen = (torch.arange(h * w, device=order.device) < count).expand(n, -1).to(like.dtype)
    return torch.zeros(n, h * w, dtype=like.dtype, device=like.device).scatter(1, order, chosen).reshape(n, 1, h, w)


# ---- 3. heterogeneous purification (Eq 5, 8-11, Alg 1) ---------------------------------------------------------------------


def merge(mask: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
    r""":math:`\mathcal M \odot x^{inside} + (1 - \mathcal M) \odot x^{outside}`.

    Paper: Eq 5, and Eq 8 with the text's orientation (erratum E1). Book: ch03, eq-merge.
    """
    return mask * inside + (1 - mask) * outside


@dataclass(frozen=True)
class Uniform:
    """Uniform purification (DiffPure with a discrete sampler): diffuse every pixel to `t`, then `steps` reverse steps. Paper: Eq 1, 9."""

    t: float = 0.1
    steps: int = 10
    sampler: str = "ddim"

    def __post_init__(self):
        _check_sampling(self.sampler, self.steps, t=self.t)

    def mask(self, images: Tensor, classifier: nn.Module, taps: Sequence[nn.Module], noise: Noise) -> None:
        """No mask: one level for all."""

    def grid(self, schedule: Schedule) -> tuple[list[int], list[int]]:
        """Times of the two stages; the first is empty."""
        return time_grid(schedule.index(self.t), schedule.index(self.t), self.steps)

    def plan(self, x_adv: Tensor, mask: None, eps: Denoiser, noise: Noise, schedule: Schedule) -> Plan:
        """Diffuse, then denoise along the grid."""
        _, times = self.grid(schedule)
        moves = _Moves(x_adv, mask, eps, noise, schedule, self.sampler)
        return [(times[0], partial(moves.diffuse, t=times[0]))] + moves.stage_2(times)

    def calls(self, schedule: Schedule) -> int:
        """Denoiser calls per purification."""
        return len(self.grid(schedule)[1]) - 1


@dataclass(frozen=True)
class HetPure:
    """The method: noise `t_l` where the mask is 1, `t_s` elsewhere, two-stage reverse process, resampling through `U` indices.

    `reading` chooses the order of operations in stage 1, from time t to the next time s:

    - ``paper`` - Algorithm 1 with the errata applied: denoise to s, merge at s (Eq 8), diffuse to s + U (Eq 10), one DDIM step back
      to s (Eq 11): two denoiser calls per step.
    - ``released`` - the public code: merge at t, diffuse to t + U by U unit steps, one jump to s: one call per step, on
      `released_grid` and with `released_mask`.
    - ``multi-step`` - RePaint's resampling, which Eq 11 replaces: (denoise to s, merge) U times, diffusing back to t in between:
      U calls per step.

    Fractions `t_l`, `t_s` of T in (0, 1]; `tau` is the threshold on maps in [0, 1]; `U` counts time indices (``multi-step``:
    repetitions); `mask_kind` is one of `MASKS`, `fraction` the area of ``top-fraction``; `p` as in Eq 2; `blocks` the taps used (None:
    all). Every setting is checked: `ValueError`. Paper: §3, §4, Alg 1. Book: ch03, eq-algorithm.
    """

    t_l: float = 0.2
    t_s: float = 0.05
    tau: float = 0.8
    U: int = 10
    steps: int = 10
    reading: str = "paper"
    sampler: str = "ddim"
    mask_kind: str = "attention"
    fraction: float = 0.15
    p: int = 2
    blocks: tuple[int, ...] | None = None

    def __post_init__(self):
        _check_sampling(self.sampler, self.steps, t_l=self.t_l, t_s=self.t_s)
        _check_choice("reading", self.reading, READINGS)
        _check_choice("mask_kind", self.mask_kind, MASKS)
        _check_count("U", self.U)
        _check_count("p", self.p)
        if self.t_s >= self.t_l:
            raise ValueError(f"the weak noise t_s = {self.t_s} must be below the strong noise t_l = {self.t_l}")
        if not 0 <= self.tau <= 1:
            raise ValueError(f"tau is a threshold on maps in [0, 1], not {self.tau}")
        if not 0 <= self.fraction <= 1:
            raise ValueError(f"fraction is a share of the pixels in [0, 1], not {self.fraction}")

    def mask(self, images: Tensor, classifier: nn.Module, taps: Sequence[nn.Module], noise: Noise) -> Tensor:
        """The mask (n, 1, h, w) of images in [0, 1], 1 where the strong noise goes; computed without gradient. Paper: Alg 2."""
        if self.blocks is not None:
            if not all(0 <= b < len(taps) for b in self.blocks):
                raise ValueError(f"blocks must be from 0 to {len(taps) - 1}, not {self.blocks}")
            taps = [taps[b] for b in self.blocks]
        with torch.no_grad():
            attended = self._attended(images, classifier, taps)
            if self.mask_kind == "random":
                return random_mask(attended, noise)
            controls = {"inverted": 1 - attended, "all": torch.ones_like(attended), "none": torch.zeros_like(attended)}
            return controls.get(self.mask_kind, attended)

    def _attended(self, images: Tensor, classifier: nn.Module, taps: Sequence[nn.Module]) -> Tensor:
        released = self.reading == "released"
        if released and self.mask_kind != "top-fraction":
            return released_mask(images, classifier, taps, self.tau)
        maps = released_maps(images, classifier, taps) if released else attention_maps(images, classifier, taps, self.p)
        return top_fraction_mask(maps, self.fraction) if self.mask_kind == "top-fraction" else threshold_mask(maps, self.tau)

    def grid(self, schedule: Schedule) -> tuple[list[int], list[int]]:
        """Times of the two stages."""
        if self.reading == "released":
            return released_grid(self.t_l, self.t_s, self.steps, schedule.T)
        t_l, t_s = schedule.index(self.t_l), schedule.index(self.t_s)
        if t_l == t_s:
            raise ValueError(f"t_l = {self.t_l} and t_s = {self.t_s} fall on the same of {schedule.T} times")
        return time_grid(t_l, t_s, self.steps)

    def plan(self, x_adv: Tensor, mask: Tensor, eps: Denoiser, noise: Noise, schedule: Schedule) -> Plan:
        """Algorithm 1: the forward process, then stage 1 in the chosen reading, then stage 2."""
        stage_1, stage_2 = self.grid(schedule)
        moves = _Moves(x_adv, mask, eps, noise, schedule, self.sampler)
        step = {"paper": moves.denoise_merge_resample, "released": moves.merge_resample_jump, "multi-step": moves.repeat_denoise_merge}
        start = partial(moves.diffuse, t=stage_1[0])
        if self.reading != "released":
            start = partial(moves.diffuse_heterogeneously, t_l=stage_1[0], t_s=stage_1[-1])
        strong = [(s, partial(step[self.reading], t=t, s=s, U=self.U)) for t, s in pairwise(stage_1)]
        return [(stage_1[0], start)] + strong + moves.stage_2(stage_2)

    def calls(self, schedule: Schedule) -> int:
        """Denoiser calls per purification."""
        stage_1, stage_2 = self.grid(schedule)
        per_step = {"paper": 2, "released": 1, "multi-step": self.U}[self.reading]
        return per_step * (len(stage_1) - 1) + len(stage_2) - 1


@dataclass(frozen=True)
class _Moves:
    """The moves that purifiers are made of, for one batch. Every draw of noise has a name, so that it can be replayed or frozen."""

    x_adv: Tensor
    mask: Tensor | None
    eps: Denoiser
    noise: Noise
    schedule: Schedule
    sampler: str

    def diffuse(self, x: Tensor, t: int) -> Tensor:
        """Eq 1."""
        return q_xt_x0(x, t, self.noise("start", x), self.schedule)

    def diffuse_heterogeneously(self, x: Tensor, t_l: int, t_s: int) -> Tensor:
        """Eq 5, and then what Eq 6 says of the weakly noised pixels: "further adding noise" brings them to t_l as well, since the
        network needs one level for all pixels."""
        outside = q_xt_x0(x, t_s, self.noise("start weak", x), self.schedule)
        outside = q_xt_xs(outside, t_s, t_l, self.noise("start rest", x), self.schedule)
        return merge(self.mask, self.diffuse(x, t_l), outside)

    def denoise(self, x: Tensor, t: int, s: int, draw: str = "", sampler: str | None = None) -> Tensor:
        """Eq 7 and 9: one denoiser call takes x from t to s."""
        predicted = self.eps(x, torch.full((len(x),), t, device=x.device))
        if (sampler or self.sampler) == "ddim":
            return p_xs_xt(x, t, s, predicted, self.schedule)
        return p_xs_xt(x, t, s, predicted, self.schedule, eta=1.0, z=self.noise(f"reverse {t} {s} {draw}", x))

    def merge_known(self, x: Tensor, t: int, draw: str = "") -> Tensor:
        """Eq 6 and 8: outside the mask, the input diffused to t replaces x."""
        return merge(self.mask, x, q_xt_x0(self.x_adv, t, self.noise(f"known {t} {draw}", x), self.schedule))

    def denoise_merge_resample(self, x: Tensor, t: int, s: int, U: int) -> Tensor:
        """Stage 1 of the paper: Eq 7, 8, 10 and 11."""
        x, up = self.merge_known(self.denoise(x, t, s), s), min(s + U, self.schedule.T)
        x = q_xt_xs(x, s, up, self.noise(f"renoise {s}", x), self.schedule)
        return self.denoise(x, up, s, sampler="ddim")

    def repeat_denoise_merge(self, x: Tensor, t: int, s: int, U: int) -> Tensor:
        """Stage 1 with the U-fold resampling that Eq 11 replaces."""
        for u in range(U):
            if u:
                x = q_xt_xs(x, s, t, self.noise(f"renoise {s} {u}", x), self.schedule)
            x = self.merge_known(self.denoise(x, t, s, str(u)), s, str(u))
        return x

    def merge_resample_jump(self, x: Tensor, t: int, s: int, U: int) -> Tensor:
        """Stage 1 of the released code."""
        x, up = self.merge_known(x, t), min(t + U, self.schedule.T)
        for u in range(t, up):
            x = q_xt_xs(x, u, u + 1, self.noise(f"renoise {t} {u + 1}", x), self.schedule)
        return self.denoise(x, up, s)

    def stage_2(self, times: list[int]) -> Plan:
        """Eq 9 along the grid."""
        return [(s, partial(self.denoise, t=t, s=s)) for t, s in pairwise(times)]


def released_grid(t_l: float, t_s: float, steps: int, T: int) -> tuple[list[int], list[int]]:
    """The released code's times: the first multiples of T // steps up to t_l, one more than its zero-based indices.

    So the last state is at index 1 instead of the clean 0, stage 1 lasts while the *next* time is not below t_s, and t_l and t_s are
    visited only if the stride divides them. Book: ch03, eq-released.
    """
    if steps > T:
        raise ValueError(f"the released grid has at most {T} steps, not {steps}")
    stride = T // steps
    times = [i + 1 for i in range(0, T - 1, stride)[: int(steps * t_l) + 1]][::-1]
    if len(times) < 2:
        raise ValueError(f"{steps} steps are too few to contain t_l = {t_l}: the released grid has a stride of {stride} indices")
    n_1 = sum(s - 1 >= t_s * T for s in times[1:])
    return times[: n_1 + 1], times[n_1:]


def released_maps(images: Tensor, classifier: nn.Module, taps: Sequence[nn.Module]) -> Tensor:
    """The released code's maps (n, M, h, w): sums of squares, from the [-1, 1] image under ImageNet's normalisation whatever the data."""
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).to(images)[:, :, None, None]
    return attention_maps((2 * images - 1 - mean) / std, classifier, taps, p=2, root=False)


def released_mask(images: Tensor, classifier: nn.Module, taps: Sequence[nn.Module], tau: float) -> Tensor:
    """The released code's mask (n, 1, h, w): the maximum of `released_maps` over blocks is at least `tau`. Book: ch02, eq-mask."""
    return (released_maps(images, classifier, taps).amax(1, keepdim=True) >= tau).to(images.dtype)


# ---- 4. the defended classifier: exact gradients, voting (Alg 3) -----------------------------------------------------------

FLAT_UP_TO = 24  # denoiser calls whose states are all kept for the backward pass; longer chains are cut into segments


def trajectory(x_adv: Tensor, plan: Plan) -> Iterator[tuple[int, Tensor]]:
    """Every state (time, x) of a purification in the [-1, 1] scale, from the noised start to the purified end."""
    x = x_adv
    for time, step in plan:
        x = step(x)
        yield time, x


def run(x_adv: Tensor, plan: Plan, segment: int | None = None) -> Tensor:
    """The last state of `trajectory`. With `segment`, that many steps at a time are recomputed in the backward pass instead of stored."""
    if segment is None:
        *_, (_, x) = trajectory(x_adv, plan)
        return x
    x = x_adv
    for i in range(0, len(plan), segment):
        x = checkpoint(run, x, plan[i : i + segment], use_reentrant=False, preserve_rng_state=False)
    return x


class Purified(nn.Module):
    """A classifier behind a purifier, as one module from images (n, 3, h, w) in [0, 1] to logits (n, classes).

    Gradients are exact: they go through every denoiser call and every use of the input, with the noise replayed and the mask held
    fixed. Only the state between calls is stored, and a network's activations are recomputed (``checkpointing=False`` keeps
    them; the gradients are equal). Both networks are put in eval mode and frozen.

    `votes` > 1 makes `forward` return the log of the mean probability over that many purifications (Alg 3, soft).
    Without `ids` a call draws noise that no earlier call of this module used. Paper: §3, §4, Alg 3. Book: ch04, eq-defended.
    """

    def __init__(
        self,
        classifier: nn.Module,
        denoiser: nn.Module,
        purifier: HetPure | Uniform | None = None,
        *,
        schedule: Schedule | None = None,
        taps: Sequence[nn.Module] | None = None,
        votes: int = 1,
        seed: int | str = 0,
        checkpointing: bool = True,
    ):
        super().__init__()
        _check_count("votes", votes)
        self.classifier, self.denoiser = classifier.eval().requires_grad_(False), denoiser.eval().requires_grad_(False)
        self.purifier, self.schedule = purifier or HetPure(), schedule or linear_schedule()
        self.tap_modules = list(classifier.taps() if taps is None else taps)
        self.votes, self.seed, self.checkpointing, self._anonymous = votes, seed, checkpointing, 0

    def train(self, mode: bool = True) -> Purified:
        """Stays in eval mode: a defence is not trained."""
        return super().train(False)

    def noise(self, n: int, ids: Sequence[int | str] | None = None, copies: Sequence[int] | None = None) -> Noise:
        """The noise of one call: keyed by `ids` and `copies` (0 if not given), or fresh if the images have no ids."""
        if ids is None:
            if copies is not None:
                raise ValueError("copies need ids: without ids every call draws fresh noise")
            self._anonymous += 1
            return Noise(self.seed, [f"anonymous {self._anonymous} {i}" for i in range(n)], [0] * n)
        return Noise(self.seed, ids, [0] * n if copies is None else copies)

    def mask(self, images: Tensor, noise: Noise) -> Tensor | None:
        """The purifier's mask (n, 1, h, w), or None if it uses none."""
        return self.purifier.mask(images, self.classifier, self.tap_modules, noise)

    def plan(self, images: Tensor, noise: Noise, mask: Tensor | None = None) -> Plan:
        """The purification of images in [0, 1] as a list of steps, for `trajectory` or `run` on ``2 * images - 1``."""
        mask = self.mask(images, noise) if mask is None else mask
        if mask is not None and (mask.shape[1:] != (1, *images.shape[2:]) or len(mask) not in (1, len(images))):
            raise ValueError(f"a mask must have the shape (n or 1, 1, h, w), not {tuple(mask.shape)} for images {tuple(images.shape)}")
        return self.purifier.plan(2 * images - 1, mask, self._eps, noise, self.schedule)

    def _eps(self, x: Tensor, t: Tensor) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(self.denoiser, x, t, use_reentrant=False, preserve_rng_state=False)
        return self.denoiser(x, t)

    def purify(self, images: Tensor, noise: Noise, mask: Tensor | None = None) -> Tensor:
        """Purified images, not clamped, so that no gradient is lost at the edges of [0, 1]."""
        x_adv = 2 * images - 1
        plan, calls = self.plan(images, noise, mask), self.purifier.calls(self.schedule)
        long = self.checkpointing and torch.is_grad_enabled() and calls > FLAT_UP_TO
        return (run(x_adv, plan, math.ceil(math.sqrt(len(plan))) if long else None) + 1) / 2

    def forward(
        self, images: Tensor, ids: Sequence[int | str] | None = None, copies: Sequence[int] | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Logits, or with several votes log mean probabilities. Raises `ValueError` for images that are not finite floats in [0, 1]."""
        check_images(images)
        noise = self.noise(len(images), ids, copies)
        if self.votes == 1:
            return self.classifier(self.purify(images, noise, mask))
        every = lambda rows: [r for r in rows for _ in range(self.votes)]
        noise = Noise(self.seed, every(noise.images), [c * self.votes + s for c in noise.copies for s in range(self.votes)])
        mask = None if mask is None else mask.repeat_interleave(self.votes, 0)
        logits = self.classifier(self.purify(images.repeat_interleave(self.votes, 0), noise, mask))
        return mean_log_probability(logits.unflatten(0, (-1, self.votes)).transpose(0, 1))


def purify(
    images: Tensor,
    classifier: nn.Module,
    denoiser: nn.Module,
    purifier: HetPure | Uniform | None = None,
    *,
    ids: Sequence[int | str] | None = None,
    copies: Sequence[int] | None = None,
    seed: int | str = 0,
    schedule: Schedule | None = None,
    taps: Sequence[nn.Module] | None = None,
) -> Tensor:
    """Purified images in [0, 1] for images (n, 3, h, w) in [0, 1]; settings as in `Purified`, `ids` 0 to n - 1 if not given.

    Paper: Alg 1, 2. Book: ch03, eq-algorithm.
    """
    check_images(images)
    defended = Purified(classifier, denoiser, purifier, seed=seed, schedule=schedule, taps=taps)
    noise = defended.noise(len(images), range(len(images)) if ids is None else ids, copies)
    with torch.no_grad():
        return defended.purify(images, noise).clamp(0, 1)


def mean_log_probability(logits: Tensor) -> Tensor:
    """log of the mean softmax over runs: logits (S, n, classes) to (n, classes)."""
    return logits.log_softmax(-1).logsumexp(0) - math.log(len(logits))


def vote(logits: Tensor, how: str = "soft") -> Tensor:
    r"""The label from S runs: logits (S, n, classes) to (n,). Paper: Alg 3. Book: ch03, eq-vote.

    ``soft`` is :math:`\arg\max_k \frac1S \sum_s \mathrm{softmax}(F(x^{(s)}))_k`; ``hard`` counts the runs' labels (the released code), and
    equal counts go to the larger mean probability.
    """
    _check_choice("how", how, ("soft", "hard"))
    mean = mean_log_probability(logits).exp()
    if how == "soft":
        return mean.argmax(-1)
    counts = F.one_hot(logits.argmax(-1), logits.shape[-1]).sum(0)
    return (counts + mean / 2).argmax(-1)  # mean / 2 < 1: it decides only between equal counts


# ---- 5. checks -------------------------------------------------------------------------------------------------------------


def check_images(images: Tensor) -> None:
    """Raise `ValueError` unless `images` is a finite float tensor (n, 3, h, w) in [0, 1]."""
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = getattr(images, "dtype", type(images).__name__)
        raise ValueError(f"images must be a float tensor, not {kind} (divide 8-bit pixels by 255)")
    if images.ndim != 4 or images.shape[1] != 3 or not images.numel():
        raise ValueError(f"images must have the shape (n, 3, h, w) with n >= 1, not {tuple(images.shape)}")
    low, high = images.detach().amin().item(), images.detach().amax().item()
    if math.isnan(low) or math.isnan(high):
        raise ValueError("images contain NaN")
    if low < 0 or high > 1:
        raise ValueError(f"images must be in [0, 1], but range from {low:.4g} to {high:.4g}")


def _check_choice(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")


def _check_count(name: str, value: int) -> None:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")


def _check_sampling(sampler: str, steps: int, **levels: float) -> None:
    _check_choice("sampler", sampler, SAMPLERS)
    _check_count("steps", steps)
    for name, level in levels.items():
        if not 0 < level <= 1:
            raise ValueError(f"{name} is a fraction of T in (0, 1], not {level}")
