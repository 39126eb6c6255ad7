"""The whole book as one PDF with an outline: ``python -m hetpure_lab.report.pdf`` after ``make
book``'s single page.

``jupyter-book build --builder singlehtml`` writes one page. `prepare` makes it fit for paper, and
Chromium prints it once every formula is set and every picture is there.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from bs4 import BeautifulSoup

from hetpure_lab.common.paths import ROOT
from hetpure_lab.report import browser as browsers
from hetpure_lab.report.release import published

PAGE = ROOT / "book" / "_build" / "singlehtml" / "book" / "index.html"
TARGET = ROOT / "out" / "book.pdf"
SCALE = 0.8  # letters of a screen are large on paper
READY = """async () => {
  if (window.MathJax?.startup) await MathJax.startup.promise;
  document.querySelectorAll("img").forEach((i) => (i.loading = "eager"));
  await Promise.all([...document.images].map((i) => i.decode().catch(() => 0)));
  const set = document.querySelectorAll("mjx-container").length;
  return {set, empty: [...document.images].filter((i) => !i.naturalWidth).map((i) => i.src)};
}"""
FOOTER = (
    '<div style="font-size: 7pt; width: 100%; text-align: center">'
    '<span class="pageNumber"></span> of <span class="totalPages"></span></div>'
)
# Paper has no menus; what a screen folds stands open, but for the code of folded cells.
STYLE = """
.bd-article h1 { display: block !important; }
h2 { break-before: page; }
.cell { break-inside: auto !important; }
.claim { font-size: 8pt; }
.claim h3 { font-size: 10pt; margin: 0.6rem 0 0.2rem; }
.claim :is(p, pre, blockquote) { margin-bottom: 0.2rem; }
#paper-contents { break-before: page; columns: 2; font-size: 9pt; }
#paper-contents ul { list-style: none; padding-left: 0; }
#paper-contents > ul > li > ul { padding-left: 1em; }
.bd-article .admonition.dropdown > * { display: block !important; opacity: 1 !important; }
.toggle-button, .toggle-details__summary-text, .sd-card-img-top, .live-needs-script,
.navbar, .bd-header-announcement, #pst-skip-link, .skip-link, dialog { display: none !important; }
"""
MENUS = (
    "header, footer, nav, dialog, #pst-skip-link, .skip-link, .bd-sidebar-primary, "
    ".bd-sidebar-secondary, .header-article, #jb-print-docs-body, .prev-next-area"
)


class PrintError(ValueError):
    """No browser, or nothing to print, or a page that misses something."""


def prepare(html: str) -> str:
    """The single page for paper: a list of contents in place of menus, nothing folded, and links
    that lead to places of the document or to the published pages.
    """
    page = BeautifulSoup(html, "html.parser")
    places = {tag["id"] for tag in page.find_all(id=True)}
    contents = _contents(page)
    for extra in page.select(MENUS):
        extra.extract()
    for script in page.find_all("script", src=re.compile("live|thebe|togglebutton|bootstrap")):
        script.decompose()
    for place in page.select("span[id^='document-book/claims/']"):  # one template, hundreds of them
        place.find_next_sibling("section")["class"] = ["claim"]
    for fold in page.select("details:not(.hide)"):
        fold["open"] = ""
    for link in page.find_all("a", href=True):
        link["href"] = _lead(link["href"], places)
    style = page.new_tag("style")
    style.string = STYLE
    page.head.append(style)
    pages = page.select_one(".toctree-wrapper")  # where the first page ends and the others follow
    if pages and contents:
        pages.insert_before(contents)
    return str(page)


def _contents(page: BeautifulSoup) -> BeautifulSoup | None:
    """Chapters and pages in order, as links; pages of one template by their overview alone."""
    found = BeautifulSoup('<nav id="paper-contents"><ul></ul></nav>', "html.parser")
    for link in page.select("#jb-print-docs-body nav a.reference.internal"):
        if link.get("href", "").count("/") < 2 and link["href"].startswith("#document-"):
            item = found.new_tag("li")
            item.append(found.new_tag("a", href=link["href"]))
            item.a.string = link.get_text(strip=True)
            found.ul.append(item)
    return found if found.find("li") else None


def _lead(href: str, places: set[str]) -> str:
    """Where a link leads on paper."""
    address, _, anchor = href.partition("#")
    if "://" in address or href.startswith("mailto:"):
        return href
    if anchor in places:
        return f"#{anchor}"
    stem = re.sub(r"^(\.\./)+", "", re.sub(r"\.(ipynb|md|html)$", "", address))
    for room in ("", "chapters/", "book/"):
        if f"document-{room}{stem}" in places:
            return f"#document-{room}{stem}"
    return published() + re.sub(r"^(\.\./)+", "", address)


def write(page: Path = PAGE, target: Path = TARGET) -> Path:
    """Print `page` to `target`, with an outline of its headings.

    Raises `PrintError`: no page, no browser, a picture that is not there, no formula set.
    """
    if not page.exists():
        raise PrintError(f"{page} is not there: make pdf builds it first")
    program = browsers.chromium()
    if not program:
        raise PrintError(browsers.MISSING)
    from playwright.sync_api import sync_playwright

    # Sphinx writes the links of its single page as if it stood at the top, which is where it goes.
    ready = page.parent.parent / "paper.html"
    ready.write_text(prepare(page.read_text()))
    target.parent.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=program, args=["--no-sandbox"])
        sheet = browser.new_context(color_scheme="light").new_page()
        sheet.set_default_timeout(300_000)
        sheet.goto(ready.as_uri())
        seen = sheet.evaluate(READY)
        if seen["empty"] or not seen["set"]:
            what = ", ".join(seen["empty"][:3]) or "no formula was set"
            raise PrintError(f"the page to print is not whole: {what}")
        sheet.pdf(
            path=target,
            format="A4",
            scale=SCALE,
            outline=True,
            tagged=True,
            print_background=True,
            display_header_footer=True,
            header_template="<span></span>",
            footer_template=FOOTER,
            margin={"top": "16mm", "bottom": "16mm", "left": "15mm", "right": "15mm"},
        )
        browser.close()
    return target


def main() -> int:
    try:
        path = write()
    except PrintError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{path}, {path.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
