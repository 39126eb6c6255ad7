"""Figures: every committed picture says what made it, from records that exist, and has not changed
since.
"""

from __future__ import annotations

import hashlib
import importlib
import json

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from nbclient import NotebookClient
from seaborn.external import husl

from hetpure_core import HetPure, Purified
from hetpure_lab import evidence
from hetpure_lab.common import names
from hetpure_lab.common.stats import Accuracy
from hetpure_lab.defences import DEFENCES
from hetpure_lab.evidence import inside
from hetpure_lab.report import chapters, figures, plots, tables

PICTURES = sorted(p for kind in ("png", "svg") for p in (ROOT / "figures").glob(f"*.{kind}"))


@pytest.mark.parametrize("path", PICTURES, ids=lambda p: p.stem)
def test_sidecar_tells_the_origin(path):
    sidecar = json.loads(path.with_suffix(".json").read_text())
    module, _, function = sidecar["function"].rpartition(".")
    assert callable(getattr(importlib.import_module(module), function))
    assert sidecar["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert all((ROOT / record).exists() for record in sidecar["records"])
    assert len(sidecar["alt"]) > 20


def test_the_accuracy_plot_shows_what_the_records_say():
    rows = tables.headline("cifar10-small")
    figure, axis = plots.plt.subplots()
    figures.accuracy_plot(axis, rows)
    drawn = {
        round(float(line.get_xdata()[0]), 6) for line in axis.lines if line.get_marker() == "o"
    }
    assert drawn == {
        round(100 * row[f"{c}_single"]["value"], 6) for row in rows for c in figures.COLUMNS
    }
    assert [label.get_text().replace("\n", " ") for label in axis.get_yticklabels()] == [
        names.defence(row["defence"]) for row in rows
    ]
    plots.plt.close(figure)


def line_plot():
    figure, axis = plots.plt.subplots()
    axis.plot([0, 1], [1, 0])
    return figure


def test_a_saved_figure_can_be_traced(tmp_path):
    drawing = figures.Drawing(line_plot(), ["results/x.jsonl"], "A falling line.")
    path = figures.save("line", drawing, "hetpure_lab.report.figures.teaser", tmp_path)
    sidecar = json.loads(path.with_suffix(".json").read_text())
    assert (
        sidecar["records"] == ["results/x.jsonl"]
        and sidecar["code"] == evidence.provenance()["code"]
    )
    assert (
        sidecar["alt"] == "A falling line." and sidecar["commit"] == evidence.provenance()["commit"]
    )
    plots.plt.close(drawing.figure)


def test_plots_become_svg_and_photographs_png(tmp_path):
    picture, axis = plots.plt.subplots()
    axis.imshow([[0, 1]])
    drawings = [figures.Drawing(figure, [], "") for figure in (line_plot(), picture)]
    assert [figures.save(f"f{i}", d, "", tmp_path).suffix for i, d in enumerate(drawings)] == [
        ".svg",
        ".png",
    ]
    plots.plt.close("all")


def test_saving_the_same_picture_again_changes_no_file(tmp_path):
    written = []
    for _ in range(2):
        drawing = figures.Drawing(line_plot(), [], "A falling line.")
        path = figures.save("line", drawing, "f", tmp_path)
        written.append({p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in tmp_path.iterdir()})
        plots.plt.close("all")
    assert written[0] == written[1] and b"<svg" in path.read_bytes()


def test_notebooks_show_plots_as_svg_and_photographs_as_png():
    cells = [
        "from hetpure_lab.report import plots; import matplotlib.pyplot as plt; plots.style()",
        (
            "_ = plt.plot([0, 1], [1, 0]); plots.note(plt.gcf(), ['results/b.jsonl']);"
            " plots.note(plt.gcf(), ['results/a.jsonl'])"
        ),
        "_ = plt.imshow([[0, 1]])",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    NotebookClient(
        notebook, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
    ).execute()
    kinds = [
        {kind for output in cell.outputs for kind in output.get("data", {})}
        for cell in notebook.cells
    ]
    assert kinds[1:] == [{"image/svg+xml", "text/plain"}, {"image/png", "text/plain"}]
    noted = [sidecar["records"] for _, sidecar in chapters.pictures(notebook)]
    assert noted == [["results/a.jsonl", "results/b.jsonl"], []]


def drawn(data, **sidecar):
    """A notebook with one picture."""
    output = nbformat.v4.new_output(
        "display_data", {"image/png": data}, metadata={"image/png": {"records": []} | sidecar}
    )
    return nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("", id="cell-000", outputs=[output])]
    )


def test_a_picture_keeps_its_commit_until_it_changes():
    before = dict(chapters.pictures(drawn("old", commit="abc")))
    for data, commit in (("old", "abc"), ("new", evidence.provenance()["commit"])):
        notebook = drawn(data)
        chapters.add_sidecars(notebook, "10_cost.ipynb", before)
        ((_, sidecar),) = chapters.pictures(notebook)
        assert sidecar == {
            "records": [],
            "function": "chapters/10_cost.ipynb#cell-000",
            "commit": commit,
        }


@pytest.mark.parametrize("path", sorted((ROOT / "chapters").glob("*.ipynb")), ids=lambda p: p.stem)
def test_every_picture_in_a_chapter_says_where_it_is_from(path):
    for (cell, _), sidecar in chapters.pictures(nbformat.read(path, as_version=4)):
        assert sidecar.get("function") == f"chapters/{path.name}#{cell}", "run: hetpure chapters"
        assert sidecar["commit"] and all((ROOT / record).exists() for record in sidecar["records"])


@pytest.mark.parametrize("name", ["consistency", "cost", "savings", "distance"])
def test_figures_of_studies_need_records_and_nothing_else(name, monkeypatch):
    for module, function in (
        (figures.benches, "load"),
        (figures.data, "load"),
        (figures.benches, "load_network"),
    ):
        monkeypatch.setattr(
            module, function, lambda *_, **__: pytest.fail("a network or data were loaded")
        )
    drawing = figures.FILES[name]()
    assert all((ROOT / record).exists() for record in drawing.records) and len(drawing.alt) < 140
    assert all(axis.lines for axis in drawing.figure.axes)
    plots.plt.close(drawing.figure)


def test_the_savings_plot_has_the_papers_two_numbers():
    figure, axes = plots.plt.subplots(1, 2)
    rows = [
        {"reading": r, "U": U, "T": 10, "activations": how}
        for r in ("multi-step", "paper")
        for U in (2, 20)
        for how in ("kept", "recomputed")
    ]
    table = pd.DataFrame(
        [r | {"seconds": r["U"] if r["reading"] == "multi-step" else 2, "held": 1} for r in rows]
    )
    figures.savings(axes, table)
    assert [axis.texts[0].get_text() for axis in axes] == ["89 %", "87 %"]
    assert list(axes[0].lines[0].get_ydata()) == pytest.approx([0, 90]) and list(
        axes[1].lines[0].get_ydata()
    ) == [0, 0]
    plots.plt.close(figure)


def test_every_defence_has_a_colour_of_its_own():
    colours = {slug: plots.colour(f"{slug}:t=0.1") for slug in DEFENCES}
    assert len(set(colours.values())) == len(colours)
    assert (
        colours["hetpure"] == plots.COLOURS["hetpure"] and colours["none"] == plots.COLOURS["clean"]
    )
    with pytest.raises(ValueError, match="unknown defence 'hope'"):
        plots.colour("hope")


def test_no_rival_looks_like_a_role_or_like_another_rival():
    """Distances in CIELUV, where 1 is about what the eye can just tell apart side by side."""
    rivals = [plots.colour(slug) for slug in DEFENCES if slug not in {*plots.ROLES, "none"}]
    points = np.array(
        [
            husl.xyz_to_luv(husl.rgb_to_xyz(husl.hex_to_rgb(c)))
            for c in [*plots.COLOURS.values(), *rivals]
        ]
    )
    apart = np.linalg.norm(points[:, None] - points[None], axis=2) + 1000 * np.eye(len(points))
    assert apart[: len(plots.COLOURS)].min() > 20 and apart.min() > 15


def test_the_threshold_plot_shows_values_and_bands():
    figure, axis = plots.plt.subplots()
    points = [Accuracy(0.5, 0.4, 0.6, 9), Accuracy(0.7, 0.6, 0.8, 9)]
    figures.threshold(axis, [0.3, 0.8], {"clean": points}, chosen=0.8)
    assert list(axis.lines[0].get_ydata()) == [50, 70] and axis.lines[1].get_xdata()[0] == 0.8
    assert {y for _, y in axis.collections[0].get_paths()[0].vertices} == {40, 60, 80}
    plots.plt.close(figure)


def test_the_map_of_levels_is_empty_where_there_is_no_point():
    figure, axis = plots.plt.subplots()
    figures.levels(axis, {(0.2, 0.05): 0.4, (0.1, 0.05): 0.3, (0.2, 0.1): 0.6}, "clean")
    assert sorted(text.get_text() for text in axis.texts) == ["30", "40", "60"]
    assert [t.get_text() for t in axis.get_yticklabels()] == ["0.2", "0.1"]
    plots.plt.close(figure)


def test_the_joint_density_of_equal_values_is_the_diagonal():
    figure, axis = plots.plt.subplots()
    x = torch.linspace(0, 1, 500)
    assert figures.joint(axis, x, x) == pytest.approx(1) and figures.joint(
        axis, x, 1 - x
    ) == pytest.approx(-1)
    density = axis.images[0].get_array()
    assert (density[~np.eye(len(density), dtype=bool)] == 0).all() and density.trace() > 0
    plots.plt.close(figure)


def test_the_pipeline_is_drawn_from_the_defences_own_states(classifier, denoiser, images):
    method = HetPure(t_l=0.2, t_s=0.1, steps=4, tau=0.5)
    defended = Purified(classifier, denoiser, method)
    figure = figures.pipeline(defended, images[0], "a", [str(i) for i in range(5)])
    tiles = [np.asarray(axis.images[0].get_array()) for axis in figure.axes]
    mask = defended.mask(images[:1], defended.noise(1, ["a"]))[0]
    purified = defended.purify(images[:1], defended.noise(1, ["a"]))[0]
    noised = inside.ends(defended, images[:1], ["a"])[0][0]
    shown = [plots.to_numpy(picture) for picture in (images[0], mask, noised, purified)]
    assert all(any(tile.shape == s.shape and np.allclose(tile, s) for tile in tiles) for s in shown)
    assert len(tiles) == 1 + len(defended.tap_modules) + 1 + 5
    plots.plt.close(figure)


def test_unknown_figures_are_refused(capsys):
    with pytest.raises(SystemExit):
        figures.main(["fig-99"])
    assert f"unknown figure fig-99; known: {next(iter(figures.FILES))}" in capsys.readouterr().err


def test_the_command_says_which_files_it_has_drawn(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(figures, "save", lambda *given: tmp_path / given[0])
    figures.main(["landing"])
    assert str(tmp_path / "landing") in "".join(capsys.readouterr())
