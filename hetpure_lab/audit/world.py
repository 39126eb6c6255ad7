"""Ground truth: a world of images where everything that an evaluation estimates is known.
Purifiers, gradients and attacks are graded by it.

Images are a Gaussian `Mixture`. Its denoiser, posterior and Bayes classifier have a closed form
(`ExactDenoiser`, `Linear`). In `World` there are two classes, grey plus and grey minus a `pattern`.
Then the best attack is known as well, behind every purifier of the engine:

- Every step of a purifier raises pixel i of the next state, times the pattern's sign there,
  whenever it raises any pixel j of the last one, times its sign. So does a linear classifier whose
  weights have these signs. Hence the chance that a purified image is classified right falls in each
  of them, and the best attack of an l-infinity ball moves all pixels against the sign, by the whole
  radius. This needs a mask that does not depend on the image. It holds for any levels, sampler,
  reading, number of steps, and for hard votes.
- Pixels of equal strength in the pattern, the mask and the weights only act through their sum. So a
  purification of 192 numbers is one of two to four (`Truth`), and its accuracy a small integral.

The engine runs on this world unchanged; nothing of the truth is computed with its purifiers.
Book: ch13, eq-world.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count, pairwise

import numpy as np
import torch
from scipy.interpolate import RegularGridInterpolator
from scipy.special import ndtr, ndtri
from scipy.stats import binom, qmc
from torch import Tensor, nn

from hetpure_core import HetPure, Purified, Schedule, Uniform, linear_schedule
from hetpure_lab.attacks.threat import NORMS
from hetpure_lab.data import Shipped
from hetpure_lab.networks.benches import Bench

# Signal and noise coefficients, of all pixels or (1, h, w) of each.
Level = tuple[float | Tensor, float | Tensor]
CLASSES = ("dark", "bright")


# ---- a mixture, and the networks that know it ----------------------------------------------------


@dataclass(frozen=True)
class Mixture:
    r"""Images in the [-1, 1] scale, :math:`x_0 = \mu_k + \sigma\epsilon` with probability `weights`
    [k]: `means` (k, 3, h, w)."""

    means: Tensor
    sigma: float
    weights: tuple[float, ...]

    def __post_init__(self):
        if (
            len(self.weights) != len(self.means)
            or min(self.weights) <= 0
            or not math.isclose(sum(self.weights), 1)
        ):
            raise ValueError(
                f"{len(self.means)} means need as many positive weights that sum to 1, "
                f"not {self.weights}"
            )
        if self.sigma <= 0:
            raise ValueError(f"sigma is a standard deviation above 0, not {self.sigma}")

    def log_joint(self, xt: Tensor, level: Level = (1.0, 0.0)) -> Tensor:
        r"""log of w_k times the density of :math:`x_t = a x_0 + b\epsilon` in component k: (n, 3,
        h, w) to (n, k)."""
        a, b = level
        variance = (
            torch.as_tensor(a**2 * self.sigma**2 + b**2, dtype=torch.float64)
            .to(xt)
            .expand(xt.shape[1:])
        )
        far = (xt[:, None] - a * self.means.to(xt)).square() / variance
        weights = torch.tensor(self.weights, dtype=torch.float64).log().to(xt)
        return weights - 0.5 * far.flatten(2).sum(2) - 0.5 * (2 * math.pi * variance).log().sum()

    def posterior(self, xt: Tensor, level: Level = (1.0, 0.0)) -> Tensor:
        """The probability of every component given x_t (n, k)."""
        return self.log_joint(xt, level).softmax(1)

    def posterior_mean(self, xt: Tensor, level: Level) -> Tensor:
        r"""The conditional mean of x_0 given x_t: :math:`\frac{a\sigma^2}{v} x_t + \frac{b^2}{v}
        \sum_k r_k \mu_k` with :math:`v = a^2\sigma^2 + b^2`; a level may differ between pixels.
        Book: ch13, eq-posterior-mean."""
        a, b = level
        variance = a**2 * self.sigma**2 + b**2
        expected = torch.einsum("nk,kchw->nchw", self.posterior(xt, level), self.means.to(xt))
        return a * self.sigma**2 / variance * xt + b**2 / variance * expected


class ExactDenoiser(nn.Module):
    r"""The best denoiser there is: :math:`\mathbb E[\epsilon \mid x_t]` of a mixture."""

    def __init__(self, mixture: Mixture, schedule: Schedule):
        super().__init__()
        self.mixture, self.schedule = mixture, schedule

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        if (t != t[0]).any():
            raise ValueError("the exact denoiser takes one time for all images of a batch")
        abar = float(self.schedule.abar[int(t[0])])
        a, b = abar**0.5, (1 - abar) ** 0.5
        return (x - a * self.mixture.posterior_mean(x, (a, b))) / b


class Bayes(nn.Module):
    """The classifier that no other beats: log probabilities of the components, images in [0, 1] to
    (n, k)."""

    def __init__(self, mixture: Mixture):
        super().__init__()
        self.mixture = mixture

    def forward(self, images: Tensor) -> Tensor:
        return self.mixture.log_joint(2 * images - 1).log_softmax(1)

    def taps(self) -> list[nn.Module]:
        return []


class Saliency(nn.Module):
    """The tapped module: the same map for every image."""

    def __init__(self, saliency: Tensor):
        super().__init__()
        self.saliency = saliency

    def forward(self, images: Tensor) -> Tensor:
        return self.saliency.to(images).expand(len(images), -1, -1, -1)


class Linear(nn.Module):
    """Logits (n, 2) of -u and u, u the product of the image and `weights` (3, h, w). It attends to
    the map `attends` (1, h, w), by default the size of its weights, which is the exact saliency of
    a linear function and the same for all images."""

    def __init__(self, weights: Tensor, attends: Tensor | None = None):
        super().__init__()
        self.weights, self.saliency = (
            weights,
            Saliency(weights.abs() if attends is None else attends),
        )

    def forward(self, images: Tensor) -> Tensor:
        self.saliency(images)
        u = ((2 * images - 1) * self.weights.to(images)).flatten(1).sum(1)
        return torch.stack([-u, u], 1)

    def taps(self) -> list[nn.Module]:
        return [self.saliency]


# ---- the world -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """Two equally likely classes, grey - `pattern` and grey + `pattern` (3, h, w) in the [-1, 1]
    scale, under pixel noise `sigma`.

    Values stay in [0, 1] but for one in a million if ``|pattern| + 5 sigma < 1``, which is asked
    for: `ValueError`."""

    pattern: Tensor
    sigma: float = 0.15
    schedule: Schedule = linear_schedule()  # noqa: RUF009 - never changed

    def __post_init__(self):
        if self.pattern.ndim != 3 or len(self.pattern) != 3 or self.pattern.dtype != torch.float64:
            raise ValueError(
                "a pattern is float64 of shape (3, h, w), "
                f"not {self.pattern.dtype} {tuple(self.pattern.shape)}"
            )
        if not (largest := float(self.pattern.abs().max())) + 5 * self.sigma < 1 or self.sigma <= 0:
            raise ValueError(
                f"images would leave [0, 1]: the pattern reaches {largest:.3g}, "
                f"five sigma are {5 * self.sigma:.3g}"
            )

    @property
    def mixture(self) -> Mixture:
        """The distribution of its images."""
        return Mixture(torch.stack([-self.pattern, self.pattern]), self.sigma, (0.5, 0.5))

    @property
    def bayes(self) -> Tensor:
        """The Bayes classifier's `weights`: half the log odds are their product with the image."""
        return self.pattern / self.sigma**2

    def fragile(self, eps: float = 8 / 255) -> Tensor:
        """Where an l-infinity attack of radius `eps` in [0, 1] units overturns the pattern: (1, h,
        w) of 0 and 1."""
        return (self.pattern.abs().amax(0, keepdim=True) < 2 * eps).to(self.pattern)

    def sample(self, n: int, seed: int = 0) -> Shipped:
        """`n` images with 8-bit pixels, as a data set would have them, the classes in turn."""
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(n) % 2
        sign = (2 * labels - 1).reshape(-1, 1, 1, 1)
        x0 = sign * self.pattern + self.sigma * torch.randn(
            n, *self.pattern.shape, generator=generator, dtype=torch.float64
        )
        pixels = (255 * (x0 + 1) / 2).round().clamp(0, 255).to(torch.uint8)
        return Shipped(
            pixels,
            labels,
            torch.ones(n, dtype=torch.bool),
            f"a world of two Gaussians, seed {seed}",
        )

    def bench(self, weights: Tensor | None = None, attends: Tensor | None = None) -> Bench:
        """The world as a bench: the exact denoiser, and the linear classifier of `weights` (Bayes)
        that attends to `attends`."""
        classifier = Linear(self.bayes if weights is None else weights, attends)
        denoiser = ExactDenoiser(self.mixture, self.schedule)
        return Bench(
            "world",
            "world",
            CLASSES,
            classifier,
            denoiser,
            HetPure(),
            self.schedule,
            {},
            torch.device("cpu"),
        )

    def defended(
        self,
        purifier: Uniform | HetPure,
        weights: Tensor | None = None,
        attends: Tensor | None = None,
        **options,
    ) -> Purified:
        """The engine's defence in this world; `options` as for `Purified`."""
        bench = self.bench(weights, attends)
        return Purified(
            bench.classifier, bench.denoiser, purifier, schedule=self.schedule, **options
        )


def two_parts(
    size: int = 8, strong: float = 0.072, weak: float = 0.03, sigma: float = 0.15
) -> World:
    """A body in the middle half of the pixels, brighter or darker by `strong`, and around it a
    texture of `weak` contrast.

    Of a radius of 8/255 the body survives, the texture does not: the *robust* and the *fragile*
    features of Tsipras et al. 2019, in pixels."""
    row, column = np.indices((size, size)) - (size - 1) / 2
    order = np.argsort((row**2 + column**2).ravel(), kind="stable")
    body = np.zeros(size * size, bool)
    body[order[: size * size // 2]] = True
    checks = (-1.0) ** np.indices((size, size)).sum(0)
    pattern = np.where(body.reshape(size, size), strong, weak * checks)
    return World(torch.from_numpy(pattern).expand(3, -1, -1).contiguous(), sigma)


def mask_of(world: World, right: float, eps: float = 8 / 255, seed: int = 0) -> Tensor:
    """A mask (1, h, w) of as many pixels as are `World.fragile`. Its share `right` is fragile: 1
    is the right mask, 0 misses them all.
    """
    if not 0 <= right <= 1:
        raise ValueError(f"right is a share of the mask in [0, 1], not {right}")
    fragile = world.fragile(eps).flatten()
    order = torch.randperm(len(fragile), generator=torch.Generator().manual_seed(seed))
    hit, miss = (order[fragile[order] == kind] for kind in (1, 0))
    wanted = round(right * len(hit))
    if len(hit) - wanted > len(miss):
        raise ValueError(
            f"a mask of {len(hit)} pixels cannot have {len(hit) - wanted} outside the fragile "
            f"ones: there are {len(miss)}"
        )
    mask = torch.zeros_like(fragile)
    mask[torch.cat([hit[:wanted], miss[: len(hit) - wanted]])] = 1
    return mask.reshape(1, *world.pattern.shape[1:])


# ---- the truth -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Known:
    """A true value in [0, 1] with the numerical `error` of its integral (a standard error; 0 if it
    has a closed form)."""

    value: float
    error: float = 0.0

    def __str__(self) -> str:
        return f"{100 * self.value:.2f}"


@dataclass(frozen=True)
class Truth:
    """The truth about a defence in a world: `purifier` (None: there is none) with the fixed `mask`
    (1, h, w) and the linear classifier of `weights` (Bayes if none are given), which must not point
    against the pattern: `ValueError`.

    Its state has one number per group of pixels that are alike: their sum, signs made equal, over
    the root of their number. The noise of these numbers is standard normal, as that of pixels is.
    """

    world: World
    purifier: Uniform | HetPure | None = None
    mask: Tensor | None = None
    weights: Tensor | None = None

    def __post_init__(self):
        if (self.read * self.world.pattern < 0).any():
            raise ValueError(
                "the best attack is known only for weights that nowhere have the opposite sign "
                "of the pattern"
            )
        if isinstance(self.purifier, HetPure) and self.mask is None:
            raise ValueError("two noise levels need a mask")

    @property
    def read(self) -> Tensor:
        """The classifier's weights (3, h, w)."""
        return self.world.bayes if self.weights is None else self.weights

    @property
    def signs(self) -> Tensor:
        """The pattern's sign, or where there is no pattern the weights'."""
        pattern = self.world.pattern
        return torch.where(pattern != 0, pattern, self.read).sign()

    @cached_property
    def groups(self) -> list[Tensor]:
        """Pixels that are alike in pattern, weights and mask, as boolean (3, h, w)."""
        mask = (
            torch.zeros_like(self.world.pattern)
            if self.mask is None
            else self.mask.to(self.world.pattern).expand_as(self.world.pattern)
        )
        kinds = torch.stack([self.world.pattern.abs(), self.read.abs(), mask], -1)
        unique, which = kinds.flatten(0, 2).unique(dim=0, return_inverse=True)
        return [(which == k).reshape(mask.shape) for k in range(len(unique))]

    def of_groups(self, values: Tensor) -> np.ndarray:
        """The value that a map (3, h, w) has in each group."""
        return np.array([float(values[group][0]) for group in self.groups])

    @property
    def roots(self) -> np.ndarray:
        """Roots of the groups' sizes."""
        return np.sqrt([float(group.sum()) for group in self.groups])

    @property
    def mean(self) -> np.ndarray:
        """The mean state of a class, signs made equal."""
        return self.roots * self.of_groups(self.world.pattern.abs())

    def state(self, images: Tensor, labels: Tensor) -> np.ndarray:
        """Images (n, 3, h, w) in [0, 1] as states (n, groups); a state is right if the classifier's
        sum of it is positive."""
        toward = (2 * images.double() - 1) * self.signs * (2 * labels - 1).reshape(-1, 1, 1, 1)
        return np.stack([toward[:, group].sum(1).numpy() for group in self.groups], 1) / self.roots

    # -- one image

    def right(self, images: Tensor, labels: Tensor, draws: int = 4096, seed: int = 0) -> np.ndarray:
        """The probability that one purification of each image is classified right (n,)."""
        return self.chance(self.state(images, labels), draws, seed)

    def chance(self, states: np.ndarray, draws: int = 4096, seed: int = 0) -> np.ndarray:
        """`right` of states (n, groups), by quasi-random draws of the purifier's noise that all of
        them share."""
        if self.purifier is None:
            return (states @ self.sums > 0).astype(float)
        noise = self.noise(draws, seed)
        return np.array(
            [(self.chain(state[None], noise()) @ self.sums > 0).mean() for state in states]
        )

    @property
    def sums(self) -> np.ndarray:
        """The classifier's sum as weights of a state."""
        return self.roots * self.of_groups(self.read.abs())

    # -- all images

    def accuracy(
        self, norm: str = "Linf", eps: float = 0.0, draws: int = 2**15, scrambles: int = 4
    ) -> Known:
        """The accuracy of one purification over all images of the world, under the best attack of
        that ball.

        Without a purifier it has a closed form. Else it is the mean over `scrambles` sets of
        quasi-random images and noise; where the best l2 attack has to be searched for, over 256
        images with one 64th of the `draws` each."""
        if self.purifier is None:
            margin = (
                (self.mean - self.shift(norm, eps))
                @ self.sums
                / (self.world.sigma * np.linalg.norm(self.sums))
            )
            return Known(float(ndtr(margin)))
        each = self._attacked if self.searches(norm) and eps else self._mean_accuracy
        means = [each(norm, eps, draws, seed) for seed in range(scrambles)]
        return Known(
            float(np.mean(means)),
            float(np.std(means, ddof=1) / scrambles**0.5) if scrambles > 1 else math.nan,
        )

    def voted(
        self, norm: str = "Linf", eps: float = 0.0, images: int = 512, draws: int = 1024
    ) -> Known:
        """The accuracy of the vote of infinitely many purifications, under the best attack on
        one."""
        states = self.population(images, seed=0)
        won = self.chance(states - self.shift(norm, eps, states), draws) > 0.5
        return Known(float(won.mean()), float(won.std() / images**0.5))

    def population(self, n: int, seed: int) -> np.ndarray:
        """States of `n` quasi-random images."""
        return self.mean + self.world.sigma * _normal(len(self.groups), n, seed)

    def _mean_accuracy(self, norm: str, eps: float, draws: int, seed: int) -> float:
        noise = self.noise(draws, seed, more=1)()
        states = self.mean + self.world.sigma * noise("image") - self.shift(norm, eps)
        return float((self.chain(states, noise) @ self.sums > 0).mean())

    def _attacked(self, norm: str, eps: float, draws: int, seed: int) -> float:
        states = self.population(256, seed)
        return float(
            self.chance(states - self.shift(norm, eps, states), max(64, draws // 64), seed).mean()
        )

    # -- the best attack

    def searches(self, norm: str) -> bool:
        """Whether the best attack depends on the image: in l2, behind two levels or a classifier
        that is not Bayes'."""
        bayes = bool(torch.equal(self.read, self.world.bayes))
        known = (
            self.purifier is None
            or len(self.groups) == 1
            or (isinstance(self.purifier, Uniform) and bayes)
        )
        return norm == "L2" and not known

    def shift(self, norm: str, eps: float, states: np.ndarray | None = None) -> np.ndarray:
        """The loss of `states` under the best attack of radius `eps` in [0, 1] units: (groups,), or
        where it `searches` (n, groups).
        """
        if norm not in NORMS:
            raise ValueError(f"unknown norm {norm!r}; known: {', '.join(NORMS)}")
        if norm == "Linf":
            return 2 * eps * self.roots
        if self.searches(norm):
            return 2 * eps * self.weakest(states, eps)
        direction = self.sums if self.purifier is None else self.mean
        return 2 * eps * direction / np.linalg.norm(direction)

    def weakest(self, states: np.ndarray, eps: float) -> np.ndarray:
        """For each state the direction of length 1 along which a step of `eps` costs most (n, 2),
        to a degree."""
        angles = np.linspace(0, np.pi / 2, 91)
        grid = np.stack([np.cos(angles), np.sin(angles)], 1)
        left = self.surface(np.clip(states[:, None] - 2 * eps * grid, *self.box))
        return grid[np.argmin(left, 1)]

    @property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """States below which nothing is right, and above which everything is, as far as the surface
        can tell."""
        return self.mean - 1.6, self.mean + 0.8

    @cached_property
    def surface(self) -> RegularGridInterpolator:
        """The normal quantile of `chance` as a smooth function of the two numbers of a state."""
        if len(self.groups) != 2:
            raise ValueError(
                f"the best l2 attack is known for two groups of pixels, not {len(self.groups)}"
            )
        axes = np.linspace(*self.box, 33).T
        points = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
        chance = self.chance(points.reshape(-1, 2), 2048, seed=99).reshape(points.shape[:-1])
        return RegularGridInterpolator(
            tuple(axes), ndtri(chance.clip(2**-11, 1 - 2**-11)), method="linear"
        )

    def best_attack(
        self, images: Tensor, labels: Tensor, norm: str = "Linf", eps: float = 8 / 255
    ) -> Tensor:
        """The images that leave the least, in [0, 1]. Book: ch13, eq-best-attack."""
        per_pixel = np.broadcast_to(
            self.shift(norm, eps, self.state(images, labels)) / 2 / self.roots,
            (len(images), len(self.groups)),
        )
        step = sum(
            torch.from_numpy(per_pixel[:, [k], None, None].copy()) * group
            for k, group in enumerate(self.groups)
        )
        against = -self.signs * (2 * labels - 1).reshape(-1, 1, 1, 1)
        return (images + (step * against).to(images)).clamp(0, 1)

    def share(
        self,
        images: Tensor,
        labels: Tensor,
        found: Tensor,
        norm: str = "Linf",
        eps: float = 8 / 255,
    ) -> float:
        """The share of the best attack's gain, in expectation over the purifier's noise, that the
        images `found` have: 1 is all.
        """
        clean, attacked, best = (
            self.right(x, labels).mean()
            for x in (images, found, self.best_attack(images, labels, norm, eps))
        )
        return float((clean - attacked) / (clean - best))

    # -- the purifier, in few numbers; written from the paper's equations, not with the engine

    def noise(
        self, draws: int, seed: int, more: int = 0
    ) -> Callable[[], Callable[[str], np.ndarray]]:
        """Quasi-random standard normal numbers (draws, groups), new ones at each call of what a
        call of this returns."""
        shape = draws, self._asked + more, len(self.groups)
        points = _normal(shape[1] * shape[2], draws, seed).reshape(shape)

        def start() -> Callable[[str], np.ndarray]:
            number = count()
            return lambda name: points[:, next(number)]

        return start

    @cached_property
    def _asked(self) -> int:
        """How often the purifier draws noise."""
        names: list[str] = []
        self.chain(
            self.mean[None], lambda name: names.append(name) or np.zeros((1, len(self.groups)))
        )
        return len(names)

    def chain(self, states: np.ndarray, noise: Callable[[str], np.ndarray]) -> np.ndarray:
        """Purified states."""
        purifier, schedule = self.purifier, self.world.schedule
        first, second = purifier.grid(schedule)
        if isinstance(purifier, Uniform):
            z = self.diffuse(states, 0, second[0], noise("start"))
        else:
            z = self._stage_1(states, first, noise)
        for t, s in pairwise(second):
            z = self.denoise(z, t, s, noise)
        return z

    def _stage_1(
        self, states: np.ndarray, times: Sequence[int], noise: Callable[[str], np.ndarray]
    ) -> np.ndarray:
        """The forward process and stage 1 in the chosen reading (Eq 5 to 11)."""
        purifier, T, inside = (
            self.purifier,
            self.world.schedule.T,
            self.of_groups(self.mask.expand_as(self.world.pattern)) == 1,
        )
        known = lambda z, s: np.where(inside, z, self.diffuse(states, 0, s, noise("known")))
        up = lambda t: min(t + purifier.U, T)
        z = self.diffuse(states, 0, times[0], noise("start"))
        if purifier.reading != "released":
            weak = self.diffuse(states, 0, times[-1], noise("weak"))
            z = np.where(inside, z, self.diffuse(weak, times[-1], times[0], noise("rest")))
        for t, s in pairwise(times):
            if purifier.reading == "paper":
                z = known(self.denoise(z, t, s, noise), s)
                z = self.denoise(
                    self.diffuse(z, s, up(s), noise("renoise")), up(s), s, noise, ancestral=False
                )
            elif purifier.reading == "released":
                z = self.denoise(
                    self.diffuse(known(z, t), t, up(t), noise("renoise")), up(t), s, noise
                )
            else:
                for u in range(purifier.U):
                    z = self.diffuse(z, s, t, noise("renoise")) if u else z
                    z = known(self.denoise(z, t, s, noise), s)
        return z

    def diffuse(self, z: np.ndarray, s: int, t: int, noise: np.ndarray) -> np.ndarray:
        """From time s to a later time t."""
        ratio = self.abar(t) / self.abar(s)
        return ratio**0.5 * z + (1 - ratio) ** 0.5 * noise

    def denoise(
        self,
        z: np.ndarray,
        t: int,
        s: int,
        noise: Callable[[str], np.ndarray],
        ancestral: bool | None = None,
    ) -> np.ndarray:
        """One step back from t to s with the exact denoiser: DDIM, or DDPM's ancestral step."""
        ancestral = self.purifier.sampler == "ddpm" if ancestral is None else ancestral
        a, b = self.abar(t) ** 0.5, (1 - self.abar(t)) ** 0.5
        estimate = self.estimate(z, a, b)
        eps, beta = (z - a * estimate) / b, 1 - self.abar(t) / self.abar(s)
        variance = (1 - self.abar(s)) / (1 - self.abar(t)) * beta if ancestral else 0.0
        z = self.abar(s) ** 0.5 * estimate + max(0.0, 1 - self.abar(s) - variance) ** 0.5 * eps
        return z + variance**0.5 * noise("reverse") if ancestral else z

    def estimate(self, z: np.ndarray, a: float, b: float) -> np.ndarray:
        """The posterior mean of a state: the class's, given by a hyperbolic tangent, and the
        image's own."""
        v = a**2 * self.world.sigma**2 + b**2
        return (
            a * self.world.sigma**2 / v * z
            + b**2 / v * self.mean * np.tanh(a * (z @ self.mean) / v)[:, None]
        )

    def abar(self, t: int) -> float:
        return float(self.world.schedule.abar[t])


def _normal(numbers: int, draws: int, seed: int) -> np.ndarray:
    """Quasi-random standard normal numbers (draws, numbers)."""
    return ndtri(qmc.Sobol(numbers, rng=seed).random(draws).clip(1e-12, 1 - 1e-12))


# ---- closed forms --------------------------------------------------------------------------------


def level(world: World, t: float) -> tuple[float, float]:
    """Signal and noise coefficients of a fraction of T; 0 is no noise."""
    abar = float(world.schedule.abar[world.schedule.index(t)]) if t else 1.0
    return abar**0.5, (1 - abar) ** 0.5


def one_level(world: World, t: float, images: Tensor, labels: Tensor) -> np.ndarray:
    r"""The probability that uniform purification with DDIM, of however many steps, and Bayes'
    classifier get each image right (n,): :math:`\Phi(a m / b)`, m the image's distance to the
    border of the classes. Book: ch13, eq-one-level."""
    a, b = level(world, t)
    unit = world.pattern / world.pattern.norm()
    margin = ((2 * images.double() - 1) * unit).flatten(1).sum(1).numpy() * (2 * labels.numpy() - 1)
    return ndtr(a * margin / b)


def ideal(
    world: World, levels: Tensor, norm: str = "Linf", eps: float = 0.0, voted: bool = False
) -> float:
    r"""The accuracy of the best decision that sees an image only under noise of `levels` (1, h, w),
    fractions of T, and under the best attack on it: the limit of all purifiers with these levels
    without an attack. With `voted`, of infinitely many such looks.

    It weighs pixel i by :math:`k_i = a_i \mu_i / (a_i^2 \sigma^2 + b_i^2)`: noise takes weight off.
    Book: ch13, eq-ideal."""
    ab = torch.tensor([level(world, float(t)) for t in levels.flatten()], dtype=torch.float64)
    a, b = (part.reshape(levels.shape) for part in ab.T)
    k = a * world.pattern / (a**2 * world.sigma**2 + b**2)
    drop = 2 * eps * float((k * a).abs().sum() if norm == "Linf" else (k * a).norm())
    noise = a**2 * world.sigma**2 + (0 if voted else b**2)
    return float(
        ndtr((float((k * a * world.pattern).sum()) - drop) / float((k**2 * noise).sum()) ** 0.5)
    )


def vote(right: np.ndarray, S: int) -> np.ndarray:
    """The chance that the majority of S purifications is right, if one is with probability `right`;
    a tie is half a success."""
    return binom.sf(S / 2, S, right) + (binom.pmf(S // 2, S, right) / 2 if S % 2 == 0 else 0)
