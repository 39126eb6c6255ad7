"""The pictures in ``figures/``, from records and live objects: ``hetpure figures [NAME ...]``.

All are drawn if none is named. Plots are SVG, pictures with pixels PNG. Each has a sidecar
``NAME.json``: its function, its alternative text, its records, the code.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from hetpure_core import Purified, attention_maps, merge, q_xt_x0, trajectory
from hetpure_lab import data, defences, evidence
from hetpure_lab.common import names, specs
from hetpure_lab.common.paths import ROOT
from hetpure_lab.common.progress import bar
from hetpure_lab.common.stats import Accuracy
from hetpure_lab.defences import DEFENCES, capabilities
from hetpure_lab.evidence import ablations, inside, studies
from hetpure_lab.networks import benches
from hetpure_lab.paper import printed
from hetpure_lab.report import landing, pictures, plots, rivals, tables

FIGURES = ROOT / "figures"
COLUMNS = {"clean": "clean", "null": "random noise", "adversarial": "attacked"}
STATES = {
    "passed": (plots.COLOURS["uniform"], "o"),
    "failed": (plots.COLOURS["hetpure"], "X"),
    "open": (plots.COLOURS["paper"], "D"),
}


@dataclass(frozen=True)
class Drawing:
    """A finished picture, the record files behind it, and what it shows for those who cannot see
    it.
    """

    figure: Figure
    records: Sequence[str]
    alt: str


# ---- parts: drawn into axes, for chapters and files alike ----------------------------------------


def _mark(axis: Axes, y: float, a: Accuracy, colour: str, label: str | None = None) -> None:
    axis.plot([100 * a.low, 100 * a.high], [y, y], color=colour, linewidth=1.5)
    axis.plot(100 * a.value, y, "o", color=colour, markersize=4, label=label)


def accuracy_plot(axis: Axes, rows: Sequence[dict]) -> None:
    """Single-shot accuracy of each experiment in `rows` (summaries), clean, under random noise and
    attacked, with 95 % intervals.
    """
    interval_plot(
        axis,
        {
            names.defence(r["defence"]): {c: Accuracy(**r[f"{c}_single"]) for c in COLUMNS}
            for r in rows
        },
    )
    plots.note(axis.figure, _files(rows))


def _files(rows: Sequence[dict]) -> list[str]:
    """Where the records behind summaries are."""
    return [f"results/{r['bench']}/{r['file']}" for r in rows]


def interval_plot(axis: Axes, lines: dict[str, dict[str, Accuracy]]) -> None:
    """One line per label, one point with its 95 % interval per column."""
    for i, line in enumerate(lines.values()):
        for j, (column, a) in enumerate(line.items()):
            _mark(
                axis,
                -i - 0.2 * (j - (len(line) - 1) / 2),
                a,
                plots.COLOURS[column],
                COLUMNS[column] if i == 0 else None,
            )
    axis.set(
        yticks=[-i for i in range(len(lines))],
        yticklabels=[textwrap.fill(label, 36) for label in lines],
        xlim=(0, 100),
    )
    every = plots.sizes(a.n for line in lines.values() for a in line.values())
    axis.set_xlabel(f"single-shot accuracy, %, {every}")
    if lines:
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)


def pareto_plot(axis: Axes, rows: Sequence[dict]) -> None:
    """Attacked single-shot accuracy of `rows` (summaries) against denoiser calls (linear up to
    one), with 95 % intervals.

    Diamonds are the Pareto front, which is joined; it, the undefended network, the method and
    uniform noise (DDIM, `tables.ENOUGH` images) are named in place. One colour, named beside the
    axis, is one purifier at any setting; its longer chains are hollow. Rows of equal cost stand
    side by side.
    """
    points = {
        r["defence"]: (tables.cost(r["defence"]), 100 * r["adversarial_single"]["value"])
        for r in rows
    }
    front, seen, families = tables.pareto(points), Counter(), set()
    for r in sorted(rows, key=lambda r: -points[r["defence"]][1]):
        name, a = r["defence"], r["adversarial_single"]
        (calls, value), best = points[name], name in front
        place = calls * (1 + 0.05 * ((seen[calls] + 1) // 2) * (-1) ** seen[calls])
        seen[calls] += 1
        error = [[value - 100 * a["low"]], [100 * a["high"] - value]]
        named = (
            best
            or name in ("none", "hetpure")
            or (name.startswith("uniform") and "," not in name and r["n"] >= tables.ENOUGH)
        )
        slug = name.partition(":")[0]
        style = {
            "fmt": "D" if best else "o",
            "color": plots.colour(name),
            "label": None if slug in families else family(slug),
        }
        style["markerfacecolor"] = (
            axis.get_facecolor() if name in tables.LONGER else plots.colour(name)
        )
        families.add(slug)
        axis.errorbar(place, value, error, markersize=4, linewidth=0.7, clip_on=False, **style)
        if named:
            # dear ones on the left, where there is room
            side, align = (4, "left") if calls < 2 else (-4, "right")
            # or bars run through the name
            halo = [patheffects.withStroke(linewidth=1.5, foreground="white")]
            look = {"fontsize": 6, "ha": align, "path_effects": halo, "textcoords": "offset points"}
            axis.annotate(names.defence(name), (place, value), (side, 3), **look)
    if axis.get_legend_handles_labels()[1]:
        axis.legend(
            loc="center left",
            bbox_to_anchor=(1, 0.5),
            fontsize=6,
            frameon=False,
            title="from the top",
            title_fontsize=6,
        )
    axis.plot(
        *zip(*[points[name] for name in front]) if front else ([], []),
        color=plots.COLOURS["paper"],
        linewidth=0.8,
        zorder=0,
    )
    axis.set_xscale("symlog", linthresh=1, linscale=0.5)
    ticks = [0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
    dearest = max((calls for calls, _ in points.values()), default=1)
    axis.set_xticks(ticks, map(str, ticks))
    axis.minorticks_off()
    axis.set_xlim(-0.3, 2 * dearest + 1)
    axis.set(
        xlabel=f"denoiser calls per answer ({plots.sizes(r['n'] for r in rows)})",
        ylabel="single-shot accuracy under attack, %",
        ylim=(0, None),
    )
    plots.note(axis.figure, _files(rows))


def family(slug: str) -> str:
    """The name of a purifier at any setting."""
    return names.defence(slug).partition(", t =")[0]


def threshold(
    axis: Axes, x: Sequence[float], curves: dict[str, Sequence[Accuracy]], chosen: float
) -> None:
    """Accuracy against a setting with 95 % bands, one curve per column; the paper's choice is the
    grey line. Paper: Fig 7, left.
    """
    for column, points in curves.items():
        low, value, high = ([100 * getattr(a, k) for a in points] for k in ("low", "value", "high"))
        axis.fill_between(x, low, high, color=plots.COLOURS[column], alpha=0.15, linewidth=0)
        axis.plot(x, value, "o-", color=plots.COLOURS[column], markersize=4, label=COLUMNS[column])
    axis.axvline(chosen, color=plots.COLOURS["paper"], linewidth=1)
    every = plots.sizes(a.n for points in curves.values() for a in points)
    axis.set(ylim=(0, 100), ylabel=f"accuracy, %, {every}")
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)


def levels(axis: Axes, points: dict[tuple[float, float], float], title: str) -> None:
    """Accuracy (shares) over strong noise (rows) and weak noise (columns) as a map; empty unless
    t_s < t_l. Paper: Fig 7, right.
    """
    t_ls, t_ss = (sorted({pair[i] for pair in points}) for i in (0, 1))
    grid = [[100 * points.get((t_l, t_s), np.nan) for t_s in t_ss] for t_l in reversed(t_ls)]
    options = {
        "annot": True,
        "fmt": ".0f",
        "cmap": "viridis",
        "cbar": False,
        "linewidths": 1,
        "vmin": 0,
        "vmax": 100,
    }
    sns.heatmap(grid, xticklabels=t_ss, yticklabels=t_ls[::-1], ax=axis, **options)
    axis.set(xlabel="$t_s$", ylabel="$t_l$", title=title)


def forest(axis: Axes, lines: dict[str, tuple[str, Accuracy]], tolerance: float) -> None:
    """Differences in accuracy with 95 % intervals, one line per name, as (state, difference); grey
    is what is tolerated.

    The axis is linear up to ten points and logarithmic beyond.
    """
    axis.axvspan(-100, 100 * tolerance, color=plots.COLOURS["paper"], alpha=0.15, linewidth=0)
    axis.axvline(0, color=plots.COLOURS["paper"], linewidth=0.8)
    for state, (colour, marker) in STATES.items():
        rows = [
            (-i, 100 * d.value, 100 * d.low, 100 * d.high)
            for i, (s, d) in enumerate(lines.values())
            if s == state
        ]
        if rows:
            y, value, low, high = zip(*rows)
            axis.hlines(y, low, high, color=colour, linewidth=1.5)
            axis.plot(value, y, marker, color=colour, markersize=5, label=state)
    ticks = [-100, -50, -20, -10, -5, 0, 5, 10, 20, 50, 100]
    reach = (
        max(10, *(100 * abs(end) for _, d in lines.values() for end in (d.low, d.high)))
        if lines
        else 10
    )
    axis.set_xscale("symlog", linthresh=10)
    every = plots.sizes(d.n for _, d in lines.values())
    axis.set_xlim(-1.1 * reach, 1.1 * reach)
    axis.set_xlabel(f"headline minus this attack, points, {every}")
    axis.set_xticks(
        [t for t in ticks if abs(t) <= reach], [str(t) for t in ticks if abs(t) <= reach]
    )
    axis.set(
        yticks=[-i for i in range(len(lines))],
        yticklabels=list(lines),
        ylim=(0.6 - len(lines), 0.6),
    )
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)


def ladder(axis: Axes, rungs: dict[str, Accuracy | None]) -> None:
    """Accuracies with 95 % intervals as bars, from top to bottom; a rung that is not measured is an
    empty, dashed bar.
    """
    for i, a in enumerate(rungs.values()):
        if a is None:
            axis.barh(
                -i,
                100,
                height=0.6,
                fill=False,
                edgecolor=plots.COLOURS["paper"],
                linestyle="--",
                linewidth=0.8,
            )
            axis.text(
                50, -i, "not measured", ha="center", va="center", color=plots.COLOURS["paper"]
            )
        else:
            axis.barh(-i, 100 * a.value, height=0.6, color=plots.COLOURS["adversarial"], alpha=0.7)
            axis.hlines(-i, 100 * a.low, 100 * a.high, color="black", linewidth=1)
            axis.text(100 * a.high + 1.5, -i, f"{100 * a.value:.1f}", va="center")
    every = plots.sizes(a.n for a in rungs.values() if a)
    axis.set(
        yticks=[-i for i in range(len(rungs))],
        yticklabels=list(rungs),
        xlim=(0, 100),
        xlabel=f"accuracy under attack, %, {every}",
    )
    axis.grid(False, axis="y")


# ---- parts: from the rows of studies -------------------------------------------------------------


def consistency(axes: Sequence[Axes], rows: pd.DataFrame) -> None:
    """Jump at the mask's border (of the original's), feature distance and accuracy of purified
    clean images against U, with 95 % bands.

    Paper: Fig 3.
    """
    titles = {
        "seam": "jump at the mask's border",
        "distance": "feature distance",
        "right": "accuracy, %",
    }
    for axis, (column, title) in zip(axes, titles.items()):
        for reading, label in (("multi-step", "repeated"), ("paper", "single step")):
            found = studies.means(rows[rows.reading == reading], ["U"], column)
            _band(
                axis,
                [U for (U,) in found],
                list(found.values()),
                plots.READINGS[reading],
                label,
                100 if column == "right" else 1,
            )
        every = plots.sizes([rows.dropna(subset=column).image.nunique()])
        axis.set(xlabel=f"U ({every})", ylabel=title, xticks=(1, 5, 10, 20))
    axes[0].axhline(1, color=plots.COLOURS["paper"], linewidth=0.8, zorder=0)
    axes[0].figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False
    )


def _band(
    axis: Axes,
    x: Sequence[float],
    points: Sequence[Accuracy],
    colour: str,
    label: str,
    scale: float = 1,
) -> None:
    low, value, high = ([scale * getattr(a, k) for a in points] for k in ("low", "value", "high"))
    axis.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    axis.plot(x, value, "o-", color=colour, markersize=4, linewidth=1.2, label=label)


def distances(axes: Sequence[Axes], rows: pd.DataFrame) -> None:
    """Mean feature distance of purified to original images with 95 % intervals, a panel per kind of
    image. Paper: Fig 9.
    """
    defences = list(dict.fromkeys(rows.defence))
    for axis, (kind, part) in zip(axes, rows.groupby("kind", sort=False)):
        for (name,), a in studies.means(part, ["defence"], "distance").items():
            colour, y = plots.colour(name), -defences.index(name)
            axis.plot([a.low, a.high], [y, y], color=colour, linewidth=1.8)
            axis.plot(a.value, y, "o", color=colour, markersize=5)
        axis.set(title=f"{kind} (n = {part.image.nunique()})", xlabel="feature distance")
        axis.set_xlim(-0.04 * (right := 1.05 * axis.get_xlim()[1]), right)
        labels = ["not purified" if n == "none" else names.defence(n) for n in defences]
        axis.set(yticks=[-i for i in range(len(labels))], yticklabels=labels)
        axis.grid(axis="x")


def cost(axes: np.ndarray, rows: pd.DataFrame) -> None:
    """Denoiser calls, held bytes and seconds of a gradient (rows of axes) against U and against T
    (columns). Paper: Fig 8.
    """
    method = {other: _most_common(rows, other) for other in ("T", "U")}
    for line, (column, title, unit) in zip(
        axes,
        (("calls", "denoiser calls", 1), ("held", "MiB held", 2**20), ("seconds", "seconds", 1)),
    ):
        for axis, varies, fixed in zip(line, "UT", "TU"):
            part = rows[rows[fixed] == method[fixed]]
            for (reading, how), g in part.groupby(["reading", "activations"], sort=False):
                if column == "calls" and how == "recomputed":
                    continue  # the same number
                mean, kept = g.groupby(varies)[column].mean() / unit, how == "kept"
                look = {
                    "color": plots.READINGS[reading],
                    "fillstyle": "full" if kept else "none",
                    "label": f"{reading}, {how}",
                }
                axis.plot(
                    mean.index, mean, "o-" if kept else "s--", markersize=4, linewidth=1, **look
                )
            axis.set(
                yscale="log",
                xticks=sorted(part[varies].unique()),
                xlabel=f"{varies} ({fixed} = {method[fixed]})",
                ylabel=title if varies == "U" else "",
            )
    axes[0, 0].figure.legend(
        *axes[1, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False
    )


def _most_common(rows: pd.DataFrame, column: str) -> int:
    """The value at which the other sweep was made."""
    return int(rows[column].mode()[0])


def savings(axes: Sequence[Axes], rows: pd.DataFrame) -> None:
    """What the single step saves of repeated resampling, in seconds and in held bytes, against U;
    the paper's values are dashed.

    Paper: Fig 8, §7.
    """
    U, ours = np.arange(1, 21), plots.READINGS["paper"]
    for axis, what, name in zip(axes, ("seconds", "held"), ("time", "memory")):
        for how, mark, fill in (("kept", "o", "full"), ("recomputed", "s", "none")):
            points = studies.saved(rows, what, how, _most_common(rows, "T"))
            values = [100 * v for v in points.values()]
            axis.plot(
                points.keys(),
                values,
                mark,
                markersize=5,
                color=ours,
                fillstyle=fill,
                label=f"activations {how}",
            )
        axis.plot(
            U,
            100 * (1 - 2 / U),
            color=plots.READINGS["multi-step"],
            linewidth=1,
            label="limit 1 - 2/U",
        )
        multi, one = printed.COST[name]
        paper = 100 * (1 - one / multi)
        axis.axhline(
            paper,
            color=plots.COLOURS["paper"],
            linewidth=1.2,
            linestyle="--",
            label="the paper, U = 20",
        )
        axis.annotate(
            f"{int(paper)} %",
            (1, paper),
            xytext=(0, 2),
            textcoords="offset points",
            fontsize=7,
            color="#555555",
        )
        axis.set(xlabel="U", title=name, xticks=(1, 5, 10, 15, 20), ylim=(-110, 110))
    axes[0].set_ylabel("saved by the single step, %")
    axes[1].legend(loc="lower right")


# ---- parts: from live objects --------------------------------------------------------------------


def joint(axis: Axes, original: Tensor, purified: Tensor, bins: int = 48) -> float:
    """Joint density of original and purified values on a logarithmic grey scale, with the diagonal;
    returns Pearson's r. Paper: Fig 6.
    """
    a, b = (x.detach().flatten().cpu().numpy() for x in (original, purified))
    ends = [float(min(a.min(), b.min())), float(max(a.max(), b.max()))]
    counts, _, _ = np.histogram2d(a, b, bins, [ends, ends])
    axis.imshow(
        np.log1p(counts.T),
        origin="lower",
        extent=(*ends, *ends),
        cmap="Greys",
        interpolation="nearest",
    )
    axis.plot(ends, ends, color=plots.COLOURS["paper"], linewidth=0.8)
    axis.set(xlabel="original", ylabel="purified")
    axis.grid(False)
    return float(np.corrcoef(a, b)[0, 1])


def pipeline(defended: Purified, image: Tensor, key: str, classes: Sequence[str]) -> Figure:
    """One image (3, h, w) in [0, 1] on its way through the defence: maps, mask, Eq 5, states of
    both stages, verdicts. Paper: Fig 2.
    """
    x, noise = image[None], defended.noise(1, [key])
    maps, mask = (
        attention_maps(x, defended.classifier, defended.tap_modules)[0],
        defended.mask(x, noise),
    )
    with torch.no_grad():
        states = list(trajectory(2 * x - 1, defended.plan(x, noise, mask)))
        verdicts = [
            classes[int(defended.classifier(y).argmax())] for y in (x, (states[-1][1] + 1) / 2)
        ]
        noised = inside.start(defended, x, noise, mask, states[0][1])[0]
    n_1 = len(defended.purifier.grid(defended.schedule)[0]) - 1
    kept = sorted({max(1, n_1 // 2), n_1, (n_1 + len(states)) // 2, len(states) - 1})
    figure = plt.figure(figsize=(plots.WIDTH, 2.6), layout="none")
    pair = [_place(figure, 0.0, 0.3, image, f"input\n“{verdicts[0]}”")]
    tiles = [
        _place(
            figure, 0.17 + 0.075 * (m % 2), 0.53 - 0.33 * (m // 2), a[None], f"block {m + 1}", 0.065
        )
        for m, a in enumerate(maps)
    ]
    pair.append(_place(figure, 0.36, 0.3, mask[0], "mask"))
    _arrow(pair[0], tiles[0]), _arrow(tiles[min(1, len(tiles) - 1)], pair[1])
    before = _place(
        figure, 0.5, 0.3, noised, f"noised (Eq 5)\nt = {states[0][0]} / {states[n_1][0]}", 0.09
    )
    _arrow(pair[1], before)
    for i, k in enumerate(kept, 1):
        t, state = states[k]
        stage = (
            "stage 1"
            if k <= n_1
            else "stage 2"
            if k < len(states) - 1
            else f"purified\n“{verdicts[1]}”"
        )
        tile = _place(
            figure,
            0.5 + 0.102 * i,
            0.3,
            (state[0] + 1) / 2,
            f"{stage}\nt = {t}" if k < len(states) - 1 else stage,
            0.09,
        )
        _arrow(before, tile)
        before = tile
    return figure


def _place(
    figure: Figure, x: float, y: float, picture: Tensor, title: str, width: float = 0.12
) -> Axes:
    height = width * figure.get_figwidth() / figure.get_figheight()
    axis = figure.add_axes((x, y, width, height), xticks=[], yticks=[], frame_on=False)
    axis.imshow(plots.to_numpy(picture), vmin=0, vmax=1, interpolation="nearest")
    axis.set_title(title, fontsize=6.5, pad=3)
    return axis


def _arrow(a: Axes, b: Axes) -> None:
    style = {"arrowstyle": "->", "color": plots.COLOURS["paper"], "shrinkA": 1, "shrinkB": 1}
    b.annotate(
        "", (0, 0.5), (1, 0.5), xycoords=b.transAxes, textcoords=a.transAxes, arrowprops=style
    )


# ---- files ---------------------------------------------------------------------------------------


def teaser(bench_name: str = "cifar10-small") -> Drawing:
    """The method on the first images of the sample that ships with Foolbox, and what the records
    say.
    """
    bench, images = (
        benches.load(bench_name),
        data.embedded_sample(data.DATASETS["cifar10"])[torch.arange(7)],
    )
    defended, x = (
        Purified(bench.classifier, bench.denoiser, bench.method, schedule=bench.schedule),
        images.floats,
    )
    noise = defended.noise(len(x), images.ids)
    maps, mask = attention_maps(x, bench.classifier, defended.tap_modules), defended.mask(x, noise)
    times = [bench.schedule.index(t) for t in (bench.method.t_l, bench.method.t_s)]
    strong, weak = (q_xt_x0(2 * x - 1, t, noise("start", x), bench.schedule) for t in times)
    with torch.no_grad():
        purified = defended.purify(x, noise, mask)
    rows = {"image": x, "attention": maps.amax(1, keepdim=True), "mask": mask}
    rows |= {"noisy": (merge(mask, strong, weak) + 1) / 2, "purified": purified}
    plain = lambda name: (
        "," not in name
        and (
            name in ("none", "hetpure", "hetpure:mask_kind=random", "at")
            or name.startswith("uniform")
        )
    )
    found = sorted(
        (r for r in tables.common(bench_name) if plain(r["defence"])),
        key=lambda r: -r["clean_single"]["value"],
    )
    figure = plt.figure(figsize=(9.6, 3.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.15, 1))
    for i, (name, states) in enumerate(rows.items()):
        for j, picture in enumerate(states):
            axis = left.add_subplot(
                len(rows), len(x), i * len(x) + j + 1, xticks=[], yticks=[], frame_on=False
            )
            axis.imshow(plots.to_numpy(picture), vmin=0, vmax=1, interpolation="nearest")
            if j == 0:
                axis.set_ylabel(name, rotation=0, ha="right", va="center")
    accuracy_plot(right.subplots(), found)
    alt = (
        "Seven images with attention, mask, noise and purified image; beside them accuracies of the"
        " defences with intervals."
    )
    return Drawing(figure, _files(found), alt)


def pipeline_file(bench_name: str = "cifar10-small") -> Drawing:
    """Fig 2 for the first image of the sample that ships with Foolbox."""
    bench, images = benches.load(bench_name), data.embedded_sample(data.DATASETS["cifar10"])
    defended = Purified(bench.classifier, bench.denoiser, bench.method, schedule=bench.schedule)
    alt = (
        "From left to right: an image, its attention maps, the mask, the image noised on two"
        " levels, states, and the purified image."
    )
    return Drawing(pipeline(defended, images.floats[0], images.ids[0], bench.classes), [], alt)


def _grid(name: str) -> tuple[dict, list[str]]:
    grid = ablations.experiments(name)
    found = ablations.records(grid)
    return found, ablations.files(grid, found)


def threshold_file() -> Drawing | None:
    """Fig 7, left, from the records of the grid ``tau``."""
    found, files = _grid("tau")
    if not found:
        return None
    figure, axis = plt.subplots(figsize=(0.55 * plots.WIDTH, 2.4))
    x = [ablations.GRIDS["tau"].points[label]["tau"] for label in found]
    threshold(axis, x, {c: list(ablations.curve(found, c).values()) for c in COLUMNS}, 0.8)
    axis.set_xlabel("threshold of the mask")
    return Drawing(
        figure,
        files,
        "Accuracy clean, under random noise and attacked against the threshold of the mask, with 95"
        " % bands.",
    )


def levels_file() -> Drawing | None:
    """Fig 7, right, from the records of the grid ``levels``."""
    found, files = _grid("levels")
    if not found:
        return None
    figure, axes = plt.subplots(1, 2, figsize=(plots.WIDTH, 2.2))
    for axis, column in zip(axes, ("clean", "adversarial")):
        points = {
            tuple(ablations.GRIDS["levels"].points[label].values()): a.value
            for label, a in ablations.curve(found, column).items()
        }
        levels(axis, points, COLUMNS[column])
    return Drawing(
        figure,
        files,
        "Two maps of accuracy over strong and weak noise level: clean images and attacked images.",
    )


def controls_file() -> Drawing | None:
    """What the mask is worth, from the records of the grid ``mask``."""
    found, files = _grid("mask")
    if not found:
        return None
    figure, axis = plt.subplots(figsize=(plots.WIDTH, 0.8 + 0.4 * len(found)))
    curves = {c: ablations.curve(found, c) for c in COLUMNS}
    interval_plot(axis, {label: {c: curves[c][label] for c in COLUMNS} for label in found})
    return Drawing(
        figure,
        files,
        "Accuracy clean, under random noise and attacked for every kind of mask and its controls,"
        " with 95 % intervals.",
    )


def _study(
    name: str, shape: tuple[int, int], height: float, draw: Callable, alt: str, **sharing
) -> Drawing | None:
    """A figure of a study's rows, if it was measured."""
    rows = studies.table(name, "cifar10-small")
    if rows.empty:
        return None
    figure, axes = plt.subplots(*shape, figsize=(plots.WIDTH, height), **sharing)
    draw(axes, rows)
    return Drawing(
        figure, [studies.path(name, "cifar10-small", results=Path("results")).as_posix()], alt
    )


def consistency_file() -> Drawing | None:
    """Fig 3 in numbers, from the study ``consistency``."""
    alt = (
        "Jump at the border of the mask, feature distance and accuracy against U, for repeated and"
        " single-step resampling, with bands."
    )
    return _study("consistency", (1, 3), 2.4, consistency, alt)


def cost_file() -> Drawing | None:
    """Fig 8, from the study ``cost``."""
    alt = (
        "Denoiser calls, held memory and seconds per gradient against U and against the number of"
        " steps, for three orders of operations."
    )
    return _study("cost", (3, 2), 5.6, cost, alt, sharex="col")


def savings_file() -> Drawing | None:
    """What Fig 8 claims, as savings, from the study ``cost``."""
    alt = (
        "Per cent of time and of held memory that the single step saves, against U, with the limit"
        " 1 - 2/U and the paper's values dashed."
    )
    return _study("cost", (1, 2), 2.5, savings, alt, sharey=True)


def distance_file() -> Drawing | None:
    """Fig 9, from the study ``distance``."""
    alt = (
        "Mean feature distance to the original with 95 % intervals, for natural, transferred and"
        " adaptive images, per purifier."
    )
    return _study("distance", (1, 3), 2.6, distances, alt, sharey=True)


def landing_file() -> Drawing | None:
    """The first page's picture: what is right under attack against what is right without."""
    found = landing.Found.of()
    if found is None:
        return None
    rows = [r for r in tables.common(landing.BENCH) if r["defence"] in landing.shown(found)]
    alt = (
        "Accuracy under attack against accuracy without, in per cent: a line with its band for"
        " uniform noise at rising levels, and points for the method, the method with a random mask,"
        " no defence, and adversarial training."
    )
    return Drawing(landing.picture(found), _files(rows), alt)


def card_file(bench_name: str = "cifar10-small") -> Drawing | None:
    """The card that a link to the book shows: the question, three images on their way, the first
    page's picture.
    """
    found = landing.Found.of()
    if found is None:
        return None
    bench, images = (
        benches.load(bench_name),
        data.embedded_sample(data.DATASETS["cifar10"])[torch.arange(3)],
    )
    defended, x = (
        Purified(bench.classifier, bench.denoiser, bench.method, schedule=bench.schedule),
        images.floats,
    )
    noise = defended.noise(len(x), images.ids)
    mask, times = (
        defended.mask(x, noise),
        [bench.schedule.index(t) for t in (bench.method.t_l, bench.method.t_s)],
    )
    strong, weak = (q_xt_x0(2 * x - 1, t, noise("start", x), bench.schedule) for t in times)
    with torch.no_grad():
        rows = x, (merge(mask, strong, weak) + 1) / 2, defended.purify(x, noise, mask)
    figure = plt.figure(figsize=(8, 4.2), layout="none")
    figure.text(0.04, 0.86, "Does noise where the classifier looks", fontsize=15, weight="bold")
    figure.text(0.04, 0.78, "make it robust?", fontsize=15, weight="bold")
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            axis = figure.add_axes(
                (0.04 + 0.125 * j, 0.5 - 0.23 * i, 0.115, 0.219),
                xticks=[],
                yticks=[],
                frame_on=False,
            )
            axis.imshow(plots.to_numpy(picture), vmin=0, vmax=1, interpolation="nearest")
    landing.draw(figure.add_axes((0.52, 0.15, 0.45, 0.6)), found)
    return Drawing(
        figure,
        [],
        "The book's question, three images on their way through the method, and accuracies with"
        " intervals.",
    )


def rival(slug: str) -> Drawing | None:
    """What a defence does to the first images of the sample, on the first networks that it can
    have; None if it purifies nothing, or its networks are not there.
    """
    if not capabilities(specs.parse(slug, DEFENCES)[1]).purifies:
        return None
    images = data.shipped("cifar10")[torch.arange(4)]
    for name in ("cifar10-small", "cifar10-small-map"):
        bench = benches.load(name)
        try:
            rows = pictures.purification_rows(defences.build(slug, bench), images)
        except ValueError:  # these networks are not what it needs
            continue
        alt = f"What {names.defence(slug)} does to four images, in rows: {', '.join(rows)}."
        return Drawing(pictures.grid(rows, [bench.classes[y] for y in images.labels]), [], alt)
    return None


FILES: dict[str, Callable[[], Drawing | None]] = {
    "landing": landing_file,
    "card": card_file,
    "teaser": teaser,
    "pipeline": pipeline_file,
    "threshold": threshold_file,
    "levels": levels_file,
    "controls": controls_file,
    "consistency": consistency_file,
    "cost": cost_file,
    "savings": savings_file,
    "distance": distance_file,
}
FILES |= {f"rival-{slug}": partial(rival, slug) for slug in rivals.slugs()}


def save(name: str, drawing: Drawing, function: str, folder: Path = FIGURES) -> Path:
    """``NAME.svg`` or ``NAME.png`` and the sidecar; nothing is written if picture and records are
    what they were.
    """
    folder.mkdir(exist_ok=True)
    kind, written = "png" if plots.photographs(drawing.figure) else "svg", io.BytesIO()
    with plt.rc_context({"svg.hashsalt": "hetpure"}):  # the same picture, the same file
        drawing.figure.savefig(written, format=kind, metadata=plots.UNDATED[kind])
    path, note = folder / f"{name}.{kind}", folder / f"{name}.json"
    sidecar = {"function": function, "alt": drawing.alt, "records": list(drawing.records)}
    sidecar |= {"sha256": hashlib.sha256(written.getvalue()).hexdigest()}
    if (
        not note.exists()
        or not path.exists()
        or not sidecar.items() <= json.loads(note.read_text()).items()
    ):
        path.write_bytes(written.getvalue())
        note.write_text(json.dumps(sidecar | evidence.provenance(), indent=1) + "\n")
    return path


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="hetpure figures", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("names", nargs="*", help=", ".join(FILES))
    chosen = parser.parse_args(argv).names or list(FILES)
    if unknown := set(chosen) - set(FILES):
        parser.error(f"unknown figure {', '.join(sorted(unknown))}; known: {', '.join(FILES)}")
    plots.style()
    for name in bar(chosen, "figures", len(chosen) < 2):
        drawing, draw = FILES[name](), getattr(FILES[name], "func", FILES[name])
        if drawing:
            said = str(save(name, drawing, f"hetpure_lab.report.figures.{draw.__name__}"))
        else:
            said = f"{name}: nothing to show yet"
        tqdm.write(said)
        plt.close("all")
