"""Heterogeneous adversarial purification (Pei et al., CVPR 2025), with the paper's mistakes removed.

The contract is three Protocols, `Denoiser`, `Classifier` and `Purifier`; none asks for a base class, and any callable is a network.
`purify` returns purified images, `Purified` is the defended classifier; the rest is the method section, in order. Images are in [0, 1] at
the public boundary and in [-1, 1] inside; noise is `eps`, times are indices into `Schedule.abar`, fractions are of T. Networks run in
eval mode with gradients for the images only, and the caller's stay as they were (`frozen`). What enters and leaves them is checked:
`ValueError`. Randomness is keyed by (seed, image, copy, draw) and never by the position in a batch; images without ids get fresh noise.
Threads may share modules. This module knows no data set, file, attack or network by name.
"""

from __future__ import annotations

import hashlib
import math
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import pairwise
from numbers import Real
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import checkpoint

__all__ = [
    "FLAT_UP_TO", "MASKS", "READINGS", "SAMPLERS", "Classifier", "Denoiser", "Draws", "GivenNoise", "HetPure", "Noise", "Plan",
    "Purified", "Purifier", "Schedule", "Step", "Uniform", "activation_map", "attention_maps", "check_images", "draws_of", "frozen",
    "linear_schedule", "mean_log_probability", "merge", "min_max", "p_xs_xt", "purify", "q_xt_x0", "q_xt_xs", "random_mask",
    "released_grid", "released_maps", "released_mask", "run", "soft_mask", "spatial_softmax", "tapped", "threshold_mask", "time_grid",
    "top_fraction_mask", "trajectory", "vote", "x0_xt",
]  # fmt: skip

Step = Callable[[Tensor], Tensor]
Plan = list[tuple[int, Step]]  # (the time at which the step arrives, the step)
Draws = Callable[[str, Tensor], Tensor]  # (the name of a draw, a tensor to resemble) to standard normal noise
Ids = Sequence[int | str]  # whose noise each row of a batch gets
Taps = Sequence[nn.Module]  # the modules at whose outputs a mask looks
READINGS, SAMPLERS = ("paper", "released", "multi-step"), ("ddim", "ddpm")
MASKS = ("attention", "top-fraction", "random", "inverted", "all", "none")
AHEAD = 32  # draws of noise that are sent to a device at once
FLAT_UP_TO = 24  # denoiser calls whose states are all kept for the backward pass; longer chains are cut into segments
SLACK = 1e-6  # by which images may leave [0, 1], as they do by rounding
_LOCK = threading.Lock()  # PyTorch numbers its hooks without one
_torch: Any = torch  # for what PyTorch leaves without a type
_POOL = ThreadPoolExecutor(thread_name_prefix="noise")
_recomputed: Callable[..., Any] = partial(vars(checkpoint)["checkpoint"], use_reentrant=False, preserve_rng_state=False)


class Denoiser(Protocol):
    """Noisy images (n, c, h, w) in [-1, 1] and integer times (n,) in 1..T to the predicted noise (n, c, h, w)."""

    def __call__(self, x: Tensor, t: Tensor, /) -> Tensor: ...


class Classifier(Protocol):
    """Images (n, c, h, w) in [0, 1] to finite logits (n, classes); it owns its normalisation. Its ``taps()`` (or the argument `taps`) name
    the modules whose outputs (n, c, h, w) are the activations of Eq 2; only a purifier that looks at them needs any."""

    def __call__(self, images: Tensor, /) -> Tensor: ...


class Purifier(Protocol):
    """A frozen dataclass of settings: the mask of images in [0, 1], or None; steps from images in [-1, 1]; how many denoiser calls."""

    def mask(self, images: Tensor, classifier: Classifier, taps: Taps, noise: Draws) -> Tensor | None: ...
    def plan(self, x_adv: Tensor, mask: Tensor | None, eps: Denoiser, noise: Draws, schedule: Schedule) -> Plan: ...
    def calls(self, schedule: Schedule) -> int: ...


# ---- 1. diffusion: schedule, noise, forward and reverse steps (Eq 1, 6, 7, 9, 10, 11) -------------------------------------
@dataclass(frozen=True)
class Schedule:
    """The cumulative signal fractions abar_0 = 1 > abar_1 > ... > abar_T > 0, float64 (T + 1,)."""

    abar: Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "abar", torch.as_tensor(self.abar, dtype=torch.float64, device="cpu").detach())
        if self.abar.ndim != 1 or self.T < 1 or self.abar[0] != 1 or not ((self.abar.diff() < 0).all() and self.abar[-1] > 0):
            raise ValueError("abar must start at 1 and fall strictly, staying positive")

    @cached_property
    def floats(self) -> tuple[list[float], list[float], list[float]]:
        """abar, sqrt(abar) and sqrt(1 - abar) as numbers, which no device has to wait for."""
        return (abar := _torch.as_tensor(self.abar)).tolist(), abar.sqrt().tolist(), (1 - abar).sqrt().tolist()

    @property
    def T(self) -> int:
        return len(self.abar) - 1

    def index(self, fraction: float) -> int:
        """The time index nearest to a fraction of T; raises outside (0, 1]."""
        _require(0 < fraction <= 1, f"a noise level is a fraction of T in (0, 1], not {fraction}")
        return max(1, round(fraction * self.T))

    def signal_and_noise(self, t: int | Tensor, like: Tensor) -> tuple[Any, ...]:
        """sqrt(abar_t) and sqrt(1 - abar_t), taken in float64: floats for one index `t`, (n, 1, 1, 1) like `like` for one per image."""
        if not isinstance(t, Tensor):
            return self.floats[1][t], self.floats[2][t]
        return _tables(self, like.device, like.dtype)[:, t.to(like.device)].reshape(2, -1, 1, 1, 1).unbind()


@lru_cache(maxsize=64)
def _tables(schedule: Schedule, device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.stack([schedule.abar.sqrt(), (1 - schedule.abar).sqrt()]).to(dtype).to(device)


def linear_schedule(T: int = 1000, beta_1: float = 1e-4, beta_T: float = 2e-2) -> Schedule:
    r"""The linear schedule of DDPM, :math:`\bar\alpha_t = \prod_{s \le t} (1 - \beta_s)`. Paper: §5.1. Book: ch01, eq-schedule."""
    beta = torch.linspace(beta_1, beta_T, T, dtype=torch.float64)
    return Schedule(torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - beta, 0)]))


@dataclass(frozen=True)
class Noise:
    """Standard normal noise keyed by (seed, image, copy, draw): the same key gives the same noise in any batch, shard or order.
    `images` and `copies` hold one entry per row of the batch: whose noise it is, and which of its independent purifications."""

    seed: int | str
    images: Ids
    copies: Sequence[int]

    def __post_init__(self) -> None:
        _require(len(self.images) == len(self.copies), f"{len(self.images)} images but {len(self.copies)} copies")

    def generators(self, draw: str) -> Iterator[torch.Generator]:
        for image, copy in zip(self.images, self.copies):
            key = hashlib.blake2b(f"{self.seed}\0{image}\0{copy}\0{draw}".encode(), digest_size=8).digest()
            yield torch.Generator().manual_seed(int.from_bytes(key, "big") >> 1)

    def __call__(self, draw: str, like: Tensor) -> Tensor:
        """Noise of the shape, type and device of `like`; always drawn in float32 on the CPU, so that all devices agree."""
        _require(len(like) == len(self.images), f"noise for {len(self.images)} images was asked of a batch of {len(like)}")
        return torch.stack([torch.randn(like.shape[1:], generator=g) for g in self.generators(draw)]).to(like)


def _ahead(noise: Noise, names: list[str]) -> Draws:
    """Keyed noise for a device, whose draws are known: drawn in bulk on threads, and sent in one piece that nobody waits for."""
    drawn: dict[str, Tensor] = {}

    def ahead(draw: str, like: Tensor) -> Tensor:
        if draw not in drawn:
            due = names[names.index(draw) :][:AHEAD]
            host = torch.empty(len(due), *like.shape, pin_memory=like.is_cuda)
            fill: Callable[[str, Tensor], Tensor] = lambda name, rows: rows.copy_(noise(name, rows))
            list(_POOL.map(fill, due, host))
            drawn.clear()
            drawn.update(zip(due, host.to(like.device, like.dtype, non_blocking=True)))
        return drawn[draw]

    return ahead


@dataclass(frozen=True)
class GivenNoise:
    """Noise from tensors by the names of their draws (`draws_of`), so that a purification with a given mask can be exported."""

    tensors: Mapping[str, Tensor]

    def __call__(self, draw: str, like: Tensor) -> Tensor:
        if draw not in self.tensors or self.tensors[draw].shape != like.shape:
            given = ", ".join(f"{name!r} {tuple(eps.shape)}" for name, eps in self.tensors.items())
            raise ValueError(f"the draw {draw!r} needs noise of the shape {tuple(like.shape)}; given: {given}")
        return self.tensors[draw].to(like)


def q_xt_x0(x0: Tensor, t: int | Tensor, eps: Tensor, schedule: Schedule) -> Tensor:
    r"""Diffuse: :math:`x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon`. Paper: Eq 1, 6. Book: ch01, eq-forward."""
    signal, sigma = schedule.signal_and_noise(t, x0)
    return signal * x0 + sigma * eps


def q_xt_xs(xs: Tensor, s: int, t: int, eps: Tensor, schedule: Schedule) -> Tensor:
    r"""Diffuse on from s to t > s: :math:`x_t = \sqrt{r}\, x_s + \sqrt{1 - r}\, \epsilon`, :math:`r = \bar\alpha_t / \bar\alpha_s`. One
    step of it is Eq 10 (with the index corrected: erratum E4); t - s of them compose to this. Book: ch03, eq-renoise."""
    ratio = schedule.floats[0][t] / schedule.floats[0][s]
    return math.sqrt(ratio) * xs + math.sqrt(1 - ratio) * eps


def x0_xt(xt: Tensor, t: int | Tensor, eps: Tensor, schedule: Schedule) -> Tensor:
    r"""Denoised: :math:`\hat x_0 = (x_t - \sqrt{1 - \bar\alpha_t}\, \epsilon) / \sqrt{\bar\alpha_t}`. Paper: Eq 11. Book: ch01, eq-x0."""
    signal, sigma = schedule.signal_and_noise(t, xt)
    return (xt - sigma * eps) / signal


def p_xs_xt(xt: Tensor, t: int, s: int, eps: Tensor, schedule: Schedule, eta: float = 0.0, z: Tensor | None = None) -> Tensor:
    r"""Denoise from t to s < t: :math:`x_s = \sqrt{\bar\alpha_s}\, \hat x_0 + \sqrt{1 - \bar\alpha_s - \sigma^2}\, \epsilon + \sigma z`,
    :math:`\sigma = \eta \sqrt{\tfrac{1 - \bar\alpha_s}{1 - \bar\alpha_t} (1 - \tfrac{\bar\alpha_t}{\bar\alpha_s})}`.
    `eta` = 0 is DDIM and Eq 11; `eta` = 1 is the ancestral DDPM step, and with s = t - 1 exactly Eq 7 and 9. `z` is standard normal
    noise, needed when `eta` > 0. Book: ch01, eq-reverse."""
    _require(not eta or z is not None, f"a step with eta = {eta} needs its noise z")
    abar_t, abar_s = schedule.floats[0][t], schedule.floats[0][s]
    variance = eta**2 * (1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s)
    xs = math.sqrt(abar_s) * x0_xt(xt, t, eps, schedule) + math.sqrt(max(0.0, 1 - abar_s - variance)) * eps
    return xs if z is None or not eta else xs + math.sqrt(variance) * z


def time_grid(t_l: int, t_s: int, steps: int) -> tuple[list[int], list[int]]:
    """The times visited in stage 1 (t_l down to t_s) and stage 2 (t_s down to 0), both ends included.
    `steps` is shared in proportion to the two lengths, rounding in favour of stage 2, and no stage has more steps than indices. With
    t_s = t_l stage 1 is empty: the grid of uniform purification. Book: ch01, eq-grid."""
    _require(1 <= t_s <= t_l, f"the grid needs 1 <= t_s <= t_l, not t_s = {t_s}, t_l = {t_l}")
    n_2 = max(1, math.ceil(steps * t_s / t_l))
    n_1 = 0 if t_s == t_l else max(1, min(steps - n_2, t_l - t_s))
    n_2 = min(max(steps - n_1, 0), t_s)
    _require(n_2 >= 1, f"{steps} steps are too few to contain both times: two levels need at least 2")
    descend: Callable[[int, int, int], list[int]] = lambda a, b, n: [round(a + (b - a) * i / max(n, 1)) for i in range(n + 1)]
    return descend(t_l, t_s, n_1), descend(t_s, 0, n_2)


# ---- 2. attention mask (Eq 2-4, Alg 2) -------------------------------------------------------------------------------------
@contextmanager
def tapped(modules: Sequence[nn.Module]) -> Generator[list[Tensor], None, None]:
    """Collect the outputs of `modules` in a forward pass, in the order given; no hook stays. Other threads may use them meanwhile."""
    outputs, ordered, here = dict[int, Tensor](), list[Tensor](), threading.get_ident()
    note: Callable[[int, Any, Any, Any], None] = lambda k, _m, _i, o: outputs.__setitem__(k, o) if threading.get_ident() == here else None
    with _LOCK:
        hooks = [m.register_forward_hook(partial(note, k)) for k, m in enumerate(modules)]
    try:
        yield ordered
    finally:
        for hook in hooks:
            hook.remove()
        ordered.extend(outputs[k] for k in sorted(outputs))


def activation_map(activation: Tensor, p: int = 2, root: bool = True) -> Tensor:
    r"""The p-norm over channels, :math:`G_m = (\sum_i |A_{mi}|^p)^{1/p}`, (n, c, h, w) to (n, 1, h, w). Paper: Eq 2. Book: ch02, eq-pnorm.
    ``root=False`` leaves the sum of powers, as the released code does with p = 2."""
    _check_setting("p", p)
    return _torch.linalg.vector_norm(activation, ord=p, dim=1, keepdim=True) if root else activation.abs().pow(p).sum(1, keepdim=True)


def min_max(maps: Tensor) -> Tensor:
    """Scale every map to [0, 1] by its extremes, a constant one to 0. Eq 3's phi has to be this (erratum E2). Book: ch02, eq-minmax."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return torch.where(high > low, (maps - low) / torch.where(high > low, high - low, 1), 0)


def spatial_softmax(maps: Tensor) -> Tensor:
    """Eq 3 to the letter: a softmax over pixels. It sums to 1, so at most one pixel per block can exceed 1/2. Book: ch02, eq-softmax."""
    return maps.flatten(-2).softmax(-1).reshape(maps.shape)


def attention_maps(images: Tensor, classifier: Classifier, taps: Taps, p: int = 2, root: bool = True, phi: Step = min_max) -> Tensor:
    r"""Maps at image size, :math:`AM_m = \phi(\mathrm{Bi}(G_m))`, (n, M, h, w) for M taps. Paper: Eq 2, 3, Alg 2. Book: ch02, eq-maps."""
    with tapped(taps) as activations:
        _call("classifier", frozen(classifier), images)
    _check_activations(activations, len(taps), images, classifier)
    blocks = [F.interpolate(activation_map(a, p, root), images.shape[-2:], mode="bilinear", align_corners=False) for a in activations]
    maps = torch.cat(blocks, dim=1)
    return phi(maps) + 0 * maps.detach().amax((1, 2, 3), keepdim=True)  # an activation that is no number leaves no map


def threshold_mask(maps: Tensor, tau: float) -> Tensor:
    r"""Union of blocks, :math:`\mathcal M = \bigcup_m [AM_m > \tau]`, (n, M, h, w) to (n, 1, h, w). Paper: Eq 4. Book: ch02, eq-mask."""
    return (maps > tau).any(1, keepdim=True).to(maps.dtype)


def soft_mask(maps: Tensor, tau: float, temperature: float = 0.05) -> Tensor:
    """A differentiable stand-in for `threshold_mask`, for attacks that look through the mask; tends to it as `temperature` falls to 0."""
    return torch.sigmoid((maps.amax(1, keepdim=True) - tau) / temperature)


def top_fraction_mask(maps: Tensor, fraction: float) -> Tensor:
    """The `fraction` of pixels with the highest maximum over blocks (the released code's ImageNet mask). Book: ch02, eq-topk."""
    score = maps.amax(1).flatten(1)
    rank = score.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return (rank < int(fraction * score.shape[1])).to(maps.dtype).reshape(maps[:, :1].shape)


def random_mask(mask: Tensor, noise: Draws) -> Tensor:
    """Control: as many pixels as `mask` has, chosen at random per image."""
    rank = noise("mask", mask).flatten(1).argsort(dim=1).argsort(dim=1)
    return (rank < mask.flatten(1).sum(1, keepdim=True)).to(mask.dtype).reshape(mask.shape)


# ---- 3. heterogeneous purification (Eq 5, 8-11, Alg 1) ---------------------------------------------------------------------
def merge(mask: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
    r""":math:`\mathcal M \odot x^{inside} + (1 - \mathcal M) \odot x^{outside}`. Paper: Eq 5, 8 (erratum E1). Book: ch03, eq-merge."""
    return mask * inside + (1 - mask) * outside


@dataclass(frozen=True)
class Uniform:
    """Uniform purification (DiffPure with a discrete sampler): diffuse every pixel to `t`, then `steps` reverse steps. Paper: Eq 1, 9."""

    t: float = 0.1
    steps: int = 10
    sampler: str = "ddim"

    def __post_init__(self) -> None:
        vars(self).update({name: _check_setting(name, value) for name, value in vars(self).items()})

    def mask(self, images: Tensor, classifier: Classifier, taps: Taps, noise: Draws) -> None:
        """No mask: one level for all."""

    def grid(self, schedule: Schedule) -> tuple[list[int], list[int]]:
        """Times of the two stages; the first is empty."""
        return time_grid(schedule.index(self.t), schedule.index(self.t), self.steps)

    def plan(self, x_adv: Tensor, mask: Tensor | None, eps: Denoiser, noise: Draws, schedule: Schedule) -> Plan:
        """Diffuse, then denoise along the grid."""
        _, times = self.grid(schedule)
        moves = _Moves(x_adv, mask, eps, noise, schedule, self.sampler)
        return [(times[0], partial(moves.diffuse, t=times[0])), *((s, partial(moves.denoise, t=t, s=s)) for t, s in pairwise(times))]

    def calls(self, schedule: Schedule) -> int:
        return len(self.grid(schedule)[1]) - 1


@dataclass(frozen=True)
class HetPure:
    """The method: noise `t_l` where the mask is 1, `t_s` elsewhere, two-stage reverse process, resampling through `U` indices.
    `reading` chooses the order of operations in stage 1, from time t to the next time s:
    ``paper`` is Alg 1 with the errata applied: denoise to s, merge (Eq 8), diffuse to s + U (Eq 10), a DDIM step back (Eq 11): two calls;
    ``released``, the public code: merge, U unit steps to t + U, a jump to s: one call, on `released_grid` and with `released_mask`;
    ``multi-step``, RePaint's resampling, which Eq 11 replaces: U times (denoise to s, merge), diffusing back to t in between: U calls.
    Fractions `t_l`, `t_s` of T in (0, 1]; threshold `tau` on maps and area `fraction` of ``top-fraction`` in [0, 1]; `U` counts indices
    or repetitions; `mask_kind` of `MASKS`; `p` of Eq 2; `blocks` are taps (None: all). Paper: §3, §4, Alg 1. Book: ch03, eq-algorithm."""

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

    def __post_init__(self) -> None:
        vars(self).update({name: _check_setting(name, value) for name, value in vars(self).items()})
        _require(self.t_s < self.t_l, f"the weak noise t_s = {self.t_s} must be below the strong noise t_l = {self.t_l}")

    def mask(self, images: Tensor, classifier: Classifier, taps: Taps, noise: Draws) -> Tensor:
        """The mask (n, 1, h, w) of images in [0, 1], 1 where the strong noise goes; computed without gradient. Paper: Alg 2."""
        blocks = range(len(taps)) if self.blocks is None else self.blocks
        _require(all(0 <= b < len(taps) for b in blocks), f"blocks must be from 0 to {len(taps) - 1}, not {self.blocks}")
        released, top, taps = self.reading == "released", self.mask_kind == "top-fraction", [taps[b] for b in blocks]
        with torch.no_grad():
            if released and not top:
                attended = released_mask(images, classifier, taps, self.tau)
            else:
                maps = released_maps(images, classifier, taps) if released else attention_maps(images, classifier, taps, self.p)
                attended = top_fraction_mask(maps, self.fraction) if top else threshold_mask(maps, self.tau)
                attended = attended + 0 * maps.amax((1, 2, 3), keepdim=True)  # what is no number stays so
            if self.mask_kind == "random":
                return random_mask(attended, noise) + 0 * attended
            return {"inverted": 1 - attended, "all": 1 + 0 * attended, "none": 0 * attended}.get(self.mask_kind, attended)

    def grid(self, schedule: Schedule) -> tuple[list[int], list[int]]:
        """Times of the two stages."""
        if self.reading == "released":
            return released_grid(self.t_l, self.t_s, self.steps, schedule.T)
        t_l, t_s = schedule.index(self.t_l), schedule.index(self.t_s)
        _require(t_l != t_s, f"t_l = {self.t_l} and t_s = {self.t_s} fall on the same of {schedule.T} times")
        return time_grid(t_l, t_s, self.steps)

    def plan(self, x_adv: Tensor, mask: Tensor | None, eps: Denoiser, noise: Draws, schedule: Schedule) -> Plan:
        """Algorithm 1: the forward process, then stage 1 in the chosen reading, then stage 2."""
        stage_1, stage_2 = self.grid(schedule)
        moves = _Moves(x_adv, mask, eps, noise, schedule, self.sampler)
        step = {"paper": moves.denoise_merge_resample, "released": moves.merge_resample_jump, "multi-step": moves.repeat_denoise_merge}
        start = moves.diffuse if self.reading == "released" else partial(moves.diffuse_heterogeneously, t_s=stage_1[-1])
        strong = [(s, partial(step[self.reading], t=t, s=s, U=self.U)) for t, s in pairwise(stage_1)]
        return [(stage_1[0], partial(start, t=stage_1[0])), *strong, *((s, partial(moves.denoise, t=t, s=s)) for t, s in pairwise(stage_2))]

    def calls(self, schedule: Schedule) -> int:
        n_1, n_2 = (len(times) - 1 for times in self.grid(schedule))
        return {"paper": 2, "released": 1, "multi-step": self.U}[self.reading] * n_1 + n_2


@dataclass(frozen=True)
class _Moves:
    """The moves that purifiers are made of, for one batch. Every draw of noise has a name, so that it can be replayed or frozen."""

    x_adv: Tensor
    mask: Any  # a tensor, or None where nothing is merged
    eps: Denoiser
    noise: Draws
    schedule: Schedule
    sampler: str

    def diffuse(self, x: Tensor, t: int) -> Tensor:
        """Eq 1."""
        return q_xt_x0(x, t, self.noise("start", x), self.schedule)

    def diffuse_heterogeneously(self, x: Tensor, t: int, t_s: int) -> Tensor:
        """Eq 5, and then Eq 6: "further adding noise" brings the weakly noised pixels to t, since the network needs one level for all."""
        outside = q_xt_x0(x, t_s, self.noise("start weak", x), self.schedule)
        outside = q_xt_xs(outside, t_s, t, self.noise("start rest", x), self.schedule)
        return merge(self.mask, self.diffuse(x, t), outside)

    def denoise(self, x: Tensor, t: int, s: int, draw: str = "", sampler: str | None = None) -> Tensor:
        """Eq 7 and 9: one denoiser call takes x from t to s."""
        eta = float((sampler or self.sampler) == "ddpm")
        z = self.noise(f"reverse {t} {s} {draw}", x) if eta else None
        return p_xs_xt(x, t, s, self.eps(x, torch.full((len(x),), t, device=x.device)), self.schedule, eta, z)

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


def released_grid(t_l: float, t_s: float, steps: int, T: int) -> tuple[list[int], list[int]]:
    """The released code's times: the first multiples of T // steps up to t_l, one more than its zero-based indices.
    So the last state is at index 1 instead of the clean 0, stage 1 lasts while the *next* time is not below t_s, and t_l and t_s are
    visited only if the stride divides them. Book: ch03, eq-released."""
    _require(steps <= T, f"the released grid has at most {T} steps, not {steps}")
    stride = T // steps
    times = [i + 1 for i in range(0, T - 1, stride)[: int(steps * t_l) + 1]][::-1]
    _require(len(times) >= 2, f"{steps} steps are too few to contain t_l = {t_l}: the released grid has a stride of {stride} indices")
    n_1 = sum(s - 1 >= t_s * T for s in times[1:])
    return times[: n_1 + 1], times[n_1:]


def released_maps(images: Tensor, classifier: Classifier, taps: Taps) -> Tensor:
    """The released code's maps (n, M, h, w): sums of squares, from the [-1, 1] image under ImageNet's normalisation whatever the data."""
    _require(images.shape[1] == 3, f"the released code's maps need images of 3 channels, not {images.shape[1]}: take another reading")
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).to(images)[:, :, None, None]
    return attention_maps((2 * images - 1 - mean) / std, classifier, taps, p=2, root=False)


def released_mask(images: Tensor, classifier: Classifier, taps: Taps, tau: float) -> Tensor:
    """The released code's mask (n, 1, h, w): the maximum of `released_maps` over blocks is at least `tau`. Book: ch02, eq-mask."""
    highest = released_maps(images, classifier, taps).amax(1, keepdim=True)
    return (highest >= tau).to(images.dtype) + 0 * highest


# ---- 4. the defended classifier: exact gradients, voting (Alg 3) -----------------------------------------------------------
def trajectory(x: Tensor, plan: Plan) -> Iterator[tuple[int, Tensor]]:
    """Every state (time, x) of a purification in the [-1, 1] scale, from the noised start to the purified end."""
    for time, step in plan:
        x = step(x)
        yield time, x


def run(x: Tensor, plan: Plan, segment: int | None = None) -> Tensor:
    """The last state of `trajectory`. With `segment`, that many steps at a time are recomputed in the backward pass instead of stored."""
    if segment is None:
        return [x for _, x in trajectory(x, plan)][-1]
    for i in range(0, len(plan), segment):
        x = _recomputed(run, x, plan[i : i + segment])
    return x


@lru_cache(maxsize=64)
def draws_of(purifier: Purifier, schedule: Schedule, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The draws of noise that a purification of images (n, c, h, w) makes under a given mask, in order: names and shapes."""
    x, found = torch.zeros(1, *shape[1:]), dict[str, Tensor]()
    plan = purifier.plan(x, x[:, :1], lambda x, _t: 0 * x, lambda draw, like: found.setdefault(draw, 0 * like), schedule)
    run(x, plan)
    return {draw: (shape[0], *eps.shape[1:]) for draw, eps in found.items()}


def frozen(network: Any) -> Any:
    """The network in eval mode, with gradients for its inputs only: a view that shares tensors and hooks; `network` stays as it is.
    What needs no change is returned as it is, and so is a function."""
    modules = [*network.modules()] if isinstance(network, nn.Module) else []
    if not any(m.training or hasattr(m, "_is_replica") or any(p.requires_grad for p in m.parameters(False)) for m in modules):
        return network
    if sealed := [m for m in modules if isinstance(m, torch.jit.ScriptModule) or "forward" in vars(m)]:
        raise ValueError(f"a compiled or patched {type(sealed[0]).__name__} must be frozen first: .eval().requires_grad_(False)")
    return _view(network, {})


def _view(value: Any, seen: dict[int, Any]) -> Any:
    if isinstance(value, Tensor):
        return value.detach() if value.requires_grad else value
    if isinstance(value, nn.Module):
        if id(value) not in seen:
            seen[id(value)] = view = object.__new__(type(value))
            vars(view).update({name: _view(v, seen) for name, v in [*vars(value).items()]} | {"training": False})
        return seen[id(value)]
    keyed, listed = type(value) in (dict, OrderedDict), type(value) in (list, tuple)
    inner: Sequence[Any] = [*value.values()] if keyed else value if listed else ()
    if not any(isinstance(v, nn.Module) or (isinstance(v, Tensor) and v.requires_grad) for v in inner):
        return value
    return type(value)(zip(value, map(partial(_view, seen=seen), inner)) if keyed else map(partial(_view, seen=seen), inner))


class Purified(nn.Module):
    """A classifier behind a purifier, as one module from images (n, c, h, w) in [0, 1] to logits (n, classes).
    Gradients are exact: they go through every denoiser call and every use of the input, with the noise replayed and the mask held fixed.
    Only the state between calls is stored, and a network's activations are recomputed (``checkpointing=False`` keeps them; the gradients
    are equal), but not under transforms of `torch.func` and in exports. Weights get no gradients (`frozen`). `votes` > 1 makes `forward`
    return the log of the mean probability over that many purifications (Alg 3, soft). Without `ids` a call draws fresh noise: under a
    given `seed` what no earlier call drew, or else what nobody saw. `taps` are modules or names. Paper: §4. Book: ch04, eq-defended."""

    def __init__(
        self, classifier: Classifier, denoiser: Denoiser, purifier: Purifier | None = None, *, schedule: Schedule | None = None,
        taps: Sequence[nn.Module | str] | None = None, votes: int = 1, seed: int | str | None = None, checkpointing: bool = True,
    ):  # fmt: skip
        super().__init__()
        taps = getattr(classifier, "taps", lambda: None)() if taps is None else [taps] if isinstance(taps, str) else taps
        named: dict[str, Any] = dict(_torch.nn.Module.named_modules(classifier)) if isinstance(classifier, nn.Module) else {}
        found: list[Any] = [named.get(tap) if isinstance(tap, str) else tap for tap in taps or ()]
        if not all(isinstance(tap, nn.Module) for tap in found):
            raise ValueError(f"taps must be modules of the classifier or their names, not {taps!r}; it has: {', '.join([*named][1:13])}")
        self.classifier, self.denoiser, self.tap_modules = classifier, denoiser, found
        self.purifier, self.schedule = purifier or HetPure(), schedule or linear_schedule()
        self.votes, self.seed, self.checkpointing = _check_setting("votes", votes), 0 if seed is None else seed, checkpointing
        self.calls_without_ids = None if seed is None else [0]  # one count for all replicas
        self.training = False

    def train(self, mode: bool = True) -> Purified:
        """Stays in eval mode: a defence is not trained."""
        return self

    def noise(self, n: int, ids: Ids | None = None, copies: Sequence[int] | None = None) -> Noise:
        """The noise of one call: keyed by `ids` and `copies` (0 if not given), or fresh if the images have no ids."""
        if ids is not None:
            return Noise(self.seed, ids, [0] * n if copies is None else copies)
        _require(copies is None, "copies need ids: without ids every call draws fresh noise")
        if self.calls_without_ids is None:
            return Noise(f"fresh {secrets.token_hex(16)}", range(n), [0] * n)
        with _LOCK:
            self.calls_without_ids[0] += 1
            return Noise(self.seed, [f"anonymous {self.calls_without_ids[0]} {i}" for i in range(n)], [0] * n)

    def mask(self, images: Tensor, noise: Draws) -> Tensor | None:
        """The purifier's mask (n, 1, h, w), or None if it uses none."""
        return self.purifier.mask(images, frozen(self.classifier), self.tap_modules, noise)

    def plan(self, images: Tensor, noise: Draws, mask: Tensor | None = None) -> Plan:
        """The purification of images in [0, 1] as a list of steps, for `trajectory` or `run` on ``2 * images - 1``."""
        _check_layout(images)
        mask = self.mask(images, noise) if mask is None else mask
        if mask is not None and (mask.shape[1:] != (1, *images.shape[2:]) or len(mask) not in (1, len(images))):
            raise ValueError(f"a mask must have the shape (n or 1, 1, h, w), not {tuple(mask.shape)} for images {tuple(images.shape)}")
        if isinstance(noise, Noise) and type(self.purifier) in (HetPure, Uniform) and images.device.type != "cpu":
            noise = _ahead(noise, [*draws_of(self.purifier, self.schedule, images.shape)])
        denoiser = frozen(self.denoiser)
        call = partial(_recomputed, denoiser) if self.recomputes() else denoiser
        return self.purifier.plan(2 * images - 1, mask, partial(_predict, denoiser, call), noise, self.schedule)

    def recomputes(self) -> bool:
        """Whether activations are recomputed in the backward pass of what is done now."""
        traced = torch.compiler.is_compiling() or _torch._C._are_functorch_transforms_active()
        return self.checkpointing and torch.is_grad_enabled() and not traced

    def purify(self, images: Tensor, noise: Draws, mask: Tensor | None = None) -> Tensor:
        """Purified images, not clamped, so that no gradient is lost at the edges of [0, 1]."""
        plan, long = self.plan(images, noise, mask), self.recomputes() and self.purifier.calls(self.schedule) > FLAT_UP_TO
        return (run(2 * images - 1, plan, math.ceil(math.sqrt(len(plan))) if long else None) + 1) / 2

    def forward(self, images: Tensor, ids: Ids | None = None, copies: Sequence[int] | None = None, mask: Tensor | None = None) -> Tensor:
        """Logits, or with several votes log mean probabilities. Raises `ValueError` for images that are not finite floats in [0, 1]."""
        rows, noise = _admit(images), self.noise(len(images), ids, copies)
        every: Callable[[Ids], list[Any]] = lambda ids: [i for i in ids for _ in range(self.votes)]
        noise = Noise(noise.seed, every(noise.images), [c * self.votes + s for c in noise.copies for s in range(self.votes)])
        mask = None if mask is None else mask.repeat_interleave(self.votes, 0)
        purified = self.purify(rows.repeat_interleave(self.votes, 0), noise, mask)
        logits = _call("classifier", frozen(self.classifier), purified)
        if logits.ndim != 2 or len(logits) != len(purified):
            raise ValueError(f"the classifier returned {tuple(logits.shape)} for {len(purified)} images, not (n, classes)")
        _check_values(images, {"purified images": purified, "classifier's logits": logits})
        return logits if self.votes == 1 else mean_log_probability(logits.reshape(len(images), self.votes, -1).transpose(0, 1))


def purify(
    images: Tensor, classifier: Classifier, denoiser: Denoiser, purifier: Purifier | None = None, *,
    ids: Ids | None = None, copies: Sequence[int] | None = None, seed: int | str = 0,
    schedule: Schedule | None = None, taps: Sequence[nn.Module | str] | None = None,
) -> Tensor:  # fmt: skip
    """Purified images in [0, 1] for images (n, c, h, w) in [0, 1]; settings as in `Purified`, `ids` 0 to n - 1 if not given.
    Paper: Alg 1, 2. Book: ch03, eq-algorithm."""
    rows, defended = _admit(images), Purified(classifier, denoiser, purifier, seed=seed, schedule=schedule, taps=taps)
    noise = defended.noise(len(images), range(len(images)) if ids is None else ids, copies)
    with torch.no_grad():
        purified = defended.purify(rows, noise)
        _check_values(images, {"purified images": purified})
        return purified.clamp(0, 1)


def mean_log_probability(logits: Tensor) -> Tensor:
    """log of the mean softmax over runs: logits (S, n, classes) to (n, classes)."""
    return logits.log_softmax(-1).logsumexp(0) - math.log(len(logits))


def vote(logits: Tensor, how: str = "soft") -> Tensor:
    r"""The label from S runs: logits (S, n, classes) to (n,). Paper: Alg 3. Book: ch03, eq-vote.
    ``soft`` is :math:`\arg\max_k \frac1S \sum_s \mathrm{softmax}(F(x^{(s)}))_k`; ``hard`` counts the runs' labels (the released code), and
    equal counts go to the larger mean probability."""
    _check_setting("how", how)
    mean = mean_log_probability(logits).exp()
    _require(not mean.isnan().any(), "logits contain NaN or +infinity: no label can be voted for")
    counts = F.one_hot(logits.argmax(-1), logits.shape[-1]).sum(0) if how == "hard" else 0
    return (counts + mean / 2).argmax(-1)  # mean / 2 < 1: it decides only between equal counts


# ---- 5. checks -------------------------------------------------------------------------------------------------------------
_CHOICES = {"reading": READINGS, "sampler": SAMPLERS, "mask_kind": MASKS, "how": ("soft", "hard")}
_TIMES = dict.fromkeys(["t", "t_l", "t_s"], "a fraction of T in (0, 1]")
_SHARES = {"tau": "a threshold on maps in [0, 1]", "fraction": "a share of the pixels in [0, 1]"} | _TIMES


def _require(good: Any, message: str) -> None:
    if not good:
        raise ValueError(message)


def check_images(images: Tensor) -> None:
    """Raise `ValueError` unless `images` is a finite float tensor (n, c, h, w) in [0, 1], give or take `SLACK`."""
    _check_layout(images)
    _check_values(images, {})


def _check_layout(images: Any) -> None:
    traced = any(level.key() == _torch._C._functorch.TransformType.Vmap for level in _torch._C._functorch.get_interpreter_stack() or ())
    _require(not traced, "vmap does not work here: pass a batch. torch.func.grad and jacrev do work")
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, Tensor) else f"{type(images).__name__} (torch.as_tensor makes one)"
        raise ValueError(f"images must be a float tensor, not {kind} (divide 8-bit pixels by 255)")
    _require(images.ndim == 4 and images.numel(), f"images must have the shape (n, c, h, w) with n >= 1, not {tuple(images.shape)}")


def _check_values(images: Tensor, results: dict[str, Tensor]) -> None:
    """Images in [0, 1] and finite results, for which a device is waited for once."""
    inside = ((images >= -SLACK) & (images <= 1 + SLACK)).all()
    if torch.stack([inside, *(values.isfinite().all() for values in results.values())]).all():
        return
    if not inside:
        low, high = images.detach().amin().item(), images.detach().amax().item()
        raise ValueError("images contain NaN" if math.isnan(low) else f"images must be in [0, 1], but range from {low:.7g} to {high:.7g}")
    for what, values in results.items():
        _require(values.isfinite().all(), f"the {what} are not finite: the network before them returned NaN or infinity")


def _admit(images: Any) -> Tensor:
    """Images in [0, 1], with the gradient of the identity. Values on a device are checked later, with the answer (`_check_values`)."""
    (check_images if isinstance(images, Tensor) and images.is_cpu else _check_layout)(images)
    return images + (images.clamp(0, 1) - images).detach()


def _call(what: str, network: Any, *inputs: Tensor, call: Any = None) -> Tensor:
    """The float tensor that a network returns. What else it returns, or a type or device that its weights do not have, is an error."""
    try:
        output = (call or network)(*inputs)
    except RuntimeError as error:
        kinds = {(p.dtype, p.device) for p in (network.parameters() if isinstance(network, nn.Module) else ())}
        if not kinds or (inputs[0].dtype, inputs[0].device) in kinds:
            raise
        have, want = (f"{dtype} on {device}" for dtype, device in ((inputs[0].dtype, inputs[0].device), min(kinds, key=str)))
        raise ValueError(f"images are {have}, but the weights of the {what} are {want}: convert either with .to(...)") from error
    if not isinstance(output, Tensor) or not output.is_floating_point():
        kind = output.dtype if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"the {what} returned {kind}, not a float tensor (diffusers: .sample, transformers: .logits)")
    return output


def _predict(denoiser: Denoiser, call: Denoiser, x: Tensor, t: Tensor) -> Tensor:
    if (eps := _call("denoiser", denoiser, x, t, call=call)).shape != x.shape:
        hint = "; of a learned variance keep the noise only: the first half of the channels" if eps.shape[1:2] == (2 * x.shape[1],) else ""
        raise ValueError(f"the denoiser returned {tuple(eps.shape)} for images {tuple(x.shape)}; both must be equal{hint}")
    return eps


def _check_activations(activations: list[Any], wanted: int, images: Tensor, classifier: Any) -> None:
    """All ran, and are (n, c, h, w): channels last, the other layout with four dimensions, is known by sides in the image's proportion."""
    if not wanted or len(activations) != wanted:
        hint = "give the modules inside your function that return (n, c, h, w) as taps=[...]"
        if hasattr(classifier, "named_modules"):
            with torch.no_grad(), ExitStack() as stack:
                outputs: dict[str, list[Any]] = {n: stack.enter_context(tapped([m])) for n, m in classifier.named_modules() if n}
                frozen(classifier)(images[:1])
            found = [name for name, out in outputs.items() if out and isinstance(out[0], Tensor) and out[0].ndim == 4]
            names = ", ".join(sorted(found, key=lambda name: name.count("."))[:12]) or "none returns (n, c, h, w)"
            hint = f"give modules or their names as taps=[...]. Of this classifier's could serve: {names}"
        raise ValueError(f"an attention map needs at least one tap, and {len(activations)} of {wanted} ran; {hint}")
    fits: Callable[[int, int], bool] = lambda h, w: abs(h * images.shape[3] - w * images.shape[2]) <= max(images.shape[2:])
    for a in activations:
        shape: Any = tuple(a.shape) if isinstance(a, Tensor) else type(a).__name__
        if len(shape) != 4 or shape[0] != len(images) or (fits(*shape[1:3]) and not fits(*shape[2:])):
            raise ValueError(f"a tap returned {shape} for images {tuple(images.shape)}, not (n, c, h, w): reshape tokens, permute channels")


def _check_setting(name: str, value: Any) -> Any:
    """The value of a setting of this name, if it is what it has to be; a count becomes an int, whatever integer it was."""
    if known := _CHOICES.get(name):
        _require(value in known, f"unknown {name} {value!r}; known: {', '.join(known)}")
    elif what := _SHARES.get(name):
        is_share = not isinstance(value, bool) and isinstance(value, Real) and 0 <= float(value) <= 1
        _require(is_share and (float(value) > 0 or "[0" in what), f"{name} is {what}, not {value}")
    elif name in ("steps", "U", "p", "votes"):
        good = hasattr(value, "__index__") and not isinstance(value, bool | Tensor) and 1 <= int(value) <= 10_000
        _require(good, f"{name} must be a whole number from 1 to 10000, not {value!r}")
        return int(value)
    return value
