"""Certified from below, attacked from above: one axis per purifier, accuracy of the vote against
the l2 radius."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hetpure_lab.attacks.threat import NORMS
from hetpure_lab.common import names
from hetpure_lab.common.paths import RESULTS
from hetpure_lab.common.stats import Accuracy
from hetpure_lab.evidence import certify, records
from hetpure_lab.evidence.certify import Smoothing
from hetpure_lab.report import plots, tables

RADII = (0.0, 0.1, 0.25, 0.5)
REACH = 1.0  # the largest radius that is drawn


def name(smoothing: Smoothing) -> str:
    """What a row or an axis is called."""
    said = names.defence(smoothing.defence) + (", one mask for all" if smoothing.fixed_mask else "")
    return f"{said} ({names.bench(smoothing.bench)})"


def attacks_on(smoothing: Smoothing, results: Path = RESULTS) -> dict[Path, dict[str, dict]]:
    """The records of attacks on the very purifier that is certified, which hold all of its images.
    With a fixed mask it is another than was attacked: none."""
    if smoothing.fixed_mask:
        return {}
    images = {c.image for c in certify.read(smoothing, results)}
    start = re.sub(r"[^\w.=+-]+", "-", smoothing.defence) + "--"
    found = {}
    for path in sorted((results / smoothing.bench).glob("*.jsonl")):
        by_image = records.read(path) if path.name.startswith(start) else {}
        config = next(iter(by_image.values()))["config"] if by_image else {}
        attack = config.get("attack", {})
        same = config.get("weights") == smoothing.config["weights"]
        ball = attack.get("norm") in NORMS and not attack.get("frozen")
        if same and ball and config["split"] == smoothing.split and images <= set(by_image):
            found[path] = {image: by_image[image] for image in images}
    return found


def table(shown: Sequence[Smoothing], results: Path = RESULTS) -> pd.DataFrame:
    """Certified accuracies at `RADII` with exact intervals, and what attacks on record leave, a
    column per purifier; empty if none is on record."""
    lines, files = {}, []
    for smoothing in shown:
        found, noise = certify.read(smoothing, results), certify.recorded_spread(smoothing, results)
        if not found:
            continue
        on_it = attacks_on(smoothing, results)
        files += [smoothing.path(results), *on_it]
        attacked = certify.broken(list(on_it.values()))
        line = {"images": len(found), "votes": smoothing.n}
        line["abstains"] = sum(c.voted is None for c in found)
        line["smallest sigma"] = f"{noise.inner:.3f}"
        for r in RADII:
            line[f"certified at {r:g}"] = str(certify.certified(found, noise.inner, r))
        for r in RADII[2:]:
            line[f"left by attacks at {r:g}"] = str(certify.left(attacked, r)) if attacked else "–"
        line["contradicted"] = len(certify.contradicted(found, noise.inner, attacked))
        lines[name(smoothing)] = line
    frame = pd.DataFrame(lines).rename_axis("measure")
    return tables.behind(frame, _named(files, results))


def draw(shown: Sequence[Smoothing], results: Path = RESULTS) -> Figure | Markdown:
    """Below the lower line it is proven, above the upper line it is refuted, between nobody
    knows; bands are 95 % intervals over images. A sentence if none is on record."""
    shown = [s for s in shown if certify.read(s, results)]
    if not shown:
        return Markdown("Not measured yet.")
    size = (plots.WIDTH, 2.6 * -(-len(shown) // 2))
    figure, axes = plt.subplots(-(-len(shown) // 2), 2, figsize=size, sharey=True, squeeze=False)
    radii, files = np.linspace(0, REACH, 401), []
    for axis in axes.flat[len(shown) :]:
        axis.set_axis_off()
    for axis, smoothing in zip(axes.flat, shown):
        found, noise = certify.read(smoothing, results), certify.recorded_spread(smoothing, results)
        proven = [certify.certified(found, noise.inner, r) for r in radii]
        _band(axis, radii, proven, "uniform", "-", "certified")
        on_it = attacks_on(smoothing, results)
        files += [smoothing.path(results), *on_it]
        if attacked := certify.broken(list(on_it.values())):
            kept = [certify.left(attacked, r) for r in radii]
            _band(axis, radii, kept, "hetpure", "--", "not yet attacked")
        axis.set_title(f"{name(smoothing)}, {plots.sizes([len(found)])}", fontsize=6)
        axis.set(xlabel="l2 radius", ylim=(0, 100))
        axis.legend(frameon=False, fontsize=6)
    for row in axes:
        row[0].set_ylabel("right, %")
    figure.tight_layout()
    plots.note(figure, _named(files, results))
    plt.close(figure)  # else a notebook shows it twice
    return figure


def _band(
    axis: Axes, radii: np.ndarray, points: Sequence[Accuracy], role: str, style: str, label: str
) -> None:
    """A curve over radii with the intervals of its points."""
    low, value, high = ([100 * getattr(a, k) for a in points] for k in ("low", "value", "high"))
    axis.fill_between(radii, low, high, color=plots.COLOURS[role], alpha=0.15, lw=0)
    axis.plot(radii, value, color=plots.COLOURS[role], ls=style, label=label)


def _named(files: Sequence[Path], results: Path) -> list[str]:
    """Files by their path from the repository's root."""
    return [f"results/{path.relative_to(results).as_posix()}" for path in files]


def sentences(shown: Sequence[Smoothing], results: Path = RESULTS) -> list[str]:
    """Per purifier what is proven at a quarter, and what attacks leave at a half."""
    said = []
    for smoothing in shown:
        found = certify.read(smoothing, results)
        if not found:
            said.append(f"*{name(smoothing)}*: not measured yet.")
            continue
        noise = certify.recorded_spread(smoothing, results)
        lines = [f"{r:g}: {certify.certified(found, noise.inner, r)} %" for r in RADII[:3]]
        attacked = certify.broken(list(attacks_on(smoothing, results).values()))
        above = (
            f"; attacks on record leave {certify.left(attacked, 0.5)} % at 0.5" if attacked else ""
        )
        proven = f"proven right within l2 {', '.join(lines)}{above}, n = {len(found)}"
        said.append(f"*{name(smoothing)}*: {proven}.")
    return said
