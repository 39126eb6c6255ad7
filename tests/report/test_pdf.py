"""The single page on paper: nothing folded, no menus, links that lead somewhere."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from bs4 import BeautifulSoup

from hetpure_lab.common.paths import ROOT
from hetpure_lab.report import browser, pdf
from hetpure_lab.report.release import published

PAGE = """<html><head></head><body>
<div id="jb-print-docs-body"><nav><ul>
<li><a class="reference internal" href="#document-chapters/01_diffusion">1. Noise</a></li>
<li><a class="reference internal" href="#document-book/claims/a1">A1</a></li></ul></nav></div>
<nav id="menu">menu</nav>
<article class="bd-article"><section id="first"><h1>The book</h1>
<div class="toctree-wrapper compound">
<span id="document-chapters/01_diffusion"></span><section id="noise"><h2>Noise</h2>
<p>{formula} <a href="book/index.html#noise">here</a> <a href="01_diffusion.ipynb">chapter</a>
<a href="../results/x/y.jsonl">record</a> <a href="https://example.org/">there</a></p>
<details><summary>More</summary>shown</details><details class="hide">code</details></section>
<span id="document-book/claims/a1"></span><section class="x"><h3>A1</h3>{picture}</section>
</div></section></article>
<script src="../_static/live/live.js"></script></body></html>"""


def page(formula: str = "", picture: str = "") -> str:
    return PAGE.replace("{formula}", formula).replace("{picture}", picture)


def test_links_lead_to_places_of_the_document_or_to_the_published_pages():
    soup = BeautifulSoup(pdf.prepare(page()), "html.parser")
    assert [a["href"] for a in soup.select("#noise a")] == [
        "#noise",
        "#document-chapters/01_diffusion",
        f"{published()}results/x/y.jsonl",
        "https://example.org/",
    ]


def test_menus_and_scripts_go_folds_open_and_the_contents_have_no_page_of_a_template():
    soup = BeautifulSoup(pdf.prepare(page()), "html.parser")
    assert not soup.select("#menu, script")
    assert [("open" in fold.attrs) for fold in soup.find_all("details")] == [True, False]
    contents = soup.select_one("#paper-contents")
    assert [a.string for a in contents.find_all("a")] == ["1. Noise"]
    assert contents.find_next_sibling()["class"][0] == "toctree-wrapper"
    assert soup.find("h3").parent["class"] == ["claim"]


def test_the_single_page_knows_every_node_that_the_pages_know(monkeypatch):
    """An extension that names the single page's builder would hide all that name "html" alone."""
    pytest.importorskip("sphinxcontrib.bibtex", reason="the book's extra is not installed")
    monkeypatch.syspath_prepend(str(ROOT / "book" / "_ext"))
    from hetpure_book import share_handlers

    handlers = {"html": {"card": 1, "exercise": 2}, "singlehtml": {"exercise": 3}}
    share_handlers(SimpleNamespace(registry=SimpleNamespace(translation_handlers=handlers)))
    assert handlers["singlehtml"] == {"card": 1, "exercise": 3}
    assert handlers["html"] == {"card": 1, "exercise": 2}


def test_intervals_in_tables_stay_on_one_line(monkeypatch):
    pytest.importorskip("sphinxcontrib.bibtex", reason="the book's extra is not installed")
    monkeypatch.syspath_prepend(str(ROOT / "book" / "_ext"))
    from hetpure_book import keep_intervals_whole

    cells = "<td>64.1 [51.6, 76.6] of <b>-2.0 [-3.1, 0.5]</b></td><td>two words</td>"
    soup = BeautifulSoup(f"<table><tr>{cells}</tr></table><p>1.0 [0.5, 2.0]</p>", "html.parser")
    before = soup.get_text()
    keep_intervals_whole(soup)
    whole = [t for t in soup.get_text().split(" ") if "\u00a0" in t]
    assert len(whole) == 2 and soup.get_text().replace("\u00a0", " ") == before


@pytest.mark.skipif(not browser.chromium(), reason=browser.MISSING)
def test_it_is_printed_with_an_outline_and_only_if_it_is_whole(tmp_path):
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    place = tmp_path / "book" / "index.html"
    place.parent.mkdir()
    for html, complaint in (
        (page(), "no formula was set"),
        (page("<mjx-container>x</mjx-container>", '<img src="gone.png">'), "gone.png"),
    ):
        place.write_text(html)
        with pytest.raises(pdf.PrintError, match=complaint):
            pdf.write(place, tmp_path / "book.pdf")
    place.write_text(page("<mjx-container>x</mjx-container>"))
    data = pdf.write(place, tmp_path / "book.pdf").read_bytes()
    assert data.startswith(b"%PDF") and b"/Outlines" in data and b"/Title" in data


def test_nothing_to_print_is_said(tmp_path):
    with pytest.raises(pdf.PrintError, match="make pdf builds it first"):
        pdf.write(tmp_path / "index.html", tmp_path / "book.pdf")
