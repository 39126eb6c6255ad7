"""Chapters 05 to 07 through papermill, as a user runs them; and whose pictures the chapters
show.
"""

from __future__ import annotations

import re
from dataclasses import fields
from html import unescape

import nbformat
import papermill
import pytest
from conftest import ROOT
from papermill.exceptions import PapermillExecutionError

from hetpure_core import linear_schedule
from hetpure_lab import data
from hetpure_lab.paper import protocols
from hetpure_lab.report import chapters, figures, notebook, pictures

CHAPTER = ROOT / "chapters" / "05_cifar10.ipynb"
# The template of CONTRIBUTING keeps the rules of a chapter.
NOTEBOOKS = [*sorted(CHAPTER.parent.glob("*.ipynb")), ROOT / "templates" / "chapter.ipynb"]


def run(tmp_path, **parameters):
    target = tmp_path / "out.ipynb"
    parameters = {"budget": "smoke", "n_images": 2, "steps": 4} | parameters
    papermill.execute_notebook(CHAPTER, target, parameters, progress_bar=False, cwd=str(tmp_path))
    return nbformat.read(target, as_version=4)


def printed(notebook) -> str:
    return "\n".join(
        o.text
        for c in notebook.cells
        for o in c.get("outputs", [])
        if o.output_type == "stream" and o.name == "stdout"
    )


def shown(notebook) -> list[str]:
    return [
        o.data["image/png"]
        for c in notebook.cells
        for o in c.get("outputs", [])
        if "image/png" in o.get("data", {})
    ]


def texts(notebook) -> str:
    """All that is shown as text, but for what is printed."""
    outputs = [o.get("data", {}) for c in notebook.cells for o in c.get("outputs", [])]
    return "\n".join(
        data.get(kind, "")
        for data in outputs
        for kind in ("text/plain", "text/html", "text/markdown")
    )


def live_table(notebook) -> str:
    parts = texts(notebook).split("<table")
    return next(p for p in parts if re.search(r": 2 images, .*, 4 purifications of each", p))


def test_tau_changes_coverage_pictures_and_the_defence(tmp_path):
    low, high = (run(tmp_path, tau=tau) for tau in (0.3, 0.95))
    coverage = [float(re.search(r"coverage ([\d.]+)%", printed(n))[1]) for n in (low, high)]
    assert coverage[0] > coverage[1] + 5
    assert shown(low)[0] != shown(high)[0]
    assert "tau=0.3" in live_table(low) and "tau=0.95" in live_table(high)


# Stands in front of the chapter: tiny networks for the published ones, a test set of four images, a
# short protocol.
TINY = """
import sys
sys.path.insert(0, {tests!r})
import conftest
import torch
from pathlib import Path
from torch import nn
from hetpure_lab.data import layouts, sources
from hetpure_lab.networks import checkpoints
from hetpure_lab.paper import protocols
from hetpure_lab.report import regenerate

class Sized(conftest.TinyDenoiser):
    size = 64

    def forward(self, x, t):
        assert x.shape[-2:] == (64, 64)
        return super().forward(x, t)

def load_tiny(name, device):
    if name == "guided-diffusion-256":
        network = conftest.seeded(Sized, 1)
    else:
        denoises = name.startswith(("edm", "svhn-ddpm"))
        tiny = conftest.TinyDenoiser if denoises else conftest.TinyClassifier
        network = conftest.seeded(tiny, 1)
    network.head = nn.Linear(8, 1000 if name.startswith("resnet") else 10)
    return network.float().eval().requires_grad_(False).to(device)

checkpoints.load, checkpoints.demand = load_tiny, lambda *names: None
checkpoints.recorded = lambda: dict.fromkeys(checkpoints.CATALOGUE, "0" * 64)
sources._read = lambda folder, dataset, split: sources.shipped(dataset.name)[torch.arange(4)]
subset = dict(of=4, index=list(range(4)))
layouts.subsets = lambda: dict.fromkeys(("cifar10", "svhn", "imagenet-224"), subset)
regenerate.LIVE = Path("live")
for each in protocols.PROTOCOLS.values():
    each.values.update(iterations=protocols.Value(2, "test"), eot=protocols.Value(2, "test"))
"""


def at_the_papers_scale(chapter, bench, tmp_path, monkeypatch):
    """A chapter with everything but the published networks, the official images, and the number of
    iterations: what it prints and shows.
    """
    monkeypatch.delenv("HETPURE_BUDGET", raising=False)
    monkeypatch.setenv("HETPURE_RESULTS", str(tmp_path / "results"))
    notebook = nbformat.read(CHAPTER.with_name(chapter), as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(TINY.format(tests=str(ROOT / "tests"))))
    nbformat.write(notebook, tmp_path / "in.ipynb")
    settings = {"bench": bench, "budget": "paper", "n_images": 2, "votes": 2}
    papermill.execute_notebook(
        tmp_path / "in.ipynb",
        tmp_path / "out.ipynb",
        settings,
        progress_bar=False,
        cwd=str(tmp_path),
    )
    made = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    said, shown = printed(made), texts(made)
    assert "our choice" in said and "confirm=0" in said and "split test512" in said
    assert "these settings are not those" not in said
    assert re.search(r": 2 images, .*, 2 purifications of each", shown)
    return said, shown


@pytest.mark.parametrize(
    "chapter, bench, calls",
    [("06_svhn.ipynb", "svhn-paper", 15), ("07_imagenet.ipynb", "imagenet-paper", 15)],
)
def test_the_papers_protocol_runs_on_digits_and_photographs(
    chapter, bench, calls, tmp_path, monkeypatch
):
    """The method of the protocol on the bench's own images, in front of a denoiser that has a size
    of its own.
    """
    said, _ = at_the_papers_scale(chapter, bench, tmp_path, monkeypatch)
    assert (
        f"{calls} denoiser calls per purification" in said
        and protocols.main_table(bench).method.calls(linear_schedule()) == calls
    )


def test_the_papers_protocol_runs_on_a_paper_bench(tmp_path, monkeypatch):
    """From loading to the table."""
    _, shown = at_the_papers_scale(CHAPTER.name, "cifar10-paper", tmp_path, monkeypatch)
    assert (
        "CC BY-NC-SA 4.0" in shown
        and "No network of this bench was trained by this project" in shown
    )
    beside = [
        table
        for table in re.findall(r"<table.*?</table>", shown, re.DOTALL)
        if "paper: standard" in table
    ]
    rows = [next(row for row in table.split("<tr") if ">the method<" in row) for table in beside]
    measured = [
        bool(re.search(r"\d\s\[[\d.]+,\s[\d.]+\]", unescape(re.sub(r"<[^>]*>", "", row))))
        for row in rows
    ]
    # Table 1 has this run's accuracy beside the paper's
    assert measured == [True, False, False, False, False]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"t_s": 0.3}, "weak noise t_s = 0.3 must be below the strong noise t_l = 0.2"),
        ({"taw": 0.5}, "unknown parameter taw"),
    ],
)
def test_wrong_parameters_are_explained(tmp_path, parameters, message):
    with pytest.raises(PapermillExecutionError, match=re.escape(message)):
        run(tmp_path, **parameters)


def test_more_images_than_the_test_set_has_are_refused(shared, tmp_path):
    """Of a sample that stands in for it all are taken instead."""
    with pytest.raises(PapermillExecutionError, match="n_images must be from 1 to"):
        run(tmp_path, n_images=100_000)


def cells(*sources):
    """A kernel's namespace after these cells: declared parameters, their values and what was
    run.
    """
    space = {"In": ["", *sources]}
    for source in sources:
        exec(source, space)
    return space


DECLARED = 'budget: str = "quick"\ntau: float = 0.8\nn_images: int = 0\nlive: bool = False'


def test_an_injected_budget_wins_over_the_environment_and_that_over_the_cell(monkeypatch):
    monkeypatch.delenv("HETPURE_BUDGET", raising=False)
    assert notebook.start(cells(DECLARED)).name == "quick"
    monkeypatch.setenv("HETPURE_BUDGET", "smoke")
    assert notebook.start(cells(DECLARED)).name == "smoke"
    assert notebook.start(cells(DECLARED, '# Parameters\nbudget = "paper"')).name == "paper"
    with pytest.raises(ValueError, match="known: smoke, quick, paper"):
        notebook.start(cells(DECLARED, '# Parameters\nbudget = "huge"'))


@pytest.mark.parametrize("variable, name", notebook.LENT.items())
def test_a_lent_machine_gets_the_smallest_budget_and_says_how_to_get_another(
    variable, name, monkeypatch, capsys
):
    for each in ("HETPURE_BUDGET", *notebook.LENT):
        monkeypatch.delenv(each, raising=False)
    assert notebook.start(cells(DECLARED)).name == "quick"
    assert not capsys.readouterr().out
    monkeypatch.setenv(variable, "10.3.0.1")
    assert notebook.start(cells(DECLARED)).name == "smoke"
    said = capsys.readouterr().out
    assert name in said and "os.environ['HETPURE_BUDGET'] = 'quick'" in said
    assert notebook.start(cells(DECLARED, '# Parameters\nbudget = "paper"')).name == "paper"
    monkeypatch.setenv("HETPURE_BUDGET", "quick")
    assert notebook.start(cells(DECLARED)).name == "quick"


def test_a_chapter_without_records_says_so_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(notebook, "RESULTS", tmp_path)
    notebook.start(cells(DECLARED))
    assert capsys.readouterr().out.count(f"no records in {tmp_path}") == 1
    assert notebook.sentences([]).data == "Not measured yet."
    assert notebook.sentences(["A.", "B."]).data == "- A.\n- B."


@pytest.mark.parametrize("value", ["ten", 1.5, True, None])
@pytest.mark.parametrize("name", ["n_images", "tau"])
def test_a_value_of_another_type_is_refused(name, value):
    if (name, value) == ("tau", 1.5):
        value = "1.5"
    with pytest.raises(ValueError, match=f"{name} must be a "):
        notebook.start(cells(DECLARED, f"# Parameters\n{name} = {value!r}"))


def test_numbers_become_what_the_chapter_declares():
    space = cells(DECLARED, "# Parameters\nn_images = 1e1\ntau = 1")
    notebook.start(space)
    assert (
        (space["n_images"], space["tau"]) == (10, 1.0)
        and type(space["n_images"]) is int
        and type(space["tau"]) is float
    )


def test_a_chapter_starts_again_in_a_live_kernel_whose_names_are_its_own():
    space = cells(DECLARED, "# Parameters\ntau = 0.5", "K = 10\nattack = 'pgd'")
    notebook.start(space)
    notebook.start(space)
    with pytest.raises(
        ValueError, match="unknown parameter tua; this chapter has: budget, tau, n_images, live"
    ):
        notebook.start(cells(DECLARED, "# Parameters\ntua = 0.5"))


def test_a_check_that_is_false_stops_the_run(capsys):
    notebook.check("one is one", 1 == 1)
    with pytest.raises(AssertionError, match="this does not hold: one is two"):
        notebook.check("one is two", 1 == 2)
    assert capsys.readouterr().out == "✓ one is one\n"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_papermill_knows_every_parameter_and_its_type(path):
    found = papermill.inspect_notebook(path)
    assert found and all(
        about["inferred_type_name"] in ("str", "int", "float", "bool") for about in found.values()
    )
    (cell,) = [
        c
        for c in nbformat.read(path, as_version=4).cells
        if "parameters" in c.metadata.get("tags", [])
    ]
    assert set(found) == {line.partition(":")[0] for line in cell.source.splitlines()}


def test_cells_keep_their_ids_and_a_chapter_runs_again_only_when_what_it_read_changed(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(chapters, "READ", tmp_path / "read.json")
    path = tmp_path / "one.ipynb"
    code = [
        nbformat.v4.new_code_cell(
            "from hetpure_core import linear_schedule\nlinear_schedule().T", id="kept"
        )
    ]
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# One", id="title"), *code]),
        path,
    )
    for _ in range(2):
        chapters.main([str(path)])
    made = nbformat.read(path, as_version=4)
    assert [cell.id for cell in made.cells] == ["title", "kept"] and made.cells[1].outputs[0].data[
        "text/plain"
    ] == "1000"
    last = chapters.known()
    assert "hetpure_core.py" in last[path.name]["read"] and not chapters.stale(path, last)
    made.cells[1].source += "\n"
    nbformat.write(made, path)
    assert chapters.stale(path, last)


# ---- whose pictures are shown --------------------------------------------------------------------


def test_only_a_gallery_shows_images_and_it_is_of_images_that_may_be_passed_on():
    """Images of a data folder may be counted, not passed on."""
    assert not hasattr(pictures, "show") and not hasattr(data.Images, "show")
    makers = [
        f
        for f in vars(pictures).values()
        if getattr(f, "__annotations__", {}).get("return") == "Gallery"
    ]
    assert {f.__name__ for f in makers} == {"first_images", "gallery", "_gallery"}
    with pytest.raises(ValueError, match="may not be passed on"):
        pictures.gallery(
            data.Images(
                **{f.name: getattr(data.shipped("cifar10"), f.name) for f in fields(data.Images)}
            )
        )
    assert type(pictures.first_images("cifar10", 2)) is pictures.Gallery and isinstance(
        data.shipped("cifar10"), data.Shipped
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_committed_chapter_draws_images_through_a_gallery_and_reads_no_folder(path):
    notebook = nbformat.read(path, as_version=4)
    source = "\n".join(c.source for c in notebook.cells if c.cell_type == "code")
    drawn = re.findall(r"\b(imshow|matshow|imsave|fromarray|show_rows)\(", source)
    assert not drawn, "draw images with the gallery's show"
    parameters = next(
        c.source for c in notebook.cells if "parameters" in c.metadata.get("tags", [])
    )
    assert 'data: str = ""' in parameters or "data" not in parameters


@pytest.mark.parametrize("dataset", [name for name in data.DATASETS if name != "cinic10"])
def test_pictures_are_of_what_foolbox_ships_whatever_the_machine_has(dataset, monkeypatch):
    monkeypatch.setattr(
        "hetpure_lab.data.sources._read", lambda *_: pytest.fail("a folder was opened")
    )
    images = pictures.first_images(dataset, 3)
    assert "in Foolbox" in images.source and images.pixels.shape[-1] == data.DATASETS[dataset].size


def test_no_other_picture_is_in_the_repository(tracked):
    pictured = {
        name
        for name in tracked
        if name.lower().endswith((".png", ".jpg", ".jpeg", ".gif", ".webp"))
    }
    assert pictured <= {f"figures/{name}.png" for name in figures.FILES}
