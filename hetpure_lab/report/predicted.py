"""The compression rate beside the accuracies that it is said to predict."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from hetpure_lab.common import names, stats
from hetpure_lab.common.paths import RESULTS
from hetpure_lab.evidence import compression, studies
from hetpure_lab.report import plots, tables

ATTACKS = {"known noise": compression.KNOWN_NOISE, "fresh noise": "pgd"}

NAMED = {f"uniform:t={t}": f"uniform, t = {t}" for t in (0.05, 0.1, 0.2)} | {
    "hetpure": "the method"
}


def rates(bench: str, results: Path = RESULTS) -> dict[str, stats.Accuracy]:
    """The rate of every purifier of the study, its mean over images."""
    rows = studies.table("compression", bench, results=results)
    if rows.empty:
        return {}
    return {key[0]: rate for key, rate in studies.means(rows, ["defence"], "rate").items()}


def predictions(bench: str, results: Path = RESULTS) -> dict[str, list[compression.Predicted]]:
    """Rates beside records under each of `ATTACKS`."""
    found = {name: rate.value for name, rate in rates(bench, results).items()}
    return {
        noise: compression.predictions(found, bench, attack, results)
        for noise, attack in ATTACKS.items()
    }


def table(bench: str, results: Path = RESULTS) -> pd.DataFrame:
    """One line per purifier, from the strongest compression: the part that is left in per cent with
    a 95 % interval, and accuracies with the number of images."""
    found = predictions(bench, results)
    lines = []
    for name, rate in sorted(rates(bench, results).items(), key=lambda item: item[1].value):
        line = {"defence": names.defence(name), "left of a difference, %": str(rate)}
        for noise, predicted in found.items():
            one = next((p for p in predicted if p.defence == name), None)
            line[f"right, {noise}, %"] = f"{one.attacked} ({one.n})" if one else ""
        lines.append(line)
    if not lines:
        return pd.DataFrame()
    return tables.behind(pd.DataFrame(lines).set_index("defence"), _files(bench, found, results))


def _files(
    bench: str, found: dict[str, list[compression.Predicted]], results: Path
) -> list[str]:
    """The study's file and those of the attacks, from the repository's root."""
    study = studies.path("compression", bench, results=results).relative_to(results).as_posix()
    return [f"results/{name}" for name in (study, *(p.record for ps in found.values() for p in ps))]


def draw(bench: str, results: Path = RESULTS) -> Figure | None:
    """Attacked accuracy against the rate, under fresh noise; None before four have both."""
    found = predictions(bench, results)["fresh noise"]
    if len(found) < 4:
        return None
    figure, axis = plt.subplots(figsize=(0.7 * plots.WIDTH, 2.6))
    left = rates(bench, results)
    for p in found:
        place = 100 * p.rate, 100 * p.attacked.value
        x, y = (plots.reach(a) for a in (left[p.defence], p.attacked))
        axis.errorbar(*place, xerr=x, yerr=y, fmt="o", color=plots.colour(p.defence), ms=5, lw=0.6)
        if p.defence in NAMED:
            axis.annotate(NAMED[p.defence], place, (4, 3), textcoords="offset points", fontsize=8)
    plots.note(figure, _files(bench, {"fresh noise": found}, results))
    axis.set_xlabel("left of a small random difference, %")
    axis.set_ylabel(f"right under attack, %, {plots.sizes(p.n for p in found)}")
    return figure


def conclusions(bench: str, results: Path = RESULTS) -> list[str]:
    """The rank correlation of compression and accuracy, one sentence per kind of noise."""
    return [
        f"*{noise.capitalize()}*: {_order(found)}."
        for noise, found in predictions(bench, results).items()
    ]


def _order(found: list[compression.Predicted]) -> str:
    try:
        r, p = compression.agreement(found)
    except ValueError as reason:
        return f"nothing can be put in order, since {reason}"
    side = "more" if r > 0 else "*less*"
    word = f"more compression goes with {side} accuracy" if p < 0.05 else "no order is found"
    low, high = (100 * end(f.attacked.value for f in found) for end in (min, max))
    return (
        f"{word} (Spearman's {r:+.2f}, p = {p:.2g}, {len(found)} purifiers, accuracies from"
        f" {low:.1f} to {high:.1f} %)"
    )
