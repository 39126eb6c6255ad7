"""The pictures in ``figures/``, each with a sidecar that says what made it: ``python -m hetpure_lab.figures``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hetpure_core import Purified, attention_maps, merge, q_xt_x0
from hetpure_lab import benches, data, evidence, plots, tables
from hetpure_lab.data import ROOT

FIGURES = ROOT / "figures"
COLUMNS = {"clean": "clean", "null": "random noise", "adversarial": "attacked"}


def accuracy_plot(axis: Axes, rows: Sequence[dict]) -> None:
    """Single-shot accuracy of each experiment in `rows` (summaries), clean, under random noise and attacked, with 95 % intervals."""
    for i, row in enumerate(rows):
        for j, (column, title) in enumerate(COLUMNS.items()):
            a, y, colour = row[f"{column}_single"], -i - 0.2 * (j - 1), plots.COLOURS[column]
            axis.plot([100 * a["low"], 100 * a["high"]], [y, y], color=colour, linewidth=1.5)
            axis.plot(100 * a["value"], y, "o", color=colour, markersize=4, label=title if i == 0 else None)
    axis.set(yticks=[-i for i in range(len(rows))], yticklabels=[r["defence"] for r in rows], xlim=(0, 100))
    axis.set_xlabel("single-shot accuracy, %")
    if rows:
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)


def pareto_plot(axis: Axes, rows: Sequence[dict]) -> None:
    """Attacked single-shot accuracy of `rows` (summaries) against denoiser calls, with 95 % intervals; the Pareto front is joined."""
    points = {r["defence"]: (tables.cost(r["defence"]), 100 * r["adversarial_single"]["value"]) for r in rows}
    front = tables.pareto(points)
    for r in rows:
        (calls, value), a = points[r["defence"]], r["adversarial_single"]
        slug = r["defence"].partition(":")[0]
        colour = plots.COLOURS.get(slug, plots.COLOURS["adversarial" if r["defence"] in front else "paper"])
        axis.errorbar(
            calls, value, [[value - 100 * a["low"]], [100 * a["high"] - value]], fmt="o", color=colour, markersize=4, linewidth=0.7
        )
        axis.annotate(r["defence"], (calls, value), xytext=(3, 3), textcoords="offset points", fontsize=6)
    axis.plot(*zip(*[points[name] for name in front]) if front else ([], []), color=plots.COLOURS["paper"], linewidth=0.8, zorder=0)
    axis.set(xlabel="denoiser calls per answer", ylabel="single-shot accuracy under attack, %", ylim=(0, None))


def teaser(bench_name: str = "cifar10-small") -> tuple[Figure, list[str]]:
    """The method on the first images of the sample that ships with Foolbox, and what the records say; returns the files it used."""
    bench, images = benches.load(bench_name), data.embedded_sample(data.DATASETS["cifar10"])[torch.arange(7)]
    defended, x = Purified(bench.classifier, bench.denoiser, bench.method, schedule=bench.schedule), images.floats
    noise = defended.noise(len(x), images.ids)
    maps, mask = attention_maps(x, bench.classifier, defended.tap_modules), defended.mask(x, noise)
    levels = [bench.schedule.index(t) for t in (bench.method.t_l, bench.method.t_s)]
    strong, weak = (q_xt_x0(2 * x - 1, t, noise("start", x), bench.schedule) for t in levels)
    with torch.no_grad():
        purified = defended.purify(x, noise, mask)
    rows = {"image": x, "attention": maps.amax(1, keepdim=True), "mask": mask}
    rows |= {"noisy": (merge(mask, strong, weak) + 1) / 2, "purified": purified}
    found = tables.headline(bench_name)
    figure = plt.figure(figsize=(9.6, 3.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.45, 1))
    for i, (name, pictures) in enumerate(rows.items()):
        for j, picture in enumerate(pictures):
            axis = left.add_subplot(len(rows), len(x), i * len(x) + j + 1, xticks=[], yticks=[], frame_on=False)
            axis.imshow(plots.to_numpy(picture), vmin=0, vmax=1, interpolation="nearest")
            if j == 0:
                axis.set_ylabel(name, rotation=0, ha="right", va="center")
    accuracy_plot(right.subplots(), found)
    return figure, [f"results/{bench_name}/{row['file']}" for row in found]


def save(name: str, figure: Figure, records: Sequence[str], function: str, folder: Path = FIGURES) -> Path:
    """``NAME.png`` and ``NAME.json``: function, records, code and checksum."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.png"
    figure.savefig(path, metadata={"Software": None})
    sidecar = {"function": function, "records": list(records), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    path.with_suffix(".json").write_text(json.dumps(sidecar | evidence.provenance(), indent=1) + "\n")
    return path


def main() -> None:
    plots.style()
    print(save("teaser", *teaser(), "hetpure_lab.figures.teaser"))


if __name__ == "__main__":
    main()
