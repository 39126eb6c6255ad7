"""The frozen candidate for a better heterogeneous purifier: what decides on it, and the verdict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from hetpure_lab.common import names, stats
from hetpure_lab.common.paths import RESULTS
from hetpure_lab.evidence import compare, frontier
from hetpure_lab.evidence.frontier import Distance
from hetpure_lab.report import premise, tables
from hetpure_lab.report.premise import Setting

FILE = "candidate.json"
TRAINED = "adversarial training"
NONE = "No candidate is on record."


@dataclass(frozen=True)
class Candidate:
    """What was frozen: the `defence` on `bench`, the split and number of images that decide, and
    the attack of each kind."""

    defence: str
    bench: str
    frozen: str
    reason: str
    split: str
    images: int
    attacks: dict[str, str]

    @classmethod
    def load(cls, results: Path = RESULTS) -> Candidate:
        """From `FILE`."""
        text = json.loads((results / FILE).read_text())
        where = text["decided on"]
        plain = {name: text[name] for name in ("defence", "bench", "frozen", "reason", "attacks")}
        return cls(**plain, split=where["split"], images=where["images"])

    def setting(self, attack: str) -> Setting:
        """Where an attack of it is compared with the curve of uniform noise at equal calls."""
        return Setting(self.bench, attack, self.split)

    def rivals(self, attack: str) -> dict[str, tuple[str, str]]:
        """What stands beside it on the same images: name to bench and defence."""
        at = "at:model=pgd-at-l2" if "L2" in attack else "at"
        return {
            "the method, same denoiser, 5 steps": (self.bench, "hetpure:steps=5"),
            "the method, small denoiser": ("cifar10-small", "hetpure"),
            TRAINED: ("cifar10-small", at),
        }


@dataclass(frozen=True)
class Trial:
    """The candidate under one attack: its `distance` to the curve with the `holm` p-value over all
    attacks, or what is missing (`waits`)."""

    name: str
    attack: str
    distance: Distance | None = None
    holm: float = 1.0
    waits: str = ""


def trials(candidate: Candidate, results: Path = RESULTS) -> list[Trial]:
    """One per attack of the candidate. Holm's correction counts all attacks, measured or not: what
    is not measured yet has a p-value of 1."""
    found = []
    for name, attack in candidate.attacks.items():
        setting = candidate.setting(attack)
        point, curve = setting.point(candidate.defence, results), setting.curve(results)
        if point is None or len(point.images) < candidate.images:
            has = len(point.images) if point else 0
            found.append((name, attack, None, f"{has} of {candidate.images} images"))
            continue
        whole = [p for p in curve if set(point.images) <= set(p.images)]
        try:
            found.append((name, attack, frontier.distance(point, whole), ""))
        except ValueError as error:
            found.append((name, attack, None, str(error)))
    p = compare.corrected("candidate", [d.p if d else 1.0 for _, _, d, _ in found])
    return [Trial(name, attack, d, holm, waits) for (name, attack, d, waits), holm in zip(found, p)]


def verdict(found: Sequence[Trial]) -> str:
    """``survives``, ``does not survive`` or ``not measured yet``: by the rule that was frozen with
    it."""
    waiting = [t for t in found if t.distance is None]
    words = [stats.word(t.distance.difference, t.holm) for t in found if t.distance]
    if waiting:
        return "not measured yet"
    return "survives" if all(word == "higher" for word in words) else "does not survive"


def sentence(candidate: Candidate, found: Sequence[Trial]) -> str:
    """What was fixed, where it lies under each attack, and the verdict."""
    said = [
        "One purifier with random masks was fixed before it met the images that decide"
        f" ({candidate.frozen})"
    ]
    places = {"above": [], "below": [], "not told apart from": []}
    for trial in found:
        if trial.distance:
            d = trial.distance.difference
            places[_side(trial)].append(f"{trial.name}, {d} points, {premise.chance(trial.holm)}")
    for side, attacks in places.items():
        if attacks:
            lies = "is" if side.startswith("not") else "lies"
            of = f"{len(attacks)} of {len(found)} planned attacks"
            said.append(
                f"it {lies} {side} uniform noise of equal clean accuracy under {of}"
                f" ({'; '.join(attacks)}; {candidate.images} images each)"
            )
    waiting = [f"{trial.name}, {trial.waits}" for trial in found if trial.distance is None]
    if waiting:
        said.append(f"**{verdict(found)}**: {'; '.join(waiting)}")
    else:
        said.append(f"by the rule that was fixed with it, it **{verdict(found)}**")
    return " ".join(f"{part[:1].upper()}{part[1:]}." for part in said)


def beside_training(candidate: Candidate, results: Path = RESULTS) -> str:
    """What adversarial training leaves on the same images, under every attack that both have met;
    "" if there is none."""
    said = []
    for name, attack in candidate.attacks.items():
        bench, text = candidate.rivals(attack)[TRAINED]
        theirs = Setting(bench, attack, candidate.split).point(text, results)
        ours = candidate.setting(attack).point(candidate.defence, results)
        if ours is None or theirs is None:
            continue
        a, b = frontier.shared([theirs, ours])
        under, without = (
            stats.more_or_less(stats.paired_difference(*sides))
            for sides in ((a.attacked, b.attacked), (a.clean, b.clean))
        )
        said.append(f"{name}, {under} under attack and {without} without, {len(a.images)} images")
    return f"Adversarial training leaves on the same images: {'; '.join(said)}." if said else ""


def _side(trial: Trial) -> str:
    assert trial.distance is not None
    word = stats.word(trial.distance.difference, trial.holm)
    return {"higher": "above", "lower": "below"}.get(word, "not told apart from")


def table(candidate: Candidate, results: Path = RESULTS) -> pd.DataFrame:
    """Clean and attacked accuracy of the candidate, the levels of the curve and the rivals, under
    every attack, as far as there are records."""
    lines, files = [], []
    for kind, attack in candidate.attacks.items():
        setting = candidate.setting(attack)
        places = {"the candidate": (setting, candidate.defence)}
        places |= {names.defence(text): (setting, text) for text in setting.uniform()}
        for name, (bench, text) in candidate.rivals(attack).items():
            places[name] = Setting(bench, attack, candidate.split), text
        shown = {name: where.point(text, results) for name, (where, text) in places.items()}
        measured = {name: point for name, point in shown.items() if point}
        files += [f for n in measured for f in premise.record_files(places[n][0], [places[n][1]])]
        curve = setting.curve(results)
        for name, point in measured.items():
            clean, attacked = (stats.mean_rate(v) for v in (point.clean, point.attacked))
            beside = (
                ""
                if name.startswith("uniform")
                else premise.apart(point, curve)
                if len(curve) > 1
                else ""
            )
            line = {
                "clean, %": str(clean),
                "attacked, %": str(attacked),
                "images": len(point.images),
            }
            lines.append({"attack": kind, "defence": name} | line | {"minus the curve": beside})
        if not measured:
            lines.append({"attack": kind, "defence": "not measured yet"})
    keys = ["attack", "defence"]
    frame = pd.DataFrame(lines, columns=[*keys, *premise.SHOWN], dtype=object)
    return tables.behind(frame.set_index(keys).fillna(""), files)


def about(results: Path = RESULTS) -> str:
    """What was frozen, when and why, and what decides on it."""
    if not (results / FILE).exists():
        return NONE
    frozen = Candidate.load(results)
    what = f"{names.markup(frozen.defence)} on {names.bench(frozen.bench)}"
    return (
        f"{what}, frozen {frozen.frozen}: {frozen.reason}. "
        f"Decided on {frozen.images} images of the split `{frozen.split}`."
    )


def frozen_table(results: Path = RESULTS) -> pd.DataFrame:
    """`table` of the candidate on record; empty if there is none."""
    there = (results / FILE).exists()
    return table(Candidate.load(results), results) if there else pd.DataFrame()


def outcome(results: Path = RESULTS) -> str:
    """What came out, for the chapter and its title."""
    if not (results / FILE).exists():
        return NONE
    chosen = Candidate.load(results)
    said = (sentence(chosen, trials(chosen, results)), beside_training(chosen, results))
    return " ".join(filter(None, said))
