"""Intervals and tests for accuracies, from SciPy and statsmodels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest
from statsmodels.stats.proportion import proportion_confint


@dataclass(frozen=True)
class Accuracy:
    """A share in [0, 1] with a 95 % interval over `n` images."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def wilson(correct: np.ndarray) -> Accuracy:
    """Share of 0/1 outcomes with its Wilson interval (Brown, Cai & DasGupta 2001)."""
    k, n = int(np.sum(correct)), len(correct)
    low, high = proportion_confint(k, n, method="wilson")
    return Accuracy(k / n, float(low), float(high), n)


def mean_rate(rates: np.ndarray, seed: int = 0, resamples: int = 2000) -> Accuracy:
    """Mean of per-image success rates (K runs each) with a bootstrap interval over images, the unit that was sampled.

    If all images agree on 0 or on 1 a bootstrap knows no uncertainty; then it is Wilson's.
    """
    rates = np.asarray(rates, dtype=float)
    return wilson(rates) if rates.max() == 0 or rates.min() == 1 else _bootstrap(rates, seed, resamples)


def _bootstrap(values: np.ndarray, seed: int, resamples: int) -> Accuracy:
    means = np.random.default_rng(seed).choice(values, (resamples, len(values))).mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Accuracy(float(values.mean()), float(low), float(high), len(values))


def mcnemar(a: np.ndarray, b: np.ndarray) -> float:
    """Exact McNemar test of two 0/1 columns on the same images: the two-sided p-value of their discordant pairs."""
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(~a & b))
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def paired_difference(a: np.ndarray, b: np.ndarray, seed: int = 0, resamples: int = 2000) -> Accuracy:
    """Mean of a - b over images with a bootstrap interval over images: two defences on the same images."""
    return _bootstrap(np.asarray(a, dtype=float) - np.asarray(b, dtype=float), seed, resamples)
