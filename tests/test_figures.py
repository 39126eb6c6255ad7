"""Figures: every committed picture says what made it, from records that exist, and has not changed since."""

from __future__ import annotations

import hashlib
import importlib
import json

import pytest
from conftest import ROOT

from hetpure_lab import evidence, figures, plots, tables

PICTURES = sorted((ROOT / "figures").glob("*.png"))


@pytest.mark.parametrize("path", PICTURES, ids=lambda p: p.stem)
def test_sidecar_tells_the_origin(path):
    sidecar = json.loads(path.with_suffix(".json").read_text())
    module, _, function = sidecar["function"].rpartition(".")
    assert callable(getattr(importlib.import_module(module), function))
    assert sidecar["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert all((ROOT / record).exists() for record in sidecar["records"])


def test_the_accuracy_plot_shows_what_the_records_say():
    rows = tables.headline("cifar10-small")
    figure, axis = plots.plt.subplots()
    figures.accuracy_plot(axis, rows)
    drawn = {round(float(line.get_xdata()[0]), 6) for line in axis.lines if line.get_marker() == "o"}
    assert drawn == {round(100 * row[f"{c}_single"]["value"], 6) for row in rows for c in figures.COLUMNS}
    assert [label.get_text() for label in axis.get_yticklabels()] == [row["defence"] for row in rows]
    plots.plt.close(figure)


def test_a_saved_figure_can_be_traced(tmp_path):
    figure, _ = plots.plt.subplots()
    path = figures.save("empty", figure, ["results/x.jsonl"], "hetpure_lab.figures.teaser", tmp_path)
    sidecar = json.loads(path.with_suffix(".json").read_text())
    assert sidecar["records"] == ["results/x.jsonl"] and sidecar["code"] == evidence.provenance()["code"]
    plots.plt.close(figure)
