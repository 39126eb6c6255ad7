"""Intervals and tests for accuracies, from SciPy and statsmodels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.stats import binom, binomtest, bootstrap
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.proportion import proportion_confint


@dataclass(frozen=True)
class Accuracy:
    """A share in [0, 1] with a 95 % interval over `n` images."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        value, low, high = (f"{100 * end:z.1f}" for end in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]"


# ---- one accuracy --------------------------------------------------------------------------------


def wilson(correct: np.ndarray) -> Accuracy:
    """Share of 0/1 outcomes with its Wilson interval (Brown, Cai & DasGupta 2001)."""
    return _interval(correct, "wilson")


def clopper_pearson(correct: np.ndarray) -> Accuracy:
    """Share of 0/1 outcomes with an interval that never covers less often than it says: for claims
    near 0 or 1.
    """
    return _interval(correct, "beta")


def _interval(correct: np.ndarray, method: str) -> Accuracy:
    k, n = int(np.sum(correct)), len(correct)
    return Accuracy(k / n, *_limits(k, n, method), n)


@lru_cache(maxsize=2**14)
def _limits(k: int, n: int, method: str) -> tuple[float, float]:
    low, high = proportion_confint(k, n, method=method)
    return float(low), float(high)


def mean_rate(rates: np.ndarray, seed: int = 0, resamples: int = 2000) -> Accuracy:
    """Mean of per-image success rates (K runs each) with a bootstrap interval over images, the unit
    that was sampled.

    A bootstrap knows nothing of images unlike all drawn ones, and near 0 or 1 these make the
    uncertainty: the interval reaches at least to `unseen` from either end.
    """
    rates = np.asarray(rates, dtype=float)
    mean = _bootstrap(rates, (0, 1), seed, resamples)
    return replace(
        mean, low=min(mean.low, 1 - unseen(len(rates))), high=max(mean.high, unseen(len(rates)))
    )


def unseen(n: int) -> float:
    r"""The largest share of a kind of image that n draws can miss, at 95 %: :math:`1 - 0.05^{1/n}`,
    about 3 / n.
    """
    return 1 - 0.05 ** (1 / n)


@lru_cache(maxsize=16)
def _drawn(n: int, seed: int, resamples: int) -> np.ndarray:
    """Which of n images every resample holds, (resamples, n): the draws of SciPy's `bootstrap`,
    which makes them anew at every call.
    """
    return np.random.default_rng(seed).integers(0, n, (resamples, n))


def _bootstrap(
    values: np.ndarray, scale: tuple[float, float], seed: int, resamples: int
) -> Accuracy:
    """Percentile interval over images; one image says nothing about others, so its interval is the
    whole `scale`.
    """
    low, high = scale
    if len(values) > 1:
        means = values[_drawn(len(values), seed, resamples)].mean(-1)
        interval = np.percentile(means, [2.5, 97.5])
        # a mean of exact zeros may come out as 1e-18, which is not above zero
        low, high = (round(end, 12) for end in interval)
    return Accuracy(float(values.mean()), float(low), float(high), len(values))


# ---- two defences on the same images -------------------------------------------------------------


def mcnemar(a: np.ndarray, b: np.ndarray) -> float:
    """Exact McNemar test of two 0/1 columns on the same images: the two-sided p-value of their
    discordant pairs.
    """
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(~a & b))
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def mcnemar_power(difference: float, n: int, discordance: float, alpha: float = 0.05) -> float:
    r"""Chance that `mcnemar` rejects for n pairs, if a share `discordance` of them differs and the
    accuracies differ by `difference`.

    :math:`\sum_m \mathrm{Bin}(m; n, D)\, P(\text{reject} \mid m, q)` with :math:`q = \tfrac12 (1 +
    d / D)`.
    """
    m = np.arange(1, n + 1)
    critical = binom.ppf(alpha / 2, m, 0.5)  # the lowest count with a tail of at least alpha / 2
    critical = np.where(binom.cdf(critical, m, 0.5) <= alpha / 2, critical, critical - 1)
    q = (1 + difference / discordance) / 2
    reject = binom.cdf(critical, m, q) + binom.sf(m - critical - 1, m, q)
    return float(np.sum(binom.pmf(m, n, discordance) * reject))


def smallest_detectable(
    n: int, discordance: float, power: float = 0.8, alpha: float = 0.05
) -> float | None:
    """The smallest difference of two accuracies that `mcnemar` finds with the given power; None if
    even the largest is not found.
    """
    if not 0 < discordance <= 1:
        raise ValueError(f"discordance is a share of the images in (0, 1], not {discordance}")
    if mcnemar_power(discordance, n, discordance, alpha) < power:
        return None
    return float(brentq(lambda d: mcnemar_power(d, n, discordance, alpha) - power, 0, discordance))


def paired_difference(
    a: np.ndarray, b: np.ndarray, seed: int = 0, resamples: int = 2000
) -> Accuracy:
    """Mean of a - b over images with a bootstrap interval over images: two defences on the same
    images.

    If fewer than `FEW` images differ the bootstrap knows little of them: then the interval is no
    narrower than `unseen` allows.
    """
    values = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    d = _bootstrap(values, (-1, 1), seed, resamples)
    if np.count_nonzero(values) >= FEW:
        return d
    return replace(d, low=min(d.low, -unseen(d.n)), high=max(d.high, unseen(d.n)))


RESAMPLES = 9999  # signs that a sign-flip test draws if there are more than it can try


def sign_flip(a: np.ndarray, b: np.ndarray, seed: int = 0) -> float:
    """p-value of the paired permutation test of equal means: under the null, a - b is as likely as
    b - a, image by image.

    Exact if few images differ. SciPy's `permutation_test`, which the tests compare it with, takes
    thirty times as long.
    """
    d = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    d = d[d != 0]
    if not len(d):
        return 1.0
    signs, exact = _signs(len(d), seed)
    hits = int((np.abs(signs @ d) >= abs(d.sum()) - 1e-9).sum())
    return hits / len(signs) if exact else (1 + hits) / (1 + len(signs))


@lru_cache(maxsize=512)
def _signs(n: int, seed: int) -> tuple[np.ndarray, bool]:
    """All signs (2^n, n) of n images, or `RESAMPLES` draws of them."""
    if 2**n <= RESAMPLES:
        return 1.0 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1), True
    return (
        1.0 - 2 * np.random.default_rng(seed).integers(2, size=(RESAMPLES, n), dtype=np.int8),
        False,
    )


def holm(p: Sequence[float]) -> list[float]:
    """p-values of one table after Holm's correction for their number."""
    values = np.asarray(p, dtype=float)
    order = np.argsort(values, kind="stable")
    # statsmodels' collects garbage at every call
    raised = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(p), 0, -1)), 1)
    return raised[np.argsort(order, kind="stable")].tolist()


def word(difference: Accuracy, p: float, level: float = 0.05) -> str:
    """The word that a test allows: ``higher``, ``lower`` or ``inconclusive``."""
    return "inconclusive" if p >= level else "higher" if difference.value > 0 else "lower"


# ---- statistics of a sample of images that are no means ------------------------------------------


def reweighted(
    statistic: Callable[[np.ndarray], np.ndarray], n: int, seed: int = 0, resamples: int = 2000
) -> Accuracy:
    """A statistic of n images, or the difference of two, with its bootstrap interval over images
    (BCa, since it may be biased).

    `statistic` maps the weights of the images (..., n), which sum to 1, to values (...). Fewer than
    `FEW` images bound nothing.
    """
    low = high = np.nan
    if n >= FEW:
        images = np.arange(n)
        of_sample = lambda index, axis=-1: statistic((index[..., None] == images).mean(-2))
        options = {
            "n_resamples": resamples,
            "batch": 200,
            "vectorized": True,
            "method": "BCa",
            "rng": np.random.default_rng(seed),
        }
        low, high = bootstrap((images,), of_sample, **options).confidence_interval
    value, unknown = float(statistic(np.full(n, 1 / n))), np.isnan([low, high])
    low, high = np.where(unknown, (-np.inf, np.inf), (low, high)).tolist()
    return Accuracy(value, low, high, n)


# ---- what an interval allows one to say ----------------------------------------------------------

# images below which no difference is established: if all point the same way, a sign-flip test still
# has p > 0.05
FEW = 6


def below(a: Accuracy, limit: float) -> bool:
    """Whether an interval lies below a limit, on so many images that a kind of image never seen, at
    most 3 / n of all, is below it too.
    """
    return a.high <= limit and a.n * limit >= 3


def above(a: Accuracy, limit: float = 0.0) -> bool:
    """Whether an interval lies above a limit, on more than a few images."""
    return a.low > limit and a.n >= FEW


def opposite(d: Accuracy) -> Accuracy:
    """The difference seen from the other side."""
    return Accuracy(-d.value, -d.high, -d.low, d.n)


def more_or_less(d: Accuracy) -> str:
    """A difference in words, the interval turned with it: "5.0 [3.0, 7.2] points less"."""
    return f"{opposite(d)} points less" if d.value < 0 else f"{d} points more"


# ---- several seeds -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """Standard deviations of a mean accuracy: `run_to_run` on these images, `image_to_image` over
    other images of the same kind.
    """

    mean: float
    run_to_run: float
    image_to_image: float
    runs: int
    n: int


def spread(rates: np.ndarray) -> Spread:
    r"""Variance components of success rates (runs, images) from a two-way analysis of variance with
    both factors random.

    With mean squares of runs R, images I and the rest E, :math:`\sigma_{run}^2 = R / n` and
    :math:`\sigma_{image}^2 = (I - E) / (S n)`. Papers of this field print the first as ±.
    """
    rates = np.asarray(rates, dtype=float)
    if rates.ndim != 2 or min(rates.shape) < 2:
        raise ValueError(
            "components need at least two runs of at least two images, not an array of"
            f" {rates.shape}"
        )
    runs, n = rates.shape
    run, image = np.indices(rates.shape)
    table = pd.DataFrame({"rate": rates.ravel(), "run": run.ravel(), "image": image.ravel()})
    table = anova_lm(ols("rate ~ C(run) + C(image)", table).fit())
    mean_square = table["sum_sq"] / table["df"]
    between_images = max(0.0, mean_square["C(image)"] - mean_square["Residual"]) / runs
    return Spread(
        float(rates.mean()),
        float(np.sqrt(mean_square["C(run)"] / n)),
        float(np.sqrt(between_images / n)),
        runs,
        n,
    )


# ---- stopping an attack early --------------------------------------------------------------------


def stopping_bound(confirm: int, checks: int) -> float:
    r"""The most accuracy that an attack fails to take, per image and in expectation, by setting
    aside images that fail `confirm` times in a row.

    A point with purifications right with probability p is set aside with probability :math:`(1
    - p)^c`, and then counts p instead of at least 0: a loss of at most :math:`\max_p p (1 - p)^c =
      \frac{1}{c + 1} (\frac{c}{c + 1})^c` at each of `checks` looks.
    """
    return checks / (confirm + 1) * (confirm / (confirm + 1)) ** confirm
