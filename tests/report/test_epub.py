"""The book for e-readers: well formed, formulas as MathML, nothing missing, links that lead on."""

from __future__ import annotations

import zipfile
from xml.etree import ElementTree

import nbformat
import pytest
from bs4 import BeautifulSoup
from conftest import ROOT

from hetpure_lab.report import plain
from hetpure_lab.report.release import published

pytest.importorskip(
    "latex2mathml", reason="latex2mathml is not installed: pip install 'hetpure[book]'"
)
from hetpure_lab.report import epub

PAGE = """<!DOCTYPE html>
<html xmlns="http://www.w3.org/1999/xhtml"><head><title>t</title><script>x < 1</script></head><body>
<p id="here">One<br>two &nbsp; <span class="math">\\(\\learned{\\epsilon_\\theta} < 1\\)</span></p>
<div class="math" id="eq"><span class="eqno">(1)</span>\\[\\begin{split}\\begin{aligned}
a &= 1 \\\\ b &= 2\\end{aligned}\\end{split}\\]</div><button>press</button>
<a href="../chapters/02_b.ipynb#eq">b</a> <a href="../results/x/y.jsonl">record</a> 
<a href="#gone">?</a>
<img src="../_images/a.png" alt=""></body></html>"""
MANIFEST = """<package xmlns="http://www.idpf.org/2007/opf"><manifest>
<item id="a" href="chapters/01_a.xhtml" media-type="application/xhtml+xml" />
<item id="b" href="chapters/02_b.xhtml" media-type="application/xhtml+xml" />
<item id="c" href="_images/a.png" media-type="image/png" /></manifest></package>"""


@pytest.fixture
def folder(tmp_path):
    for name in ("chapters", "_images", "META-INF"):
        (tmp_path / name).mkdir()
    for name in ("01_a", "02_b"):
        (tmp_path / "chapters" / f"{name}.xhtml").write_text(PAGE)
    (tmp_path / "_images" / "a.png").write_bytes(b"png")
    (tmp_path / "META-INF" / "container.xml").write_text("<container />")
    (tmp_path / "content.opf").write_text(MANIFEST)
    return tmp_path


def test_pages_are_well_formed_with_mathml_and_links_that_lead_on(folder):
    path = epub.write(folder, folder / "out" / "book.epub")
    with zipfile.ZipFile(path) as book:
        first = book.infolist()[0]
        assert (first.filename, first.compress_type) == ("mimetype", zipfile.ZIP_STORED)
        assert book.testzip() is None
        html = book.read("chapters/01_a.xhtml").decode()
        manifest = book.read("content.opf").decode()
    ElementTree.fromstring(html)
    assert manifest.count('properties="mathml"') == 2
    page = BeautifulSoup(html, "html.parser")
    assert len(page.find_all("math")) == 2 and plain.LEARNED in html and "\\" not in html
    assert page.select_one(".eqno").text == "(1)" and not page.select("script, button")
    assert [a["href"] for a in page.find_all("a")] == [
        "02_b.xhtml#eq",
        f"{published()}results/x/y.jsonl",
        "01_a.xhtml",
    ]


def test_a_missing_picture_or_a_formula_that_stays_latex_stops_it(folder):
    with pytest.raises(epub.EpubError, match="make epub"):
        epub.write(folder / "chapters")
    page = folder / "chapters" / "02_b.xhtml"
    page.write_text(PAGE.replace("a.png", "gone.png"))
    with pytest.raises(epub.EpubError, match=r"02_b.xhtml shows .*gone.png"):
        epub.write(folder, folder / "book.epub")
    page.write_text(PAGE.replace("\\learned", "\\unheardof"))
    with pytest.raises(epub.EpubError, match="unheardof"):
        epub.write(folder, folder / "book.epub")


def test_letters_of_sets_and_arrows_with_words_are_what_they_look_like():
    made = epub.mathml(r"a \xrightarrow{p \to \infty} \mathbb R, \mathcal M", display=False)
    assert "ℝ" in str(made) and "ℳ" in str(made) and not made.select("[mathvariant]")
    assert made.find("mover").get_text() == "⟶p→∞"


def test_what_html_lets_pass_is_said_in_xhtml(folder):
    """Each is a fault that epubcheck has found in a whole book."""
    loose = """<style scoped="">td {}</style><svg viewbox="0 0 1 1"><path d="M0 0"></path></svg>
    <details><summary><p>more</p></summary></details><p><details><summary>2</summary></details></p>
    <table><tr><td valign="top" halign="left">1</td></tr></table><i id="two"></i><i id="two"></i>
    <i role="doc-biblioentry"></i></body>"""
    page = PAGE.replace("</body>", loose)
    page = page.replace("</head>", '<link rel="stylesheet" href="../_static/gone.css"/></head>')
    (folder / "chapters" / "02_b.xhtml").write_text(page)
    with zipfile.ZipFile(epub.write(folder, folder / "out" / "book.epub")) as book:
        html = book.read("chapters/02_b.xhtml").decode()
        manifest = book.read("content.opf").decode()
    svg = ElementTree.fromstring(html).find(".//{http://www.w3.org/2000/svg}svg")
    assert svg is not None and svg.get("viewBox") == "0 0 1 1"
    made = BeautifulSoup(html, "html.parser")
    refused = "body style, [scoped], summary p, p details, [valign], [halign], [role], link"
    assert not made.select(refused) and made.select_one("head style")
    assert len(made.select("#two")) == 1
    assert 'properties="mathml svg"' in manifest


def test_pages_follow_each_other_as_in_the_contents(folder):
    """Sphinx leaves pages out whose place it writes in two ways."""
    order = ["../_images/../chapters/02_b.xhtml#eq", "chapters/01_a.xhtml", "chapters/02_b.xhtml"]
    links = "".join(f'<li><a href="{where}">x</a></li>' for where in order)
    nav = f'<html xmlns="http://www.w3.org/1999/xhtml"><body><nav><ol>{links}</ol></nav></body></html>'
    (folder / "nav.xhtml").write_text(nav.replace("../_images", "_images"))
    item = '<item id="n" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>'
    spine = '</manifest><spine toc="ncx"><itemref idref="a" /><itemref idref="gone" /></spine>'
    (folder / "content.opf").write_text(MANIFEST.replace("</manifest>", item + spine))
    with zipfile.ZipFile(epub.write(folder, folder / "out" / "book.epub")) as book:
        manifest = ElementTree.fromstring(book.read("content.opf"))
    found = [item.get("idref") for item in manifest.iter("{http://www.idpf.org/2007/opf}itemref")]
    assert found == ["b", "a", "n"]


@pytest.mark.skipif(
    epub.faults(ROOT / "nothing") is None, reason="epubcheck needs Java and make epubcheck"
)
def test_epubcheck_refuses_what_is_no_book(tmp_path):
    (tmp_path / "book.epub").write_bytes(b"no archive")
    assert epub.faults(tmp_path / "book.epub")


@pytest.mark.parametrize("path", sorted((ROOT / "chapters").glob("*.ipynb")), ids=lambda p: p.stem)
def test_every_labelled_formula_of_the_chapters_can_be_converted(path):
    cells = nbformat.read(path, as_version=4).cells
    text = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    for found in plain.EQUATION.finditer(text):
        assert epub.mathml(found["body"], display=True).name == "math"
