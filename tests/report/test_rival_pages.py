"""Every registered defence has a page, made from its registration alone."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from html import unescape

import pytest
from conftest import ROOT

from hetpure_core import Uniform
from hetpure_lab.defences import DEFENCES
from hetpure_lab.defences.interface import Capabilities, register
from hetpure_lab.report import rivals, tables


def test_every_defence_but_the_books_subject_has_a_page():
    pages = {path.stem for path in (ROOT / "book" / "rivals").glob("*.md")}
    assert pages == set(rivals.slugs()) == set(DEFENCES) - {"none", "hetpure"}, "run: hetpure pages"
    texts = {path.stem for path in rivals.TEXTS.glob("*.md")}
    assert texts <= pages, "a text without a defence"


def shown(markdown: str) -> str:
    """What a reader, and MathJax, see of an output of a notebook: plain Markdown, no dollars."""
    commonmark = pytest.importorskip("markdown_it").MarkdownIt()  # comes with the book's tools
    return " ".join(unescape(re.sub("<[^>]+>", "", commonmark.render(markdown))).split())


@pytest.mark.parametrize("slug", DEFENCES)
def test_no_formula_of_a_docstring_loses_a_backslash(slug):
    said = shown(rivals.docstring(slug))
    for formula in re.findall(r":math:`([^`]*)`", inspect.getdoc(DEFENCES[slug]) or ""):
        assert rf"\({' '.join(formula.split())}\)" in said


def test_a_line_of_chapter_11_is_a_sentence_without_code_or_formula():
    texts = {path.stem for path in rivals.TEXTS.glob("*.md")}
    assert texts == set(rivals.slugs()), "a rival without a text shows its docstring to readers"
    lines = rivals.overview().splitlines()
    assert len(lines) == len(texts)
    assert all(line.endswith(".") and not re.search(r"[`$\\{_<]", line) for line in lines)
    assert not any("(1 denoiser calls" in line or "(0 " in line for line in lines)


def test_a_new_purifier_needs_no_page_by_hand(tmp_path):
    @dataclass(frozen=True)
    class Blur(Uniform):
        """Blur, with :math:`\\sigma` of ``width``. It needs no network.

        More."""

        width: float = 1.0

        def plan(self, *arguments):
            return "its own step"

    register("blur-in-a-test", Capabilities())(Blur)
    try:
        page = rivals.page("blur-in-a-test", tmp_path)
        assert shown(rivals.idea("blur-in-a-test")) == "Blur, with \\(\\sigma\\) of width."
    finally:
        del DEFENCES["blur-in-a-test"]
    assert page.startswith("# Blur-in-a-test\n\nBlur, with ")
    assert 'return "its own step"' in page and "`width = 1.0`" in page
    assert "Nothing yet. To measure it:" in page and "hetpure audit 'blur-in-a-test'" in page


@pytest.mark.parametrize("slug", ["sde", "atop", "noise-map"])
def test_a_page_shows_every_record_of_its_defence(slug):
    page = (ROOT / "book" / "rivals" / f"{slug}.md").read_text()
    rows = [r for r in tables.summaries() if r["defence"].partition(":")[0] == slug]
    linked = set(re.findall(r'href="\.\./\.\./(results/[^"]+)"', page))
    assert {f"results/{r['bench']}/{r['file']}" for r in rows} <= linked
    assert all((ROOT / name).exists() for name in linked)
