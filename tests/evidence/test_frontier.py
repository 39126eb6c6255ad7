"""Defences at equal clean accuracy: closed forms, a curve whose truth is known, refusals."""

from __future__ import annotations

import numpy as np
import pytest

from hetpure_lab.evidence import frontier
from hetpure_lab.evidence.frontier import OffTheCurve, Point


def point(name: str, clean, attacked, start: int = 0) -> Point:
    return Point(
        name,
        tuple(f"image {start + i}" for i in range(len(clean))),
        np.array(clean, float),
        np.array(attacked, float),
    )


def flat(name: str, clean: float, attacked: float, n: int = 10) -> Point:
    return point(name, [clean] * n, [attacked] * n)


CURVE = [flat("low", 0.9, 0.1), flat("middle", 0.7, 0.3), flat("high", 0.5, 0.2)]


@pytest.mark.parametrize(
    "clean, line, envelope",
    [(0.9, 0.1, 0.1), (0.8, 0.2, 0.2), (0.7, 0.3, 0.3), (0.6, 0.25, 0.3), (0.5, 0.2, 0.3)],
)
def test_between_two_levels_the_curve_is_a_straight_line_or_the_best_of_what_is_cleaner(
    clean, line, envelope
):
    for shape, expected in (("line", line), ("envelope", envelope)):
        found = frontier.distance(flat("ours", clean, 0.35), CURVE, shape)
        assert found.height == pytest.approx(expected) and found.difference.value == pytest.approx(
            0.35 - expected
        )
        assert found.beyond == 0


def test_the_order_of_levels_and_images_does_not_matter():
    rng = np.random.default_rng(0)
    make = lambda name: point(name, rng.random(20), rng.random(20) / 2)
    curve = [make("a"), make("b"), make("c")]
    ours = point("ours", np.mean([p.clean for p in curve], 0), rng.random(20) / 2)
    shuffled = [p.on([p.images[i] for i in rng.permutation(20)]) for p in reversed(curve)]
    a, b = frontier.distance(ours, curve), frontier.distance(ours, shuffled)
    assert a == b


def test_images_that_not_all_have_are_left_out():
    ours = point("ours", [0.8] * 10 + [0.0] * 5, [0.5] * 10 + [0.0] * 5)
    assert frontier.distance(ours, CURVE).difference.n == 10
    assert frontier.distance(ours, CURVE).difference.value == pytest.approx(0.3)
    with pytest.raises(ValueError, match="only 4 images are common"):
        frontier.distance(point("ours", [0.8] * 8, [0.5] * 8, start=6), CURVE)


@pytest.mark.parametrize("clean", [0.95, 0.45])
def test_nothing_is_said_where_the_curve_does_not_reach(clean):
    with pytest.raises(OffTheCurve, match=rf"50.0 to 90.0 %.*{100 * clean:.1f} %"):
        frontier.distance(flat("ours", clean, 0.5), CURVE)


@pytest.mark.parametrize("shape", frontier.SHAPES)
def test_contributions_add_up_to_the_distance_and_are_its_derivative_in_the_weights(shape):
    rng = np.random.default_rng(1)
    draw = lambda name, clean, attacked: point(
        name, rng.random(40) < clean, rng.random(40) < attacked
    )
    curve = [draw("a", 0.95, 0.2), draw("b", 0.7, 0.4), draw("c", 0.4, 0.3)]
    ours = draw("ours", 0.6, 0.4)
    values, points = frontier.contributions(ours, curve, shape), [ours, *curve]

    def of(weights: np.ndarray) -> float:
        c, a = (
            weights @ np.stack([getattr(p, what) for p in points], 1)
            for what in ("clean", "attacked")
        )
        return float(a[0] - frontier.height(c[1:], a[1:], c[:1], shape)[0])

    equal = np.full(40, 1 / 40)
    assert values.mean() == pytest.approx(frontier.distance(ours, curve, shape).difference.value)
    for i in (0, 7, 21):
        nudged = equal + 1e-6 * ((np.arange(40) == i) - equal)
        assert (of(nudged) - of(equal)) / 1e-6 == pytest.approx(values[i] - values.mean(), abs=1e-4)


def bernoulli_world(rng: np.random.Generator, n: int, lift: float) -> tuple[Point, list[Point]]:
    """Images of different difficulty, three levels on the line attacked = 1 - clean, and a defence
    `lift` above it; the truth is `lift`."""
    hard = rng.uniform(-0.1, 0.1, n)
    draw = lambda name, clean, attacked: point(
        name,
        rng.binomial(20, (clean + hard).clip(0, 1)) / 20,
        rng.binomial(20, (attacked + hard).clip(0, 1)) / 20,
    )
    return draw("ours", 0.7, 0.3 + lift), [draw(str(c), c, 1 - c) for c in (0.85, 0.75, 0.6)]


def test_the_interval_covers_a_known_truth_as_often_as_it_says():
    rng, lift = np.random.default_rng(2), 0.1
    found = [frontier.distance(*bernoulli_world(rng, 48, lift), resamples=400) for _ in range(120)]
    covered = np.mean([d.difference.low <= lift <= d.difference.high for d in found])
    assert 0.88 <= covered <= 0.99
    assert np.mean([d.difference.value for d in found]) == pytest.approx(lift, abs=0.01)


def test_a_defence_on_the_curve_is_rarely_told_apart_from_it():
    rng = np.random.default_rng(3)
    found = [frontier.distance(*bernoulli_world(rng, 48, 0.0), resamples=200).p for _ in range(120)]
    assert np.mean(np.array(found) < 0.05) <= 0.11


def test_the_band_holds_the_whole_true_line_about_as_often_as_it_says():
    rng, inside = np.random.default_rng(4), 0
    for _ in range(100):
        _, curve = bernoulli_world(rng, 48, 0.0)
        found = frontier.band(curve, m=20, resamples=300)
        inside += bool(((found.low <= 1 - found.clean) & (1 - found.clean <= found.high)).all())
    assert 87 <= inside <= 100 and found.n == 48


def test_the_best_level_is_chosen_on_other_images_than_it_is_compared_on():
    """Levels that differ by luck alone: choosing on the same images would make the best of them
    look better than an equal defence."""
    rng, fair, naive = np.random.default_rng(5), [], []
    for _ in range(60):
        curve = [point(str(k), [0.5] * 40, rng.random(40) < 0.5) for k in range(8)]
        ours = point("ours", [0.5] * 40, rng.random(40) < 0.5)
        fair.append(frontier.against_best(ours, curve).difference.value)
        naive.append(ours.attacked.mean() - max(p.attacked.mean() for p in curve))
    assert abs(np.mean(fair)) < 0.05 and np.mean(naive) < -0.08


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"ours: clean must hold a share in \[0, 1\]"):
        point("ours", [1.2] * 8, [0.5] * 8)
    with pytest.raises(ValueError, match="at least two levels"):
        frontier.distance(flat("ours", 0.8, 0.5), CURVE[:1])
    with pytest.raises(ValueError, match="unknown shape 'cubic'"):
        frontier.height(np.array([0.1, 0.2]), np.array([0.1, 0.2]), np.array([0.1]), "cubic")
    with pytest.raises(ValueError, match="folds must be from 2 to 10"):
        frontier.against_best(flat("ours", 0.8, 0.5), CURVE, folds=1)


def test_an_interval_holds_only_differences_that_two_accuracies_can_have():
    """A steep line, resampled beyond its ends, would be drawn to accuracies above 1."""
    ends = np.full(16, 0.5), np.full(16, 0.6)
    curve = [point(name, c, np.full(16, a)) for name, c, a in zip("ab", ends, (0.05, 0.95))]
    ours = point("ours", np.tile([0.1, 1.0], 8), np.full(16, 0.5))
    found = frontier.distance(ours, curve)
    assert found.beyond > 0.1, "the images are such that the line is left"
    assert found.difference.low >= 0.5 - 1 and found.difference.high <= 0.5
