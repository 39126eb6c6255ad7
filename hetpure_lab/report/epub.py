"""The book for e-readers: ``python -m hetpure_lab.report.epub`` after Sphinx's builder `epub`.

Readers of such books run no scripts, and many refuse a page that is not well formed. So every page
that Sphinx has written is mended: formulas become MathML, links lead to pages of the book or to the
published ones, scripts and buttons go. What would be broken stops the build.
"""

from __future__ import annotations

import os
import re
import sys
import zipfile
from pathlib import Path
from posixpath import dirname, join, normpath
from xml.etree import ElementTree

from bs4 import BeautifulSoup, Tag

from hetpure_lab.common.paths import ROOT
from hetpure_lab.report import plain
from hetpure_lab.report.release import published

BUILT = ROOT / "book" / "_build" / "epub"
TARGET = ROOT / "out" / "book.epub"
FORMULA = re.compile(r"\\\((?P<inline>.+?)\\\)|\\\[(?P<display>.+?)\\\]", re.DOTALL)
EXTRA = "script, button, iframe, input, .headerlink, .live-needs-script, #hetpure-live-status"
UNKNOWN = {  # what the converter gets wrong, and what it gets right
    r"\\arg\b": r"\\operatorname{arg}",
    r"\\(math\w+) ([A-Za-z])": r"\\\1{\2}",
    r"\\xrightarrow\{([^{}]*)\}": r"\\overset{\1}{\\longrightarrow}",
}
Pages = dict[str, BeautifulSoup]  # by their names in the book


class EpubError(ValueError):
    """Nothing to pack, or a page that a reader would refuse or show broken."""


def mathml(tex: str, display: bool) -> Tag:
    """LaTeX as the book has it, as MathML. Raises `EpubError` for what cannot be converted."""
    from latex2mathml import converter

    told = plain.expand(tex.strip())
    for written, instead in UNKNOWN.items():
        told = re.sub(written, instead, told)
    if r"\begin{aligned}" in told:  # Sphinx puts its own alignment around ours
        told = re.sub(r"\\(?:begin|end)\{split\}", "", told)
    try:
        found = converter.convert(told, display="block" if display else "inline")
    except Exception as reason:  # the library has many
        raise EpubError(f"a formula cannot be converted: {tex.strip()[:80]}: {reason}") from None
    found = re.sub(r">\\([{}])<", r">\1<", found)
    if "\\" in found:
        raise EpubError(f"a formula is not converted whole: {tex.strip()[:80]}")
    made = BeautifulSoup(found, "html.parser").math
    assert made is not None
    return made


def _set(page: BeautifulSoup) -> None:
    """Put MathML in the place of every formula."""
    for formula in page.select("span.math, div.math"):
        for text in formula.find_all(string=FORMULA):
            found = FORMULA.search(text)
            assert found is not None
            display = found["display"] is not None
            text.replace_with(mathml(found["display"] or found["inline"], display))


def lead(href: str, name: str, pages: Pages) -> str:
    """Where a link of the page `name` leads: to a page of the book, or to the published ones."""
    target, _, anchor = href.partition("#")
    if "://" in href or href.startswith("mailto:"):
        return href
    place = normpath(join(dirname(name), target)) if target else name
    page = place if place in pages else re.sub(r"\.(ipynb|md|html)$", ".xhtml", place)
    if page in pages:
        there = pages[page].find(id=anchor) is not None
        return os.path.relpath(page, dirname(name) or ".") + (f"#{anchor}" if there else "")
    return published() + re.sub(r"\.(ipynb|md|xhtml)$", ".html", place)


def mended(folder: Path) -> Pages:
    """The pages below `folder`, fit for a reader."""
    pages = {
        path.relative_to(folder).as_posix(): BeautifulSoup(path.read_text(), "html.parser")
        for path in sorted(folder.rglob("*.xhtml"))
    }
    for name, page in pages.items():
        for extra in page.select(EXTRA):
            extra.decompose()
        _set(page)
        for link in page.find_all("a", href=True):
            link["href"] = lead(str(link["href"]), name, pages)
    return pages


def check(name: str, html: str, files: set[str]) -> None:
    """Raise `EpubError` for a page that is not well formed or misses a picture."""
    try:
        tree = ElementTree.fromstring(html)
    except ElementTree.ParseError as reason:
        raise EpubError(f"{name} is not well formed: {reason}") from None
    for image in tree.iter("{http://www.w3.org/1999/xhtml}img"):
        source = image.get("src", "")
        if not source.startswith("data:") and normpath(join(dirname(name), source)) not in files:
            raise EpubError(f"{name} shows a picture that is not there: {source}")


def write(folder: Path = BUILT, target: Path = TARGET) -> Path:
    """Pack what Sphinx has written to `folder` into `target`. Raises `EpubError`."""
    if not (folder / "content.opf").exists():
        raise EpubError(f"{folder} has no book: make epub builds it first")
    manifest = (folder / "content.opf").read_text()
    listed = re.findall(r'<item [^>]*?href="([^"]+)"', manifest)
    pages = mended(folder)
    for name, page in pages.items():
        html = str(page)
        check(name, html, set(listed))
        if page.find("math"):
            item = rf'(href="{re.escape(name)}" media-type="[^"]+") */>'
            manifest = re.sub(item, r'\1 properties="mathml" />', manifest)
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as book:
        book.writestr("mimetype", "application/epub+zip", zipfile.ZIP_STORED)
        book.write(folder / "META-INF" / "container.xml", "META-INF/container.xml")
        book.writestr("content.opf", manifest)
        for name in listed:
            if name in pages:
                book.writestr(name, str(pages[name]))
            elif name == "toc.ncx":  # older readers do not resolve "book/../chapters"
                contents = re.sub(r'src="[^"/]+/\.\./', 'src="', (folder / name).read_text())
                book.writestr(name, contents)
            else:
                book.write(folder / name, name)
    return target


def main() -> int:
    try:
        path = write()
    except EpubError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{path}, {path.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
