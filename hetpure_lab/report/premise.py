"""Defences beside the curve of uniform noise, at equal clean accuracy: tables, figure and sentences
of the chapter on the premise."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown
from matplotlib.figure import Figure

from hetpure_lab.common import names, stats
from hetpure_lab.common.paths import RESULTS
from hetpure_lab.evidence import Experiment, compare, frontier, read
from hetpure_lab.evidence.frontier import Distance, Point
from hetpure_lab.report import plots, tables

LEVELS = (0.05, 0.075, 0.1, 0.14, 0.2, 0.3)
KNOWN = "pgd:frozen=mask"
KNOWN_MASKS = "random half, known to the attacker"
MASKS = {
    "attention": "noise-map:mask_kind=attention",
    "random, area of attention": "noise-map:mask_kind=random-attended",
    "random half": "noise-map",
    KNOWN_MASKS: "noise-map",
    "one mask for all images": "noise-map:mask_kind=fixed",
    "random half, denoiser not told": "noise-map-untold",
}
EFFORTS = {
    "20 x 8": "pgd",
    "20 x 32": "pgd:eot=32",
    "40 x 32": "pgd:iterations=40,eot=32",
    "margin, best iterate": "pgd:keep=best,loss=margin",
    "BPDA": "bpda:iterations=20,eot=8",
}
ELSEWHERE = {  # bench, attack, split
    "CIFAR-10: ResNet-18 of AutoAttack": ("cifar10-independent", "pgd", "test_jpeg"),
    "SVHN: digit classifier": ("svhn-independent", "pgd", "test"),
    "photographs, 64 px, ten-way": ("photographs-64-independent-10", "pgd:eps=4/255", "test"),
    "photographs, 128 px, ten-way": ("photographs-independent-10", "pgd:eps=4/255", "test"),
}


SHOWN = ("clean, %", "attacked, %", "images", "minus the curve")  # columns of a table


@dataclass(frozen=True)
class Setting:
    """Where a comparison takes place: bench, attack and split; the curve is uniform noise in
    `steps` reverse steps."""

    bench: str
    attack: str = "pgd"
    split: str = "test"
    steps: int = 1

    def experiment(self, defence: str) -> Experiment:
        return Experiment(defence, self.attack, self.bench, self.split)

    def point(self, defence: str, results: Path = RESULTS) -> Point | None:
        """The record of a defence, or None."""
        records = read(self.experiment(defence).path(results))
        return Point.of(defence, records) if records else None

    def uniform(self) -> list[str]:
        """The specs of the curve's levels."""
        return [f"uniform:t={t:g},steps={self.steps}" for t in LEVELS]

    def curve(self, results: Path = RESULTS) -> list[Point]:
        """The levels on record."""
        return [p for text in self.uniform() if (p := self.point(text, results))]


@dataclass(frozen=True)
class Row:
    """A defence in a setting: its `point`, and its distance to the curve or the reason why there is
    none."""

    name: str
    point: Point
    distance: Distance | None
    reason: str = ""
    records: tuple[str, ...] = ()  # of the point and of the curve


def rows(
    setting: Setting, defences: dict[str, str], known: Collection[str] = (), results: Path = RESULTS
) -> list[Row]:
    """One row per defence (name to spec) that has records; those named in `known` under the attack
    that knows their masks."""
    curve, found = setting.curve(results), []
    for name, text in defences.items():
        faced = replace(setting, attack=KNOWN) if name in known else setting
        if (point := faced.point(text, results)) is None:
            continue
        files = record_files(faced, [text]) + record_files(setting, [p.name for p in curve])
        place, reason = beside(point, curve)
        found.append(Row(name, point, place, reason, tuple(files)))
    return found


def beside(point: Point, curve: Sequence[Point]) -> tuple[Distance | None, str]:
    """The distance of a point to the curve, or None and the reason."""
    try:
        return frontier.distance(point, measured_on(point, curve)), ""
    except ValueError as error:
        return None, str(error)


def measured_on(point: Point, curve: Sequence[Point]) -> list[Point]:
    """The levels that have all images of `point`, if these are two: one that is still being
    measured must not take images from the others."""
    whole = [p for p in curve if set(point.images) <= set(p.images)]
    return whole if len(whole) > 1 else list(curve)


def held(found: Sequence[Row]) -> list[float | None]:
    """The p-values of the rows after Holm's correction for their number."""
    corrected = iter(compare.corrected("premise", [r.distance.p for r in found if r.distance]))
    return [next(corrected) if r.distance else None for r in found]


def table(found: Sequence[Row]) -> pd.DataFrame:
    """Rows as text: accuracies with intervals, distance in points, corrected p-value, images."""
    lines = {}
    for r, p in zip(found, held(found)):
        clean, attacked = (stats.mean_rate(v) for v in (r.point.clean, r.point.attacked))
        lines[r.name] = {
            "clean, %": str(clean),
            "attacked, %": str(attacked),
            "minus the curve": str(r.distance.difference) if r.distance else r.reason,
            "p (Holm)": "" if p is None else f"{p:.3f}",
            "images": r.distance.difference.n if r.distance else len(r.point.images),
        }
    frame = pd.DataFrame(lines).T.rename_axis("defence")
    return tables.behind(frame, [name for r in found for name in r.records])


def conclusions(found: Sequence[Row]) -> list[str]:
    """One sentence per row: above the curve, below it, or not told apart from it."""
    said = []
    for r, p in zip(found, held(found)):
        if r.distance is None:
            said.append(f"*{r.name}* has no distance at equal clean accuracy: {r.reason}.")
            continue
        d = r.distance.difference
        place = {"higher": "**above** the curve", "lower": "**below** the curve"}
        where = place.get(stats.word(d, p), "**not told apart** from the curve")
        said.append(f"*{r.name}* is {where} of uniform noise: {d} points, n = {d.n}, {chance(p)}.")
    return said


def draw(curve: Sequence[Point], found: Sequence[Row], setting: Setting) -> Figure | Markdown:
    """Attacked against clean accuracy: the curve with its joint band, and the rows with their
    intervals; a sentence if the curve has fewer than two levels on record."""
    if len(curve) < 2:
        return Markdown("Not measured yet.")
    figure, axis = plt.subplots(figsize=(plots.WIDTH * 0.75, 3.4))
    curve = frontier.shared(measured_on(max(curve, key=lambda p: len(p.images)), curve))
    band = frontier.band(curve)
    colour = plots.COLOURS["uniform"]
    axis.fill_between(
        *(100 * v for v in (band.clean, band.low, band.high)), color=colour, alpha=0.15, lw=0
    )
    axis.plot(100 * band.clean, 100 * band.height, color=colour, lw=1, label="uniform noise")
    for p in curve:
        axis.plot(100 * p.clean.mean(), 100 * p.attacked.mean(), ".", color=colour)
        level = p.name.removeprefix("uniform:").partition(",")[0]
        axis.annotate(
            level, (100 * p.clean.mean(), 100 * p.attacked.mean()), fontsize=6, color=colour
        )
    for k, r in enumerate(found):
        clean, attacked = (stats.mean_rate(v) for v in (r.point.clean, r.point.attacked))
        axis.errorbar(
            100 * clean.value,
            100 * attacked.value,
            xerr=plots.reach(clean),
            yerr=plots.reach(attacked),
            fmt="osD^vPX"[k % 7],
            ms=4,
            lw=0.6,
            label=r.name,
        )
    every = plots.sizes(len(p.images) for p in [*curve, *(r.point for r in found)])
    axis.set(xlabel=f"clean, % ({every})", ylabel="attacked, %")
    axis.legend(frameon=False, fontsize=6)
    plots.note(figure, [name for r in found for name in r.records])
    plots.note(figure, record_files(setting, [p.name for p in curve]))
    plt.close(figure)  # else a notebook shows it twice
    return figure


def record_files(setting: Setting, texts: Sequence[str]) -> list[str]:
    """The files behind a figure, from the repository's root."""
    return [f"results/{setting.bench}/{setting.experiment(text).path().name}" for text in texts]


def efforts(bench: str, defences: dict[str, str], results: Path = RESULTS) -> pd.DataFrame:
    """Attacked accuracy under growing attacks, each on all of its images, in percent with intervals
    and their number."""
    lines, files = {}, []
    for name, text in defences.items():
        settings = {what: Setting(bench, attack) for what, attack in EFFORTS.items()}
        points = {what: setting.point(text, results) for what, setting in settings.items()}
        for what in (what for what, point in points.items() if point):
            files += record_files(settings[what], [text])
        lines[name] = {
            what: f"{stats.mean_rate(p.attacked)} ({len(p.images)})" if p else "not measured"
            for what, p in points.items()
        }
    return tables.behind(pd.DataFrame(lines).T.rename_axis("defence"), files)


def weakened(
    bench: str, defence: str, stronger: str, results: Path = RESULTS
) -> stats.Accuracy | None:
    """How much less a stronger attack of `EFFORTS` leaves than 20 x 8, paired on the images that
    both have; None without records."""
    points = [
        Setting(bench, EFFORTS[what]).point(defence, results) for what in (stronger, "20 x 8")
    ]
    if None in points:
        return None
    a, b = frontier.shared(points)
    return stats.paired_difference(a.attacked, b.attacked)


def elsewhere(defences: Sequence[str], results: Path = RESULTS) -> pd.DataFrame:
    """Clean and attacked accuracy on every bench of `ELSEWHERE`: one-call uniform noise and
    `defences`, as far as they have records."""
    keys, lines, files = ["networks", "defence"], [], []
    for place, where in ELSEWHERE.items():
        setting = Setting(*where)
        curve, uniform = setting.curve(results), setting.uniform()
        found = {text: setting.point(text, results) for text in [*uniform, *defences]}
        files += record_files(setting, [text for text, point in found.items() if point])
        for text, point in found.items():
            if point is None:
                continue
            clean, attacked = (stats.mean_rate(v) for v in (point.clean, point.attacked))
            line = {"networks": place, "defence": names.defence(text), "clean, %": str(clean)}
            line |= {"attacked, %": str(attacked), "images": len(point.images)}
            lines.append(line | {"minus the curve": "" if text in uniform else apart(point, curve)})
        if not any(found.values()):
            lines.append({"networks": place, "defence": "not measured yet"})
    frame = pd.DataFrame(lines, columns=[*keys, *SHOWN], dtype=object)
    return tables.behind(frame.set_index(keys).fillna(""), files)


def chance(p: float) -> str:
    """A p-value in a sentence: none is nought."""
    return f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"


def apart(point: Point, curve: Sequence[Point]) -> str:
    """The distance to a curve, or why there is none."""
    found, reason = beside(point, curve)
    return str(found.difference) if found else reason


def answers(found: Sequence[Row], bench: str, results: Path = RESULTS) -> list[str]:
    """Answers of the rows about the premise: attention, random masks, knowledge of the map, length
    of the attack.
    """
    said, by_name = [], {r.name: r for r in found}
    corrected = dict(zip(by_name, held(found)))
    for name, question in QUESTIONS.items():
        if (row := by_name.get(name)) is None or row.distance is None:
            said.append(f"{question} Not measured.")
            continue
        d, p = row.distance.difference, corrected[name]
        word = {"higher": "yes", "lower": "no, it is below the curve"}.get(
            stats.word(d, p), "not established"
        )
        said.append(
            f"{question} **{word[0].upper() + word[1:]}**: {d} points, n = {d.n}, {chance(p)}."
        )
    for stronger in list(EFFORTS)[1:]:
        if (change := weakened(bench, "noise-map", stronger, results)) is not None:
            left = f"{stats.more_or_less(change)} than under 20 x 8, n = {change.n}"
            said.append(f"Under *{stronger}* random masks leave {left}.")
    return said


QUESTIONS = {
    "attention": "Does the paper's mask gain over uniform noise, with a denoiser that knows it?",
    "random half": "Do random masks?",
    "random half, known to the attacker": "Do they still if the attacker knows each image's mask?",
    "one mask for all images": "Does one mask, the same for all images?",
    "random half, denoiser not told": "Does the same noise if the denoiser is told one level?",
}
