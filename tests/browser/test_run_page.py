"""The page that `make run` writes, in a real browser: from a file, at the width of a desk and of a
phone.
"""

from __future__ import annotations

import re

import nbformat
import pytest
from chromium import CHROMIUM, axe, chromium  # noqa: F401  (fixtures)
from test_pages import SCROLLED, serious

from hetpure_lab.common.paths import ROOT
from hetpure_lab.report import browser as browsers
from hetpure_lab.report import runpage

pytestmark = pytest.mark.skipif(not CHROMIUM, reason=browsers.MISSING)
CHAPTER = ROOT / "chapters" / "05_cifar10.ipynb"
FOLDER = ROOT / "out" / "run-page"  # as deep in the checkout as the page of `make run`


@pytest.fixture(scope="module")
def page(chromium):
    """The chapter as committed, with what a run leaves besides: a bar of progress on stderr."""
    notebook = nbformat.read(CHAPTER, as_version=4)
    code = next(c for c in notebook.cells if c.cell_type == "code" and c.outputs)
    code.outputs.insert(0, nbformat.v4.new_output("stream", name="stderr", text="3/3 [00:01]"))
    FOLDER.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, FOLDER / CHAPTER.name)
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    opened.wrong, opened.asked = [], []
    opened.on("console", lambda m: m.type == "error" and opened.wrong.append(m.text))
    opened.on("pageerror", lambda e: opened.wrong.append(str(e)))
    opened.on("request", lambda r: opened.asked.append(r.url))
    opened.goto(runpage.write(FOLDER / CHAPTER.name).as_uri())
    opened.evaluate(SCROLLED)
    yield opened
    context.close()


def test_it_is_one_file_without_errors_or_raw_markup(page):
    assert not page.wrong
    assert {url for url in page.asked if not url.startswith("data:")} == {page.url}
    text = page.locator("main").inner_text()
    assert not re.findall(r"\{(?:admonition|cite|eq|prf:\w+)\}|\\abar|:class:|3/3 \[", text)
    assert page.locator("mjx-container").count() > 5
    assert page.locator("mjx-merror").count() == 0
    assert page.locator("details summary", has_text="Solution").count() >= 2


def test_it_opens_with_what_the_parameters_did(page):
    headings = page.locator("h1, h2").all_inner_texts()
    assert headings[1] == "What the parameters did"
    assert "right without attack" in page.locator("h2 ~ ul").first.inner_text()


def test_no_link_is_dead(page):
    hrefs = page.eval_on_selector_all("main a[href]", "links => links.map((a) => a.href)")
    files = {href.partition("#")[0] for href in hrefs if href.startswith("file:")}
    from urllib.parse import unquote, urlparse

    dead = [f for f in files if not (ROOT / unquote(urlparse(f).path)).exists()]
    assert len(files) > 50 and not dead
    anchors = page.evaluate("""() => [...document.querySelectorAll('main a[href^="#"]')]
        .map((a) => decodeURIComponent(a.hash.slice(1)))
        .filter((id) => id && !document.getElementById(id))""")
    assert not anchors


@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_the_window_and_axe_finds_nothing_serious(page, axe, width):
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    pictures = page.eval_on_selector_all(
        "main img", "e => e.map((i) => [i.naturalWidth > 0, i.alt.length > 20])"
    )
    assert len(pictures) >= 4 and all(all(p) for p in pictures)
    assert not serious(page, axe)


def test_a_long_table_is_folded_and_filtered(page):
    page.set_viewport_size({"width": 1280, "height": 900})
    field = page.locator("input[type=search]").first
    field.fill("uniform noise")
    assert re.match(r"\d+ of \d+ rows", page.locator(".filter-count").first.inner_text())
