"""Chapter 05 through papermill, as a user runs it: parameters change what they should, and wrong ones are explained."""

from __future__ import annotations

import re

import nbformat
import papermill
import pytest
from conftest import ROOT
from papermill.exceptions import PapermillExecutionError

from hetpure_lab import budgets

CHAPTER = ROOT / "chapters" / "05_cifar10.ipynb"


def run(tmp_path, **parameters):
    target = tmp_path / "out.ipynb"
    parameters = {"budget": "smoke", "n_images": 2, "steps": 4} | parameters
    papermill.execute_notebook(CHAPTER, target, parameters, progress_bar=False, cwd=str(tmp_path))
    return nbformat.read(target, as_version=4)


def printed(notebook) -> str:
    return "\n".join(o.text for c in notebook.cells for o in c.get("outputs", []) if o.output_type == "stream" and o.name == "stdout")


def pictures(notebook) -> list[str]:
    return [o.data["image/png"] for c in notebook.cells for o in c.get("outputs", []) if "image/png" in o.get("data", {})]


def live_table(notebook) -> str:
    texts = (o.get("data", {}).get("text/plain", "") for c in notebook.cells for o in c.get("outputs", []))
    return next(text for text in texts if "n = 2, K = 4" in text)


def test_tau_changes_coverage_pictures_and_the_defence(tmp_path):
    low, high = (run(tmp_path, tau=tau) for tau in (0.3, 0.95))
    coverage = [float(re.search(r"coverage ([\d.]+)%", printed(n))[1]) for n in (low, high)]
    assert coverage[0] > coverage[1] + 5
    assert pictures(low)[0] != pictures(high)[0]
    assert "tau=0.3" in live_table(low) and "tau=0.95" in live_table(high)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"t_s": 0.3}, "weak noise t_s = 0.3 must be below the strong noise t_l = 0.2"),
        ({"taw": 0.5}, "unknown parameter taw"),
        ({"n_images": 100_000}, "n_images must be from 1 to"),
    ],
)
def test_wrong_parameters_are_explained(tmp_path, parameters, message):
    with pytest.raises(PapermillExecutionError, match=re.escape(message)):
        run(tmp_path, **parameters)


def test_budgets_are_checked(monkeypatch):
    monkeypatch.delenv("HETPURE_BUDGET", raising=False)
    assert budgets.choose("paper").n_images == 512
    with pytest.raises(ValueError, match="known: smoke, quick, paper"):
        budgets.choose("huge")
    monkeypatch.setenv("HETPURE_BUDGET", "smoke")
    assert budgets.choose("paper").name == "smoke"


@pytest.mark.parametrize("value", ["ten", 1.5, -1, True])
def test_counts_are_checked(value):
    with pytest.raises(ValueError, match="n_images must be a whole number"):
        budgets.check_count("n_images", value)


def test_a_float_that_is_whole_is_a_count():
    assert budgets.check_count("n_images", 1e1) == 10
