"""How the book's extension finishes pages: symbols lead to the notation, nothing is done twice."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from bs4 import BeautifulSoup

from hetpure_lab.common.paths import ROOT

pytest.importorskip("sphinxcontrib.bibtex", reason="the book's extra is not installed")


def math(tex: str) -> str:
    return rf'<span class="math">\({tex}\)</span>'


def row(*cells: str) -> str:
    return "<tr>" + "".join(f"<td><p>{cell}</p></td>" for cell in cells) + "</tr>"


def table(*rows: str) -> str:
    return f"<table><tbody>{''.join(rows)}</tbody></table>"


LEVELS = row(f"{math('t_l')}, {math('t_s')}", "<code>t_l</code>", "two levels", "below 1", "3")
NETWORK = row(math(r"\learned{F}"), "<code>classifier</code>", "the classifier", "(n,)", "2")
NORM = row(math("p"), "<code>p</code>", "an exponent", "at least 1", "2")
OTHER = row(math("p"), "a density", "chapter 13")
NOTATION = f"""<html><body><article><section id="notation"><h1>Notation</h1>
<section id="mask">{table(LEVELS, NETWORK, NORM, row("–", "steps", "steps", "", "1"))}</section>
<section id="other-meanings">{table(OTHER)}</section></section></article></body></html>"""
CHAPTER = f"""<html><body><article><section><h1>On {math("p")}</h1>
<p>{math("p")}, {math("p = 2")}, <a href="#x">{math("F")}</a></p>{table(row(math("t_s")))}
<section><h2>Levels</h2><p>{math("p")}, {math("t_s")}, {math("t_l")}, {math("F")}, {math("t_s")}
</p></section></section></article></body></html>"""
LISTED = """<html><body><script>const THEBE_JS_URL = "https://example.org"</script>
<article><table><tr><td>1</td></tr></table></article></body></html>"""


@pytest.fixture
def extension(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "book" / "_ext"))
    import hetpure_book

    return hetpure_book


@pytest.fixture
def finished(extension, tmp_path):
    """A build of three pages, one of which an extension wrote, after `finish`; call to repeat."""
    out = tmp_path / "out"
    pages = {"book/notation.html": NOTATION, "chapters/01_noise.html": CHAPTER, "prf.html": LISTED}
    for name, html in pages.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(html)
    (out / "_static").mkdir()
    (tmp_path / "results").mkdir()
    app = SimpleNamespace(
        builder=SimpleNamespace(format="html", name="html"),
        outdir=out,
        srcdir=tmp_path,
        env=SimpleNamespace(found_docs={"book/notation", "chapters/01_noise"}),
        config=SimpleNamespace(html_theme_options={}),
    )

    def read() -> dict[str, BeautifulSoup]:
        extension.finish(app, None)
        return {name: BeautifulSoup((out / name).read_text(), "html.parser") for name in pages}

    return read


def test_the_first_use_of_a_symbol_in_a_section_leads_to_its_row(finished):
    pages = finished()
    links = pages["chapters/01_noise.html"].select("a.symbol")
    targets = [link["href"].removeprefix("../book/notation.html#symbol-") for link in links]
    assert targets == ["p", "p", "t-l", "t-l", "F"], "not in a heading, a link or a table"
    assert [link["aria-label"] for link in links] == ["p", "p", "t s", "t l", "F"]
    rows = pages["book/notation.html"].select("tr[id^=symbol-]")
    assert [r["id"] for r in rows] == ["symbol-t-l", "symbol-F", "symbol-p"]
    assert all(link["data-preview"] for link in links)


def test_a_symbol_shows_all_that_it_means(finished, extension):
    notation = finished()["book/notation.html"]
    said = extension.preview(notation.find(id="symbol-p"))
    text = BeautifulSoup(said, "html.parser").get_text(" ", strip=True)
    assert "an exponent" in text and "elsewhere (chapter 13): a density" in text
    assert "elsewhere" not in extension.preview(notation.find(id="symbol-F"))


def test_every_page_is_finished_and_only_once(finished):
    once, twice = finished(), finished()
    assert "THEBE_JS_URL" not in str(once["prf.html"]) and once["prf.html"].select(".table-box")
    assert once == twice


def test_a_search_can_quote_all_pages(finished, tmp_path):
    finished()
    script = (tmp_path / "out" / "_static" / "texts.js").read_text()
    assert script.startswith("window.hetpureTexts = {") and "two levels" in script


VERDICTS = """<article><section><h1>Claim</h1><p><strong>verified</strong>, scale: toy</p>
<p>It is <strong>verified</strong> in words.</p><table><tbody><tr><td><strong>wrong</strong></td>
<td><p><strong>not tested</strong></p></td><td><strong>other</strong></td></tr></tbody></table>
</section></article>"""


def test_a_verdict_of_a_table_or_below_a_title_has_a_sign_and_a_colour(extension):
    page = BeautifulSoup(VERDICTS, "html.parser")
    extension.colour_verdicts(page)
    shown = {v.get_text()[2:]: v["class"][1] for v in page.select(".verdict")}
    assert shown == {"verified": "good", "wrong": "bad", "not tested": "undecided"}
    assert [bold.get_text() for bold in page.select("strong")] == ["verified", "other"]


def test_every_table_has_a_caption_and_one_that_is_given_is_not_seen(extension):
    written = "<table><caption>Said.<details><summary>1</summary></details></caption></table>"
    page = BeautifulSoup(
        f"<article><h2>Costs#</h2><table></table>{written}</article>", "html.parser"
    )
    extension.scroll_tables(page)
    given, kept = page.select("caption")
    assert given.get_text() == "Costs" and "visually-hidden" in given["class"]
    assert "class" not in kept.attrs
    labels = [box["aria-label"] for box in page.select(".table-box")]
    assert labels == ["Table 1: Costs", "Table 2: Said."]


def test_every_picture_of_a_chapter_says_where_it_is_from_outside_of_its_own_link(
    extension, tmp_path
):
    image = '<img src="../_images/{}.png"/>'
    outputs = f'<a href="a.png">{image.format("a")}</a>', image.format("b")
    cells = "".join(f'<div class="cell_output">{output}</div>' for output in outputs)
    page = BeautifulSoup(f"<article>{cells}</article>", "html.parser")
    (tmp_path / "chapters").mkdir()
    told = [{"records": ["results/a.jsonl"], "commit": "abc", "width": 7}, {}]
    kinds = [{"data": {"image/png": ""}, "metadata": {"image/png": about}} for about in told]
    notebook = {"cells": [{"outputs": [kind]} for kind in kinds]}
    (tmp_path / "chapters" / "05.ipynb").write_text(json.dumps(notebook))
    extension.tell_figures(page, tmp_path, "chapters/05.html", "https://example.org")
    notes = page.select(".drawn > .origin")
    assert len(notes) == 2 and not page.select("a a")
    assert [a["href"] for a in notes[0].select("a")] == [
        "https://example.org/blob/abc/chapters/05.ipynb",
        "../results/a.jsonl",
    ]
    assert str(page.select_one("img")["width"]) == "7" and "records" not in notes[1].get_text()
