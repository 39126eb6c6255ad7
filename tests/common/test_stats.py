"""Intervals cover, tests have the power they claim, runs and images are told apart, and stopping
early costs what it may.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats
from scipy.stats import binom
from statsmodels.stats import multitest
from torch import Tensor, nn

from hetpure_core import Purified, Uniform, linear_schedule
from hetpure_lab import attacks
from hetpure_lab.attacks import PGD
from hetpure_lab.common import stats


def test_intervals_are_the_textbooks():
    a = stats.wilson(np.array([1] * 304 + [0] * 208))
    assert (round(a.value, 4), round(a.low, 4), round(a.high, 4)) == (0.5938, 0.5507, 0.6354)
    assert stats.mcnemar(
        np.array([1] * 15 + [0] * 5, dtype=bool), np.array([0] * 15 + [1] * 5, dtype=bool)
    ) == pytest.approx(0.0414, abs=1e-4)
    assert stats.mcnemar(np.ones(9, bool), np.ones(9, bool)) == 1.0


def test_a_difference_in_words_has_no_sign_and_a_rounded_zero_has_none():
    d = stats.Accuracy(-0.05, -0.072, -0.03, 64)
    assert stats.more_or_less(d) == "5.0 [3.0, 7.2] points less"
    assert stats.more_or_less(stats.opposite(d)) == "5.0 [3.0, 7.2] points more"
    assert "-0.0" not in str(stats.Accuracy(-1e-9, -2e-9, -0.0, 64))


def test_bootstrap_interval_covers():
    rng = np.random.default_rng(1)
    hits = 0
    for i in range(200):
        a = stats.mean_rate(rng.beta(2, 3, 60), seed=i, resamples=400)
        hits += a.low <= 0.4 <= a.high
    assert 180 <= hits <= 199


def test_an_interval_never_vanishes_because_all_images_agree():
    a = stats.mean_rate(np.zeros(8))
    assert (a.value, a.low) == (0, 0) and a.high == stats.unseen(8) > 0.2


def test_one_success_does_not_shrink_what_none_leaves_open():
    none, one = np.zeros(128), np.eye(1, 128)[0] / 20
    assert (
        stats.mean_rate(one).high >= stats.mean_rate(none).high
        and stats.mean_rate(1 - one).low <= stats.mean_rate(1 - none).low
    )
    same = stats.paired_difference(none, none)
    assert -0.05 < same.low < 0 < same.high < 0.05
    assert stats.paired_difference(none + 0.5, none).low == 0.5  # many images differ


def test_intervals_cover_where_few_images_survive():
    """One image in a hundred always survives, the others never: most samples of 64 contain none of
    the first.
    """
    rng = np.random.default_rng(0)
    found = [
        stats.mean_rate((rng.random(64) < 0.01).astype(float), seed=i, resamples=200)
        for i in range(200)
    ]
    assert np.mean([a.low <= 0.01 <= a.high for a in found]) >= 0.95


def test_a_statistic_that_is_a_mean_has_the_interval_of_the_mean():
    values = np.random.default_rng(0).normal(size=60)
    a, mean = (
        stats.reweighted(lambda w: w @ values, 60),
        stats.paired_difference(values, 0 * values),
    )
    assert a.value == pytest.approx(mean.value) and (a.low, a.high) == pytest.approx(
        (mean.low, mean.high), abs=0.05
    )


def test_a_statistic_of_few_images_or_one_that_never_differs_bounds_nothing():
    for n, value in ((stats.FEW - 1, np.arange(stats.FEW - 1)), (20, np.zeros(20))):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a bootstrap of equal values
            a = stats.reweighted(lambda w, value=value: w @ value, n)
        assert (a.low, a.high) == (-np.inf, np.inf)


def test_one_image_says_nothing_about_others():
    one = np.array([0.7])
    rate, difference = stats.mean_rate(one), stats.paired_difference(one, 1 - one)
    assert (rate.value, rate.low, rate.high) == (0.7, 0, 1)
    assert (difference.value, difference.low, difference.high) == (pytest.approx(0.4), -1, 1)


def test_rounding_errors_are_no_difference():
    """The lower end of this interval is 0, which floating point makes 2e-18."""
    a = np.array([0.0, 0.0, 0.0, 0.0, 0.8, 0.1, 0.1, 0.0, 0.0, 0.0, -0.1, 0.0, 0.1, 0.0, 0.0, 0.2])
    d = stats.paired_difference(a, np.zeros(16))
    assert d.low == 0 and not stats.above(d)


def test_holms_correction_is_the_textbooks():
    assert (
        stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06]) and stats.holm([]) == []
    )


def test_clopper_pearson_never_covers_too_rarely():
    """Exactly, from the binomial distribution, where Wilson's interval sometimes does."""
    n = 30
    intervals = [
        [f(np.arange(n) < k) for k in range(n + 1)] for f in (stats.clopper_pearson, stats.wilson)
    ]
    for p in (0.01, 0.06, 0.2, 0.5):
        exact, wilson = (
            sum(binom.pmf(k, n, p) for k, a in enumerate(found) if a.low <= p <= a.high)
            for found in intervals
        )
        assert exact >= 0.95 and wilson > 0.9
    assert stats.clopper_pearson(np.zeros(128)).high == pytest.approx(1 - 0.025 ** (1 / 128))


def test_power_of_mcnemar_is_that_of_a_simulation():
    n, discordance, difference = 100, 0.2, 0.12
    rng, rejected = np.random.default_rng(0), 0
    for only_a, only_b, _ in rng.multinomial(
        n, [(discordance + difference) / 2, (discordance - difference) / 2, 1 - discordance], 1000
    ):
        a = np.array([True] * only_a + [False] * only_b, dtype=bool)
        rejected += stats.mcnemar(a, ~a) < 0.05
    expected = stats.mcnemar_power(difference, n, discordance)
    assert abs(rejected / 1000 - expected) < 3 * math.sqrt(expected * (1 - expected) / 1000)


def test_without_a_difference_the_test_keeps_its_level():
    assert all(0 < stats.mcnemar_power(0, n, D) <= 0.05 for n in (32, 128, 512) for D in (0.1, 0.5))


def test_smallest_detectable_difference_has_its_power_and_falls_with_n():
    found = [stats.smallest_detectable(n, 0.1) for n in (128, 256, 512)]
    assert found == sorted(found, reverse=True)
    assert stats.mcnemar_power(found[-1], 512, 0.1) == pytest.approx(0.8, abs=1e-6)
    # three images differ: not even all of them one way would do
    assert stats.smallest_detectable(64, 0.05) is None
    with pytest.raises(ValueError, match="discordance"):
        stats.smallest_detectable(64, 0)


def test_k_fold_interval_covers_with_noise_within_images():
    """K runs per image are not K images: the interval over images covers, one that counts runs as
    images would not.
    """
    rng, hits, naive = np.random.default_rng(2), 0, 0
    for i in range(150):
        correct = rng.random((60, 20)) < rng.beta(0.4, 0.6, 60)[:, None]
        a, b = (
            stats.mean_rate(correct.mean(1), seed=i, resamples=400),
            stats.wilson(correct.ravel()),
        )
        hits, naive = hits + (a.low <= 0.4 <= a.high), naive + (b.low <= 0.4 <= b.high)
    assert 135 <= hits <= 149 and naive < 100


def test_components_of_variance_are_those_that_were_put_in():
    rng, runs, n = np.random.default_rng(3), 6, 150
    found = stats.spread(
        0.5
        + 0.03 * rng.standard_normal((runs, 1))
        + 0.2 * rng.standard_normal(n)
        + 0.1 * rng.standard_normal((runs, n))
    )
    assert found.image_to_image == pytest.approx(0.2 / math.sqrt(n), rel=0.15)
    assert 0.012 < found.run_to_run < 0.06  # six runs know a standard deviation of 0.03 no better
    alike = stats.spread(np.tile(rng.random(50), (3, 1)))
    assert alike.run_to_run == pytest.approx(0, abs=1e-9) and alike.image_to_image > 0.02
    with pytest.raises(ValueError, match="two runs"):
        stats.spread(np.ones((1, 5)))


# ---- stopping early ------------------------------------------------------------------------------


class Threshold(nn.Module):
    """Class 1 where the mean over pixels is above a half, with a margin as logit."""

    def taps(self) -> list[nn.Module]:
        return []

    def forward(self, x: Tensor) -> Tensor:
        margin = 40 * (x.mean((1, 2, 3)) - 0.5)
        return torch.stack([-margin, margin], 1)


class Nothing(nn.Module):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.zeros_like(x)


def right(x: Tensor, t: float) -> Tensor:
    r"""The chance that one purification of x is classified as 1, in closed form: noise of known
    size on the mean of the pixels.
    """
    abar = linear_schedule().abar[linear_schedule().index(t)].item()
    sigma = math.sqrt((1 - abar) / abar / x[0].numel()) / 2
    return torch.special.ndtr((x.mean((1, 2, 3)) - 0.5) / sigma)


def test_stopping_early_is_unbiased_and_costs_less_than_its_bound():
    """On a defence whose accuracy is known for every image: scoring on fresh noise estimates the
    accuracy of the image that the attack
    ended with, stopped or not; scoring with the noise that stopped it would not; and the accuracy
    lost keeps to the bound."""
    n, t = 120, 0.15
    defence = Purified(Threshold(), Nothing(), Uniform(t, 1))
    means = 0.44 + 0.2 * torch.linspace(0, 1, n)
    x, y, ids = (
        means.reshape(-1, 1, 1, 1).expand(-1, 3, 2, 2).clone(),
        torch.ones(n, dtype=torch.long),
        range(n),
    )
    attack = PGD(eps=0.03, step=0.003, iterations=10, eot=1, confirm=3, confirm_every=2)
    stopped, spent = attack.run(defence, x, y, ids)
    to_the_end, _ = PGD(eps=0.03, step=0.003, iterations=10, eot=1, confirm=0).run(
        defence, x, y, ids
    )
    early = spent < 10
    assert 10 < early.sum() < n - 10
    fresh = (
        attacks.logits_of(attacks.reseeded(defence, "score"), stopped, ids, range(12))
        .argmax(-1)
        .double()
        .mean(0)
    )
    truth = right(stopped, t).double()
    for part in (early, ~early):
        assert abs((fresh - truth)[part].mean()) < 4 * math.sqrt(
            (truth * (1 - truth))[part].mean() / 12 / part.sum()
        )
    assert truth[early].mean() > 0.05  # their noise said 0: counting it would have been biased
    assert (
        0 <= (right(stopped, t) - right(to_the_end, t)).mean() < stats.stopping_bound(3, checks=4)
    )


def test_looking_in_portions_confirms_the_same_images():
    defence, n = Purified(Threshold(), Nothing(), Uniform(0.15, 1)), 40
    x, y = (
        (0.4 + 0.2 * torch.linspace(0, 1, n)).reshape(-1, 1, 1, 1).expand(-1, 3, 2, 2),
        torch.ones(n, dtype=torch.long),
    )
    in_portions = attacks.confirmed(defence, x, y, range(n), range(6))
    at_once = attacks.confirmed(defence, x, y, range(n), range(6), at_once=6)
    assert torch.equal(in_portions, at_once) and 0 < at_once.sum() < n


def test_the_bound_on_stopping_is_the_worst_case_over_accuracies():
    p = np.linspace(0, 1, 100_001)
    assert stats.stopping_bound(16, 1) == pytest.approx((p * (1 - p) ** 16).max(), rel=1e-6)
    assert stats.stopping_bound(16, 3) == pytest.approx(3 * stats.stopping_bound(16, 1))


@pytest.mark.parametrize("n", [2, 7, 64, 128])
def test_the_bootstrap_is_scipys(n):
    values = np.random.default_rng(n).integers(0, 21, n) / 20
    rng = np.random.default_rng(3)
    theirs = scipy_stats.bootstrap(
        (values,), np.mean, n_resamples=500, method="percentile", rng=rng
    ).confidence_interval
    ours = stats._bootstrap(values, (0, 1), 3, 500)
    assert (ours.low, ours.high) == tuple(round(end, 12) for end in theirs)


def test_holms_correction_is_statsmodels():
    p = np.random.default_rng(0).random(40) ** 3
    assert stats.holm(p) == multitest.multipletests(p, method="holm")[1].tolist()
    assert stats.holm([]) == [] and stats.holm([0.04]) == [0.04]
