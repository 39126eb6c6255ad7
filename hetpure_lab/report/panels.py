"""Panels that chapters 7 to 9 draw: accuracy by input, accuracy by votes, paths of purification in
two dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hetpure_lab.common import stats
from hetpure_lab.common.stats import Accuracy
from hetpure_lab.report import figures, plots


def by_input(correct: dict[str, dict[str, dict[str, np.ndarray]]]) -> Figure:
    """Accuracy, clean and purified, for every way of feeding the classifier; one panel per task,
    0/1 outcomes (n,) by kind.
    """
    options = {"figsize": (plots.WIDTH, 2.4), "sharey": True, "squeeze": False}
    figure, axes = plt.subplots(1, len(correct), **options)
    kinds = (("clean", plots.COLOURS["clean"]), ("purified", plots.COLOURS["uniform"]))
    for axis, (way, fed) in zip(axes[0], correct.items()):
        for j, (kind, colour) in enumerate(kinds):
            for i, hits in enumerate(fed.values()):
                a, y = stats.wilson(hits[kind]), -i - 0.2 * j
                axis.plot([100 * a.low, 100 * a.high], [y, y], color=colour, lw=1.5)
                axis.plot(100 * a.value, y, "o", ms=4, color=colour, label="" if i else kind)
        axis.set(yticks=[-i for i in range(len(fed))], yticklabels=list(fed))
        axis.set(xlim=(0, 100), xlabel="accuracy, %", title=way)
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=2, frameon=False)
    return figure


def by_votes(sizes: Sequence[int], accuracies: dict[str, Sequence[Accuracy]]) -> Figure:
    """The accuracy of the majority of S purifications against S, by column, with intervals."""
    figure, axis = plt.subplots(figsize=(0.6 * plots.WIDTH, 2.4))
    for column, points in accuracies.items():
        value, low, high = (
            100 * np.array(v) for v in zip(*((a.value, a.low, a.high) for a in points))
        )
        look = {"fmt": "o-", "markersize": 4, "capsize": 2, "color": plots.COLOURS[column]}
        axis.errorbar(
            sizes, value, yerr=[value - low, high - value], label=figures.COLUMNS[column], **look
        )
    every = plots.sizes(a.n for points in accuracies.values() for a in points)
    axis.set(xlabel=f"votes S ({every})", ylabel="accuracy of the majority, %", ylim=(0, 100))
    axis.set(xscale="log", xticks=sizes, xticklabels=sizes)
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False)
    return figure


def ground(axis: Axes, points: np.ndarray, labels: np.ndarray) -> None:
    """Images (n, 2) as their class numbers, faint."""
    for c in np.unique(labels):
        look = {"marker": f"${c}$", "s": 14, "color": plots.COLOURS["paper"], "alpha": 0.7}
        axis.scatter(*points[labels == c].T, linewidths=0, **look)


def purification_paths(axis: Axes, lines: np.ndarray, looks: dict[str, tuple[str, str]]) -> None:
    """Paths (defence, image, step, 2), each ending in a square; the last "defence" is the original
    image, a star.
    """
    for name, paths, (colour, style) in zip(looks, lines, looks.values()):
        for j, path in enumerate(paths):
            axis.plot(*path.T, style, color=colour, lw=1, label="" if j else name)
            axis.plot(*path[-1], "s", ms=4, color=colour)
    marks = (("x", "adversarial", "attacked", lines[0]), ("*", "clean", "original", lines[-1]))
    for mark, role, label, paths in marks:
        for j, path in enumerate(paths):
            look = {"ms": 8, "mew": 1.5, "color": plots.COLOURS[role]}
            axis.plot(*path[0], mark, label="" if j else label, **look)
