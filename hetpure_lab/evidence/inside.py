"""The inside of a purification: its states, the classifier's view of them, and purified images
beside the originals.

Paper: Figs 1, 3, 4, 6, 9 and §10, which name features and distances without defining them (E33);
    here they are defined. Book: chapter 9.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from hetpure_core import HetPure, Noise, Purified, merge, q_xt_x0, trajectory, x0_xt
from hetpure_lab.common import extras

PROJECTIONS = ("pca", "t-sne")
# of a sample of images: their weights (..., n), which sum to 1, to values (...)
Statistic = Callable[[np.ndarray], np.ndarray]


@torch.no_grad()
def ends(
    defended: Purified, images: Tensor, ids: Sequence, copies: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """The noised `start` and the purified end of images (n, 3, h, w) in [0, 1], both in that scale
    and not clamped. Paper: Fig 1.
    """
    noise = defended.noise(len(images), ids, copies)
    mask = defended.mask(images, noise)
    states = [x for _, x in trajectory(2 * images - 1, defended.plan(images, noise, mask))]
    return start(defended, images, noise, mask, states[0]), (states[-1] + 1) / 2


def start(
    defended: Purified, images: Tensor, noise: Noise, mask: Tensor | None, first: Tensor
) -> Tensor:
    """Images after the forward process, in their scale: Eq 5 where two levels are merged, else the
    `first` state.

    A first state cannot show two levels: the network needs one for all pixels, so those outside the
    mask were noised on to it.
    """
    purifier, x = defended.purifier, 2 * images - 1
    # the released code never builds Eq 5
    if type(purifier).plan is HetPure.plan and purifier.reading != "released":
        weak = q_xt_x0(
            x, defended.schedule.index(purifier.t_s), noise("start weak", x), defended.schedule
        )
        first = merge(mask, first, weak)
    return (first + 1) / 2


@torch.no_grad()
def path(defended: Purified, images: Tensor, ids: Sequence) -> list[tuple[int, Tensor]]:
    r"""The purifier's belief at every time t of its grid: the denoised estimate :math:`\hat x_0` of
    the state, in [0, 1] and clamped.

    A noisy state itself would tell a classifier more of its noise than of its image. Paper: Fig 4.
    """
    plan = defended.plan(images, defended.noise(len(images), ids))
    return [
        (t, ((belief(defended, x, t) + 1) / 2).clamp(0, 1))
        for t, x in trajectory(2 * images - 1, plan)
    ]


def belief(defended: Purified, x: Tensor, t: int) -> Tensor:
    """The denoised estimate of a state x at time t, both in the [-1, 1] scale; at t = 0 the state
    itself.
    """
    if t == 0:
        return x
    eps = defended.denoiser(x, torch.full((len(x),), t, device=x.device))
    return x0_xt(x, t, eps, defended.schedule)


@torch.no_grad()
def features(classifier: nn.Module, images: Tensor) -> Tensor:
    """The input of the classifier's last linear layer for images in [0, 1]: (n, d). Raises
    `ValueError` if there is no such layer.
    """
    linear = [m for m in classifier.modules() if isinstance(m, nn.Linear)]
    if not linear:
        raise ValueError(
            f"{type(classifier).__name__} has no linear layer whose input could serve as features"
        )
    seen: list[Tensor] = []
    hook = linear[-1].register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    try:
        classifier(images)
    finally:
        hook.remove()
    return seen[0].flatten(1)


def distance(classifier: nn.Module, a: Tensor, b: Tensor) -> Tensor:
    r"""The feature distance :math:`\lVert f(a) - f(b) \rVert_2` of each pair of images (n,). Paper:
    Fig 9, §10. Book: ch09, eq-distance.
    """
    return (features(classifier, a) - features(classifier, b)).norm(dim=1)


def spread(points: Tensor) -> float:
    """The median distance between two different ones of the points (n, d): a readable unit of
    `distance`.
    """
    return float(torch.pdist(points).median())


def correlation(a: Tensor, b: Tensor) -> Statistic:
    """Pearson's r of all values of images a and b (n, ...), pooled, as a function of the images'
    weights. Paper: Fig 6.
    """
    a, b = (v.detach().cpu().double().flatten(1).numpy() for v in (a, b))
    moments = np.stack([v.mean(1) for v in (a, b, a * a, b * b, a * b)], 1)

    def r(weights: np.ndarray) -> np.ndarray:
        mean_a, mean_b, aa, bb, ab = np.moveaxis(weights @ moments, -1, 0)
        return (ab - mean_a * mean_b) / np.sqrt((aa - mean_a**2) * (bb - mean_b**2))

    return r


def wasserstein(a: Tensor, b: Tensor, levels: int = 4096) -> Statistic:
    """Wasserstein distance of the pooled values of images a and b (n, ...), as a function of the
    images' weights. Paper: Fig 6.

    It is the area between the two distribution functions, which are means over images; here on a
    grid of `levels`.
    """
    a, b = (v.detach().cpu().double().flatten(1).sort().values.numpy() for v in (a, b))
    grid = np.linspace(
        min(a[:, 0].min(), b[:, 0].min()), max(a[:, -1].max(), b[:, -1].max()), levels
    )
    below = lambda values: (
        np.stack([np.searchsorted(v, grid, "right") for v in values]) / values.shape[1]
    )
    apart, step = below(a) - below(b), grid[1] - grid[0]
    return lambda weights: np.abs(weights @ apart).sum(-1) * step


def less(a: Statistic, b: Statistic) -> Statistic:
    """The difference of two statistics, paired by their common images."""
    return lambda weights: a(weights) - b(weights)


def project(
    background: Tensor, paths: Tensor, how: str, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Features (m, d) and paths (k, steps, d) in two dimensions: (m, 2) and (k, steps, 2).

    ``pca`` is fitted to the background alone and applied to the paths, so that a path cannot bend
    the map it is drawn on. ``t-sne`` has no map to apply: background and paths are embedded
    together, and only neighbourhoods mean something. Paper: Fig 4.
    """
    if how not in PROJECTIONS:
        raise ValueError(f"unknown projection {how!r}; known: {', '.join(PROJECTIONS)}")
    m, (k, steps, d) = len(background), paths.shape
    ground, moving = background.cpu().numpy(), paths.reshape(-1, d).cpu().numpy()
    with extras.wanted():
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE
    if how == "pca":
        fitted = PCA(2, random_state=seed).fit(ground)
        return fitted.transform(ground), fitted.transform(moving).reshape(k, steps, 2)
    together = np.concatenate([ground, moving])
    embedded = TSNE(
        2, perplexity=min(30, (len(together) - 1) / 3), init="pca", random_state=seed
    ).fit_transform(together)
    return embedded[:m], embedded[m:].reshape(k, steps, 2)


def seam(x: Tensor, original: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute jump between neighbouring pixels across the border of the mask, relative to the
    same jump in `original` (n,).

    At 1 the border is as visible as it was; an image whose mask has no border gives nan. Paper: Fig
    3.
    """
    return _jump(x, mask) / _jump(original, mask)


def _jump(x: Tensor, mask: Tensor) -> Tensor:
    total = length = 0
    for d in (-1, -2):
        border = mask.diff(dim=d).abs()
        total = total + (x.diff(dim=d).abs().mean(1, keepdim=True) * border).sum((1, 2, 3))
        length = length + border.sum((1, 2, 3))
    return total / length
