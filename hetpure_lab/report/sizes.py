"""Does the verdict depend on the denoiser's size? The distance to uniform noise at equal clean
accuracy against the denoiser's error, over the benches that differ in nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from hetpure_lab.common import names, specs, stats
from hetpure_lab.common.paths import RESULTS
from hetpure_lab.common.stats import Accuracy
from hetpure_lab.defences import DEFENCES
from hetpure_lab.evidence import frontier
from hetpure_lab.evidence.frontier import Distance, Point
from hetpure_lab.networks import benches
from hetpure_lab.report import tables
from hetpure_lab.report.premise import LEVELS, Setting, measured_on, record_files

BENCHES = ("cifar10-small-narrow", "cifar10-small", "cifar10-small-wide")
ERROR = "mse_0.1"  # of the predicted noise at the level of the method's clean accuracy
DEFENDED = {"the method": "hetpure", "a random mask": "hetpure:mask_kind=random"}


@dataclass(frozen=True)
class Place:
    """A bench of the study: its denoiser's `error` on held-out images, None if it is not trained
    yet, and the curve and the point on record, as far as they are."""

    bench: str
    error: float | None
    point: Point | None
    curve: list[Point]

    @cached_property
    def found(self) -> Distance | str:
        """The distance to the curve, or why there is none."""
        if self.point is None or len(self.curve) < 2:
            return "not measured yet"
        try:
            return frontier.distance(self.point, self.curve)
        except ValueError as error:
            return str(error)


def error_of(bench: str) -> float | None:
    """The error on a denoiser's card, or None if it was not trained yet."""
    try:
        card = benches.card(benches.network_name(bench, "denoiser"))
    except benches.BenchError:
        return None
    return card.get("kept", card["curve"][-1])[ERROR]


def places(defence: str, attack: str = "pgd", results: Path = RESULTS) -> list[Place]:
    """One per bench, in the order of size."""
    return [_place(bench, defence, attack, results) for bench in BENCHES]


def _place(bench: str, defence: str, attack: str, results: Path) -> Place:
    if (error := error_of(bench)) is None:
        return Place(bench, None, None, [])
    setting = Setting(bench, attack)
    levels = [specs.normal(f"uniform:t={t:g}", DEFENCES) for t in LEVELS]
    curve = [p for text in levels if (p := setting.point(text, results))]
    point = setting.point(defence, results)
    return Place(bench, error, point, measured_on(point, curve) if point else curve)


def table(results: Path = RESULTS, attack: str = "pgd") -> pd.DataFrame:
    """Error, accuracies and distance per bench and defence, for denoisers that are trained; what
    was not measured behind them says so."""
    lines, files = {}, []
    for name, text in DEFENDED.items():
        for place in places(text, attack, results):
            if place.error is not None:
                lines[name, names.bench(place.bench)] = _line(place)
                shown = [text] * bool(place.point) + [p.name for p in place.curve]
                files += record_files(Setting(place.bench, attack), shown)
    frame = pd.DataFrame(lines).T.fillna("").rename_axis(["defence", "networks"])
    return tables.behind(frame, files)


def _line(place: Place) -> dict[str, str]:
    line, found = {"error": f"{place.error:.4f}"}, place.found
    if place.point:
        line["clean, %"] = str(stats.mean_rate(place.point.clean))
        line["attacked, %"] = str(stats.mean_rate(place.point.attacked))
    if isinstance(found, Distance):
        found = f"{found.difference}, n = {found.difference.n}"
    return line | {"minus the curve": found}


def measured(found: Sequence[Place]) -> list[Place]:
    """The places that have a distance."""
    return [p for p in found if p.error is not None and isinstance(p.found, Distance)]


def change(found: Sequence[Place], against: Sequence[float], seed: int = 0) -> Accuracy:
    """By how much the distance grows `against` a number of each place (least squares), images
    resampled for all benches together."""
    return frontier.trend([(p.point, p.curve) for p in found], against, seed)


def sentence(name: str, attack: str = "pgd", results: Path = RESULTS) -> str:
    """What is known of the sizes, in words: a line through two of them is a difference and no
    trend."""
    every = places(DEFENDED[name], attack, results)
    found, trained = measured(every), sum(p.error is not None for p in every)
    if len(found) < 2:
        return (
            f"*{name}*: nothing can be said of the size yet. Of {len(every)} denoisers {trained}"
            f" {_are(trained)} trained, and behind {len(found)} of them the distance is measured."
        )
    if len(found) == 2:
        return f"*{name}*: {_two(change(found, (0, 1)))}"
    slope = change(found, [-100 * p.error for p in found])
    word = {1: "grows", -1: "falls", 0: "neither grows nor falls"}[_side(slope)]
    return f"*{name}*: the distance {word}: {slope} points per 0.01 less error, n = {slope.n}."


def _two(d: Accuracy) -> str:
    """The larger of two sizes against the smaller."""
    told = "" if _side(d) else " The two are not told apart."
    return (
        "two sizes are measured. Seen from uniform noise of equal clean accuracy, it leaves"
        f" {stats.more_or_less(d)} behind the larger denoiser than behind the smaller one,"
        f" n = {d.n}.{told} Two sizes make no trend."
    )


def _side(d: Accuracy) -> int:
    """On which side of zero an interval lies; 0 if on both."""
    return (d.low > 0) - (d.high < 0)


def _are(n: int) -> str:
    return "is" if n == 1 else "are"
