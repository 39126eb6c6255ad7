"""A version: one address, one citation, notes, and a tag that fits."""

from __future__ import annotations

import json

import pytest

from hetpure_lab.common.paths import ROOT
from hetpure_lab.report import release


def test_the_repositorys_address_stands_in_one_place(tracked):
    """CITATION.cff, the BibTeX entry and install cells are written from pyproject.toml; no source
    names the address.
    """
    about = release.project()
    address = about["urls"]["Repository"].removeprefix("https://")
    texts = {
        name: (ROOT / name).read_bytes()
        for name in tracked
        if not name.endswith((".jsonl", ".safetensors"))
    }
    named = {name for name, text in texts.items() if address.encode() in text}
    # install cells
    cells = (n for n in named if n.startswith(("chapters/", "templates/")) and n.endswith(".ipynb"))
    written = {"CITATION.cff", "book/hetpure.bib", *cells}
    assert {n for n in named if not n.startswith("tests/")} == {"pyproject.toml"} | written
    cff = (ROOT / "CITATION.cff").read_text()
    assert cff == release.citation(cff, about), "run: python -m hetpure_lab.report.release"
    assert (ROOT / "book" / "hetpure.bib").read_text() == release.bibtex(about)
    assert about["version"] in release.citation(cff, about | {"version": "9.9.9"}).replace(
        "9.9.9", about["version"]
    )


def test_every_install_cell_is_the_same_and_fetches_this_version():
    about, cells = release.project(), set()
    for path in release.notebooks():
        text = path.read_text("utf-8")
        assert text == release.install(text, about), "run: python -m hetpure_lab.report.release"
        (cell,) = [c for c in json.loads(text)["cells"] if c["id"] == "install"]
        cells.add("".join(cell["source"]))
        assert "remove-cell" in cell["metadata"]["tags"]
    assert len(release.notebooks()) > 15 and len(cells) == 1
    newer = release.install(cells.pop(), about | {"version": "9.9.9"})
    assert f'"{about["urls"]["Repository"]}/archive/refs/tags/v9.9.9.zip"' in newer


def test_a_release_needs_its_version_and_its_notes(tmp_path):
    assert release.notes("## 0.2.0 (2026-12-01)\n\nNew.\n\n## 0.1.0\n\nOld.\n", "0.2.0") == "New.\n"
    for changelog in (
        "## 0.1.0\n\nOld.\n",
        "## 0.2.0 (unreleased)\n\nNew.\n",
        "## 0.2.0\n\n## 0.1.0\nOld.\n",
    ):
        with pytest.raises(release.ReleaseError):
            release.notes(changelog, "0.2.0")
    with pytest.raises(release.ReleaseError, match="tag"):
        release.collect("v0.0.0", tmp_path)


def test_the_changelog_has_a_section_of_this_version():
    assert f"## {release.project()['version']}" in (ROOT / "CHANGELOG.md").read_text()
