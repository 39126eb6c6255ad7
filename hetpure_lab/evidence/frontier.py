r"""Defences at equal clean accuracy: the curve that uniform noise draws in (clean, attacked) as its
level grows, and the distance to it.

A `Point` holds what one defence did per image. A curve is the points of one family, such as uniform
noise at several levels, on the same images. Between neighbours it is a straight line: a defence
that picks one of two levels by the toss of a coin lies on it. `distance` is a point's attacked
accuracy minus the curve's at the same clean accuracy; images are resampled for all points together,
so that their common part cancels. `against_best` compares with the best single level, chosen on
other images than it is compared on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hetpure_lab.common import stats
from hetpure_lab.common.stats import Accuracy
from hetpure_lab.evidence.outcomes import Outcomes

SHAPES = ("line", "envelope")


class OffTheCurve(ValueError):
    """A clean accuracy that no part of the curve has: there is nothing to compare with."""


@dataclass(frozen=True)
class Point:
    """One defence under one attack: per image (n,) the share of right answers in [0, 1], `clean`
    and `attacked`; `images` names them."""

    name: str
    images: tuple[str, ...]
    clean: np.ndarray
    attacked: np.ndarray

    def __post_init__(self):
        for what in ("clean", "attacked"):
            rates = np.asarray(getattr(self, what), dtype=float)
            if rates.shape != (len(self.images),) or not ((rates >= 0) & (rates <= 1)).all():
                raise ValueError(
                    f"{self.name}: {what} must hold a share in [0, 1] for each of "
                    f"{len(self.images)} images"
                )
            object.__setattr__(self, what, rates)
        if len(set(self.images)) != len(self.images):
            raise ValueError(f"{self.name}: an image is there twice")

    @classmethod
    def of(cls, name: str, records: dict[str, dict]) -> Point:
        """From the records of one experiment, by image."""
        if not records:
            raise ValueError(f"{name} has no records")
        outcomes = Outcomes.of(records)
        return cls(
            name,
            tuple(records),
            *(outcomes.correct(column).mean(1) for column in ("clean", "adversarial")),
        )

    def on(self, images: Sequence[str]) -> Point:
        """The same on some of its images, in their order."""
        place = {image: i for i, image in enumerate(self.images)}
        index = [place[image] for image in images]
        return Point(self.name, tuple(images), self.clean[index], self.attacked[index])


def shared(points: Sequence[Point]) -> list[Point]:
    """The points on the images that all of them have, in the order of the first; `ValueError` if
    these are fewer than `stats.FEW`."""
    common = set.intersection(*(set(p.images) for p in points))
    if len(common) < stats.FEW:
        raise ValueError(f"only {len(common)} images are common to all: {stats.FEW} are the least")
    images = [image for image in points[0].images if image in common]
    return [p.on(images) for p in points]


# ---- the curve's height ----------------------------------------------------------------------


def height(
    clean: np.ndarray, attacked: np.ndarray, at: np.ndarray, shape: str = "line"
) -> np.ndarray:
    """The curve's attacked accuracy where its clean accuracy is `at`: points (..., levels) and
    places (..., m) to heights (..., m).

    ``line`` joins the points in the order of their clean accuracy, ``envelope`` is the highest line
    at this or any larger clean accuracy: a level that loses on both sides does not lower it. Beyond
    its ends the curve goes on as its last segment.
    """
    if shape not in SHAPES:
        raise ValueError(f"unknown shape {shape!r}; known: {', '.join(SHAPES)}")
    order = np.argsort(clean, axis=-1, kind="stable")
    c, a = np.take_along_axis(clean, order, -1), np.take_along_axis(attacked, order, -1)
    if shape == "envelope":
        a = np.maximum.accumulate(a[..., ::-1], axis=-1)[..., ::-1]
    left = np.clip((c[..., None, :] <= at[..., :, None]).sum(-1) - 1, 0, c.shape[-1] - 2)
    pick = lambda values, index: np.take_along_axis(values, index, -1)
    c0, c1, a0, a1 = pick(c, left), pick(c, left + 1), pick(a, left), pick(a, left + 1)
    step = c1 - c0
    share = np.where(step > 0, (at - c0) / np.where(step > 0, step, 1), 0.5)
    return a0 + share * (a1 - a0)


def _means(points: Sequence[Point], weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Clean and attacked accuracies (..., points) under weights of the images (..., n)."""
    return tuple(
        weights @ np.stack([getattr(p, what) for p in points], 1) for what in ("clean", "attacked")
    )


def _checked(curve: Sequence[Point]) -> None:
    if len(curve) < 2:
        raise ValueError(f"a curve needs at least two levels, not {len(curve)}")


@dataclass(frozen=True)
class Distance:
    """A point minus the curve at equal clean accuracy: the `difference` with its interval, `p` of a
    sign-flip test, the point's accuracies `clean` and `attacked`, the curve's `height` there, and
    the share of resamples in which the point lay beyond an end of the curve."""

    name: str
    difference: Accuracy
    p: float
    clean: float
    attacked: float
    height: float
    beyond: float

    def __str__(self) -> str:
        at = f"{100 * self.clean:.1f} % clean, n = {self.difference.n}"
        return f"{self.name}: {self.difference} points at {at}"


def distance(
    point: Point, curve: Sequence[Point], shape: str = "line", seed: int = 0, resamples: int = 2000
) -> Distance:
    """The distance of `point` to `curve` at equal clean accuracy, on the images that all have.

    The interval is a bootstrap (BCa) over images, point and curve resampled together and
    interpolated anew. `p` is the sign-flip test of `contributions`. Raises `OffTheCurve` if no part
    of the curve is as clean as the point.
    """
    _checked(curve)
    point, *curve = shared([point, *curve])
    n = len(point.images)
    levels = [float(p.clean.mean()) for p in curve]
    clean, attacked = float(point.clean.mean()), float(point.attacked.mean())
    if not min(levels) <= clean <= max(levels):
        raise OffTheCurve(
            f"the curve ({100 * min(levels):.1f} to {100 * max(levels):.1f} %) does not reach "
            f"{100 * clean:.1f} %"
        )

    def statistic(weights: np.ndarray) -> np.ndarray:
        c, a = _means([point, *curve], weights)
        line = height(c[..., 1:], a[..., 1:], c[..., :1], shape)[..., 0]
        return a[..., 0] - np.clip(line, 0, 1)  # resampled beyond its ends, a line leaves them

    values = contributions(point, curve, shape).round(12)  # rounding errors have no sign to flip
    index = np.random.default_rng(seed).integers(n, size=(resamples, n))
    means = np.stack([p.clean[index].mean(1) for p in curve])
    beyond = (point.clean[index].mean(1) < means.min(0)) | (
        point.clean[index].mean(1) > means.max(0)
    )
    found = stats.reweighted(statistic, n, seed, resamples)
    return Distance(
        point.name,
        found,
        stats.sign_flip(values, np.zeros(n), seed),
        clean,
        attacked,
        attacked - found.value,
        float(beyond.mean()),
    )


def contributions(point: Point, curve: Sequence[Point], shape: str = "line") -> np.ndarray:
    r"""The contribution of every image (n,); their mean is the distance.

    On the segment between levels 0 and 1 with slope b, :math:`d_i = (a_i - \bar a_i) - b (c_i -
    \bar c_i)`, where a bar mixes the two levels in the proportion that makes the clean accuracies
    equal: the distance, linearised in the weights of the images.
    """
    _checked(curve)
    point, *curve = shared([point, *curve])
    ordered = sorted(curve, key=lambda p: p.clean.mean())
    if shape == "envelope":
        ordered = _highest(ordered)
    if len(ordered) == 1:
        return point.attacked - ordered[0].attacked
    c = np.array([p.clean.mean() for p in ordered])
    left = int(np.clip((c <= point.clean.mean()).sum() - 1, 0, len(c) - 2))
    if shape == "envelope" and point.clean.mean() < c[0]:
        return point.attacked - ordered[0].attacked
    low, high = ordered[left], ordered[left + 1]
    step = high.clean.mean() - low.clean.mean()
    share = (point.clean.mean() - low.clean.mean()) / step if step > 0 else 0.5
    slope = (high.attacked.mean() - low.attacked.mean()) / step if step > 0 else 0.0
    mixed = lambda what: (1 - share) * getattr(low, what) + share * getattr(high, what)
    return point.attacked - mixed("attacked") - slope * (point.clean - mixed("clean"))


def _highest(ordered: Sequence[Point]) -> list[Point]:
    """The points, in the order of their clean accuracy, that no cleaner one surpasses."""
    return [
        p
        for i, p in enumerate(ordered)
        if all(p.attacked.mean() >= q.attacked.mean() for q in ordered[i + 1 :])
    ]


def trend(
    pairs: Sequence[tuple[Point, Sequence[Point]]],
    against: Sequence[float],
    seed: int = 0,
    resamples: int = 2000,
) -> Accuracy:
    """The slope of the distances of several points, each to a curve of its own, `against` a number
    of each (least squares), images resampled for all together. `ValueError` for fewer than two
    pairs, or if all numbers are the same."""
    x = np.asarray(against, dtype=float)
    if len(pairs) < 2 or len(pairs) != len(x) or not np.ptp(x):
        raise ValueError(f"a trend needs two different numbers at least, not {list(against)}")
    flat = shared([p for point, curve in pairs for p in (point, *curve)])
    sizes = [1 + len(curve) for _, curve in pairs]
    groups = [flat[end - size : end] for size, end in zip(sizes, np.cumsum(sizes))]
    for group in groups:
        _checked(group[1:])
    pull = (x - x.mean()) / np.square(x - x.mean()).sum()

    def statistic(weights: np.ndarray) -> np.ndarray:
        slope = np.zeros(weights.shape[:-1])
        for group, share in zip(groups, pull):
            c, a = _means(group, weights)
            slope = slope + share * (a[..., 0] - height(c[..., 1:], a[..., 1:], c[..., :1])[..., 0])
        return slope

    return stats.reweighted(statistic, len(flat[0].images), seed, resamples)


# ---- the curve with its band -----------------------------------------------------------------


@dataclass(frozen=True)
class Band:
    """The curve at clean accuracies `clean` (m,): `height`, and `low` and `high` between which it
    runs everywhere at once, at 95 %."""

    clean: np.ndarray
    height: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: int


def band(
    curve: Sequence[Point], m: int = 50, shape: str = "line", seed: int = 0, resamples: int = 2000
) -> Band:
    """The curve between its ends with a joint bootstrap band: the largest deviation in standard
    errors, over the whole curve, decides."""
    _checked(curve)
    curve = shared(curve)
    n = len(curve[0].images)
    c, a = _means(curve, np.full(n, 1 / n))
    at = np.linspace(c.min(), c.max(), m)
    middle = height(c, a, at, shape)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(n, np.full(n, 1 / n), size=resamples) / n
    drawn = height(*_means(curve, weights), np.broadcast_to(at, (resamples, m)), shape)
    error = drawn.std(0)
    reach = np.quantile((np.abs(drawn - middle) / np.where(error > 0, error, np.inf)).max(1), 0.95)
    return Band(
        at, middle, np.clip(middle - reach * error, 0, 1), np.clip(middle + reach * error, 0, 1), n
    )


# ---- the best single level -------------------------------------------------------------------


@dataclass(frozen=True)
class AgainstBest:
    """A point's attacked accuracy minus the best level's, which was `chosen` (by fold) on the
    images of the other folds.
    """

    difference: Accuracy
    clean: Accuracy
    p: float
    chosen: tuple[str, ...]


def against_best(
    point: Point, curve: Sequence[Point], folds: int = 5, seed: int = 0
) -> AgainstBest:
    """Compare with the level of the highest attacked accuracy. Each fold of the images is compared
    with the level that was best on the others, so that choosing does not flatter it. `clean` is the
    difference of the clean accuracies."""
    point, *curve = shared([point, *curve])
    n = len(point.images)
    if not 2 <= folds <= n:
        raise ValueError(f"folds must be from 2 to {n}, the number of images, not {folds}")
    fold = np.random.default_rng(seed).permutation(n) % folds
    attacked, clean, chosen = np.empty(n), np.empty(n), []
    for k in range(folds):
        best = max(curve, key=lambda p: p.attacked[fold != k].mean())
        attacked[fold == k], clean[fold == k] = best.attacked[fold == k], best.clean[fold == k]
        chosen.append(best.name)
    paired = lambda a, b: stats.paired_difference(a, b, seed)
    return AgainstBest(
        paired(point.attacked, attacked),
        paired(point.clean, clean),
        stats.sign_flip(point.attacked, attacked, seed),
        tuple(chosen),
    )
