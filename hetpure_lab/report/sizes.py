"""Does the verdict depend on the denoiser's size? The distance to uniform noise at equal clean
accuracy against the denoiser's error, over the benches that differ in nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from hetpure_lab.common import names, specs, stats
from hetpure_lab.common.paths import RESULTS
from hetpure_lab.common.stats import Accuracy
from hetpure_lab.defences import DEFENCES
from hetpure_lab.evidence import frontier
from hetpure_lab.evidence.frontier import Point
from hetpure_lab.networks import benches
from hetpure_lab.report.premise import LEVELS, Setting

BENCHES = ("cifar10-small-narrow", "cifar10-small", "cifar10-small-wide")
ERROR = "mse_0.1"  # of the predicted noise at the level of the method's clean accuracy
DEFENDED = {"the method": "hetpure", "a random mask": "hetpure:mask_kind=random"}


@dataclass(frozen=True)
class Place:
    """A bench of the study: its denoiser's `error` on held-out images, and the curve and the point
    on record, as far as they are."""

    bench: str
    error: float | None
    point: Point | None
    curve: list[Point]

    @property
    def waits(self) -> str:
        """What is missing, or ""."""
        if self.error is None:
            return "the denoiser is not trained yet"
        if self.point is None or len(self.curve) < 2:
            return "not measured yet"
        return ""


def error_of(bench: str) -> float | None:
    """The error on a denoiser's card, or None if it was not trained yet."""
    try:
        card = benches.card(benches.network_name(bench, "denoiser"))
    except benches.BenchError:
        return None
    return card.get("kept", card["curve"][-1])[ERROR]


def places(defence: str, attack: str = "pgd", results: Path = RESULTS) -> list[Place]:
    """One per bench, in the order of size."""
    found = []
    for bench in BENCHES:
        error = error_of(bench)
        setting, point, curve = Setting(bench, attack), None, []
        if error is not None:
            levels = [specs.normal(f"uniform:t={t:g}", DEFENCES) for t in LEVELS]
            point = setting.point(defence, results)
            curve = [p for text in levels if (p := setting.point(text, results))]
            whole = [p for p in curve if point and set(point.images) <= set(p.images)]
            curve = whole if len(whole) > 1 else curve
        found.append(Place(bench, error, point, curve))
    return found


def table(results: Path = RESULTS, attack: str = "pgd") -> pd.DataFrame:
    """Error, accuracies and distance per bench and defence; what is missing says so."""
    lines = {}
    for name, text in DEFENDED.items():
        for place in places(text, attack, results):
            line = {"error": "" if place.error is None else f"{place.error:.4f}"}
            if place.waits:
                line["minus the curve"] = place.waits
            else:
                line["clean, %"] = str(stats.mean_rate(place.point.clean))
                line["attacked, %"] = str(stats.mean_rate(place.point.attacked))
                line["minus the curve"] = _distance(place)
            lines[name, names.bench(place.bench)] = line
    return pd.DataFrame(lines).T.fillna("")


def _distance(place: Place) -> str:
    try:
        found = frontier.distance(place.point, place.curve)
    except ValueError as error:
        return str(error)
    return f"{found.difference}, n = {found.difference.n}"


def trend(found: Sequence[Place], seed: int = 0) -> Accuracy | None:
    """By how much the distance grows for every 0.01 that the denoiser's error falls (least
    squares), images resampled for all benches together; None unless two benches are measured."""
    measured = [p for p in found if not p.waits]
    if len(measured) < 2:
        return None
    pairs = [(p.point, p.curve) for p in measured]
    return frontier.trend(pairs, [-100 * p.error for p in measured], seed)


def sentence(name: str, attack: str = "pgd", results: Path = RESULTS) -> str:
    """The trend in words."""
    found = places(DEFENDED[name], attack, results)
    slope = trend(found)
    if slope is None:
        waiting = ", ".join(f"{names.bench(p.bench)}: {p.waits}" for p in found if p.waits)
        return f"*{name}*: no trend yet ({waiting})."
    word = "grows" if slope.low > 0 else "falls" if slope.high < 0 else "neither grows nor falls"
    return f"*{name}*: the distance {word} by {slope} points per 0.01 less error, n = {slope.n}."
