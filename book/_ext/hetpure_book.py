"""What the book does to its pages beyond Jupyter Book: labels of citations, and finished pages.

Citations read "[Pei et al., 2025a]", in the text and in the list of references. After the build
every page is finished once: errata codes and symbols become links, links to equations, references,
terms, errata and symbols get previews, tables can scroll, figures say where they are from, and
scripts that would ask another host go. All of it happens at build time; the pages need no network.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import sphinxcontrib.bibtex.plugin
from bs4 import BeautifulSoup, NavigableString, Tag
from docutils import nodes
from hetpure_symbols import NOTATION, anchor_symbols, link_symbols, symbol_preview
from pybtex.plugin import register_plugin
from sphinx.application import Sphinx
from sphinxcontrib.bibtex.style.referencing import BracketStyle
from sphinxcontrib.bibtex.style.referencing.label import LabelReferenceStyle

from hetpure_lab.evidence.compare import ARITHMETIC, VERDICTS
from hetpure_lab.report import plain
from hetpure_lab.report.citations import Style
from hetpure_lab.report.release import project, published
from hetpure_lab.report.tables import verdict

ERRATA = "book/errata.html"
CODE = re.compile(r"\b([A-E]\d{1,2})\b")
NO_LINKS_IN = ["a", "code", "pre", "script", "style", "h1", "h2", "h3", "h4", "title", "svg"]
LONG = 12  # rows of a table above which hetpure.js clips it, with a filter
SHOWN_LINES = 3  # of the code of a check
QUOTED = 30_000  # characters of a page: the script of all of them stays under a megabyte
SHORT = 158  # characters of a description that search engines show


# ---- citations -------------------------------------------------------------------------------


def _semicolons() -> BracketStyle:
    return BracketStyle(sep="; ", sep2="; ", last_sep="; ")


@dataclass
class ReferenceStyle(LabelReferenceStyle):
    """References by those labels, several of them apart by semicolons."""

    bracket_parenthetical: BracketStyle = field(default_factory=_semicolons)


# ---- the address -----------------------------------------------------------------------------


def address(app: Sphinx, config) -> None:
    """The repository's address and the version from pyproject.toml."""
    about = project()
    config.html_theme_options["repository_url"] = about["urls"]["Repository"].rstrip("/")
    config.version = config.release = about["version"]
    config.epub_title, config.epub_identifier = config.html_title, published()


# ---- e-readers -------------------------------------------------------------------------------

THEMES = ("sphinx_book_theme", "pydata_sphinx_theme", "sphinx_thebe", "sphinx_comments")


def leave_themes_out(app: Sphinx) -> None:
    """A book for e-readers has no theme, and what themes do to pages fails there."""
    if app.builder.name != "epub":
        return
    for event in ("html-page-context", "build-finished"):
        for listener in list(app.events.listeners.get(event, ())):
            if listener.handler.__module__.startswith(THEMES):
                app.disconnect(listener.id)


# ---- descriptions ----------------------------------------------------------------------------


def describe(app: Sphinx, pagename, templatename, context, doctree) -> None:
    """A description for search engines, and a card for those who get sent the link."""
    if doctree is None:
        return
    words = next(filter(None, map(_sentence, doctree.findall(nodes.paragraph))), "")
    if len(words) > SHORT:
        words = words[:SHORT].rsplit(" ", 1)[0] + " …"
    title = re.sub("<[^>]*>", "", context.get("title", "")) or app.config.project
    card = f"{published()}_static/card.png"
    said = {"og:title": title, "og:description": words, "og:type": "article", "og:image": card}
    soup = BeautifulSoup("", "html.parser")
    metas = [soup.new_tag("meta", attrs={"property": k, "content": v}) for k, v in said.items()]
    metas.append(soup.new_tag("meta", attrs={"name": "description", "content": words}))
    metas.append(
        soup.new_tag("meta", attrs={"name": "twitter:card", "content": "summary_large_image"})
    )
    context["metatags"] = context.get("metatags", "") + "\n".join(map(str, metas))


def _sentence(paragraph: nodes.paragraph) -> str:
    """A paragraph of text outside quotes and boxes, formulas without their backslashes."""
    if not isinstance(paragraph.parent, nodes.section):
        return ""
    text = re.sub(r"\\(?:learned|abar|epsilon)\b", "", " ".join(paragraph.astext().split()))
    text = re.sub(r"\s*\[[^\]]*\d{4}[^\]]*\]", "", text)
    return text if len(text) > 60 else ""


# ---- finished pages --------------------------------------------------------------------------


def finish(app: Sphinx, exception: Exception | None) -> None:
    """Finish every page; write the previews that their links ask for."""
    if exception or app.builder.format != "html" or app.builder.name != "html":
        return
    out = Path(app.outdir)
    pages = {
        p.relative_to(out).as_posix(): BeautifulSoup(p.read_text(), "html.parser")
        for p in written(out)
    }
    shutil.copytree(Path(app.srcdir) / "results", out / "results", dirs_exist_ok=True)
    for path in sorted((Path(app.srcdir) / "chapters").glob("*.ipynb")):
        notebook = plain.plain(nbformat.read(path, as_version=4), path.name, plain.online)
        nbformat.write(notebook, out / "_sources" / "chapters" / path.name)
    card = Path(app.srcdir) / "figures" / "card.png"
    if card.exists():
        shutil.copy(card, out / "_static" / "card.png")
    codes = anchor_errata(pages[ERRATA]) if ERRATA in pages else set()
    symbols = anchor_symbols(pages[NOTATION]) if NOTATION in pages else {}
    repository = app.config.html_theme_options.get("repository_url", "")
    # a build writes only pages that changed: the others are finished. A redirect is no page
    unfinished = "html:not([data-finished])"
    fresh = {name: page for name, page in pages.items() if page.select_one(unfinished)}
    for name, page in fresh.items():
        page.html["data-finished"] = "true"
        quieten(page)
        lead_to_pages(page, name, set(pages))
        launch_plain(page)
        list_references(page)
        link_errata(page, codes, name)
        if name.startswith("chapters/"):
            link_symbols(page, symbols, name)
        scroll_tables(page)
        colour_verdicts(page)
        keep_intervals_whole(page)
        fold_checks(page)
        fold_sources(page)
        tell_figures(page, Path(app.srcdir), name, repository)
    for name, page in fresh.items():
        illustrate(page, pages, name)
    wanted = {name: preview_links(page, name) for name, page in pages.items()}
    found = previews(pages, {key for keys in wanted.values() for key in keys})
    keep(out / "_static" / "previews.js", "hetpurePreviews", found)
    texts = {name: searchable(pages[f"{name}.html"]) for name in sorted(app.env.found_docs)}
    keep(out / "_static" / "texts.js", "hetpureTexts", texts)
    for name, page in pages.items():
        for key, links in wanted[name].items():
            for link in links if key in found else ():
                link["data-preview"] = key
        (out / name).write_text(str(page))


def written(out: Path) -> list[Path]:
    """All pages of the book, with those that extensions write; what is in _static has no theme."""
    paths = (path.relative_to(out) for path in out.rglob("*.html"))
    return sorted(out / path for path in paths if path.parts[0] != "_static")


def keep(path: Path, name: str, content: dict[str, str]) -> None:
    """A script that sets a name: what pages may load where they may not fetch, from files."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    path.write_text(f"window.{name} = {text};\n")


def searchable(page: BeautifulSoup) -> str:
    """The text of a page, as far as the search quotes it."""
    text = "".join(part for part in article(page).strings if part != "#")  # no signs of anchors
    return " ".join(text.split())[:QUOTED]


def article(page: BeautifulSoup) -> Tag:
    """The text of a page."""
    return page.find("article") or page.body or page


def quieten(page: BeautifulSoup) -> None:
    """Take out what makes the browser complain.

    The live-code loader is declared twice, which is a script error, and is not used. Preloaded
    fonts are refused from files. A first visit has no theme stored, which the theme reports as an
    error. Arrows that open a part of the contents have no name to be read aloud.
    """
    for arrow in page.select("nav details > summary:not([aria-label])"):
        link = arrow.find_parent("li").find("a")
        arrow["aria-label"] = f"pages below {link.get_text(strip=True)}" if link else "more pages"
    for script in page.find_all("script"):
        if "THEBE_JS_URL" in script.text or "thebe" in script.get("src", ""):
            script.decompose()
        elif 'localStorage.getItem("mode") || ""' in script.text:
            script.string = script.text.replace('("mode") || ""', '("mode") || "auto"')
    for link in page.find_all("link"):
        if "thebe" in link.get("href", "") or link.get("as") == "font":
            link.decompose()


def lead_to_pages(page: BeautifulSoup, name: str, pages: set[str]) -> None:
    """Lead links to sources, as outputs of notebooks have them, to the pages made of these."""
    folder = Path("/" + name).parent
    for link in article(page).find_all("a", href=re.compile(r"\.(ipynb|md)(#|$)")):
        target, mark, anchor = link["href"].partition("#")
        place = (folder / target).resolve().relative_to("/").with_suffix(".html").as_posix()
        if "://" not in target and place in pages:
            link["href"] = str(Path(target).with_suffix(".html")) + mark + anchor


# Notebooks that need no MyST lie for Colab on a branch (`.ci/notebooks`), for Binder in a folder
# (`postBuild`).
PLAIN = {
    r"^(https://colab\..*)/blob/[^/]+/chapters/": r"\1/blob/notebooks/",
    r"^(https://mybinder\..*)/tree/chapters/": r"\1/tree/out/lab/",
}


def launch_plain(page: BeautifulSoup) -> None:
    """Lead launch buttons to notebooks as every notebook program shows them."""
    for link in page.select(".dropdown-launch-buttons a[href]"):
        for source, target in PLAIN.items():
            link["href"] = re.sub(source, target, link["href"])


def list_references(page: BeautifulSoup) -> None:
    """Entries of the reference list are items of a list: their own role is deprecated."""
    for entry in page.select(".citation-list > .citation"):
        entry["role"] = "listitem"


def anchor_errata(page: BeautifulSoup) -> set[str]:
    """Give each row of the errata an anchor; the codes."""
    codes = set()
    for row in article(page).find_all("tr"):
        code = row.find("td").get_text(strip=True) if row.find("td") else ""
        if CODE.fullmatch(code):
            row["id"] = f"erratum-{code.lower()}"
            codes.add(code)
    return codes


def link_errata(page: BeautifulSoup, codes: set[str], name: str) -> None:
    """Make every errata code of the text a link to its row."""
    target = ("" if name == ERRATA else "../" * name.count("/") + ERRATA) + "#erratum-"
    for text in article(page).find_all(string=CODE):
        inside = [parent.name for parent in text.parents]
        row = text.find_parent("tr")
        if set(inside) & set(NO_LINKS_IN) or text.find_parent(class_="math"):
            continue
        if row is not None and row.get("id") == f"erratum-{text.strip().lower()}":
            continue
        parts: list[str | Tag] = []
        for i, piece in enumerate(CODE.split(text)):
            if i % 2 and piece in codes:
                link = page.new_tag("a", attrs={"class": "erratum", "href": target + piece.lower()})
                link.string = piece
                parts.append(link)
            elif piece:
                parts.append(NavigableString(piece))
        text.replace_with(*parts)


def scroll_tables(page: BeautifulSoup) -> None:
    """Let wide tables scroll by themselves, by mouse, finger and keyboard, and fill empty heads."""
    for i, table in enumerate(article(page).find_all("table")):
        # rows that links lead to are never hidden
        if len(table.select("tbody > tr")) > LONG and not table.select("tr[id]"):
            table["class"] = [*table.get("class", ()), "long"]
        for head in table.find_all("th"):
            if not head.get_text(strip=True) and not head.find("img"):
                head.name = "td"
        caption = table.find("caption") or entitled(page, table)
        said = next(caption.stripped_strings, "")
        box = page.new_tag("div", attrs={"class": "table-box", "tabindex": "0", "role": "region"})
        box["aria-label"] = f"Table {i + 1}: {said[:80]}"
        (table.find_parent(class_="pst-scrollable-table-container") or table).wrap(box)


def entitled(page: BeautifulSoup, table: Tag) -> Tag:
    """The caption that a table is given: the heading that it stands under, for those who are read
    to. Others see that heading.
    """
    heading = table.find_previous(["h1", "h2", "h3"])
    caption = page.new_tag("caption", attrs={"class": "visually-hidden"})
    caption.string = (heading or table).get_text(" ", strip=True).rstrip("#")
    table.insert(0, caption)
    return caption


def colour_verdicts(page: BeautifulSoup) -> None:
    """A verdict of a table, and of a claim below its title, has a sign and a colour."""
    for bold in article(page).select(":is(td, td > p, h1 + p) > strong"):
        if (word := bold.get_text()) in (*VERDICTS, *ARITHMETIC):
            bold.replace_with(BeautifulSoup(verdict(word), "html.parser"))


def keep_intervals_whole(page: BeautifulSoup) -> None:
    """A cell's interval, ``64.1 [51.6, 76.6]``, stays on one line."""
    interval = re.compile(r"-?[\d.]+ \[[^\]]*\]")
    for cell in page.select("table :is(td, th)"):
        for text in cell.find_all(string=interval):
            text.replace_with(interval.sub(lambda m: m[0].replace(" ", "\u00a0"), text))


def fold_checks(page: BeautifulSoup) -> None:
    """Fold long code whose output says what holds: the sentence is enough for most."""
    for code in article(page).select("div.cell.tag_nbval-check-output > .cell_input"):
        if code.get_text().count("\n") > SHOWN_LINES:
            fold = page.new_tag("details", attrs={"class": "hide above-input"})
            head = page.new_tag("summary")
            head.string = "the code of this check"
            code.wrap(fold)
            fold.insert(0, head)


def fold_sources(page: BeautifulSoup) -> None:
    """Fold the module's own code, which a cell shows beside its transcription, under its names."""
    for output in article(page).select("div.cell_output:has(> .highlight-python)"):
        codes = output.find_all("div", class_="highlight-python", recursive=False)
        names = [re.search(r"\b(?:def|class) (\w+)", code.get_text()) for code in codes]
        fold = page.new_tag("details", attrs={"class": "module"})
        head = page.new_tag("summary")
        head.string = "the module's own: " + ", ".join(name[1] for name in names if name)
        codes[0].insert_before(fold)
        fold.extend([head, *codes])


# ---- where figures are from ------------------------------------------------------------------


def tell_figures(page: BeautifulSoup, source: Path, name: str, repository: str) -> None:
    """Beside each figure: what drew it, from which records, at which commit."""
    root = "../" * name.count("/")
    for image in article(page).find_all("img", src=re.compile("_images/")):
        sidecar = source / "figures" / f"{Path(image['src']).stem}.json"
        if sidecar.exists():
            about = json.loads(sidecar.read_text())
            where = about["function"].rpartition(".")[0].replace(".", "/") + ".py"
            address = f"{repository}/blob/{about['commit']}/{where}"
            caption = about["function"].rpartition(".")[2]
            told = origin(page, about["records"], root, caption, address)
            (image.find_parent("figure") or image).append(told)
    notebook = source / Path(name).with_suffix(".ipynb")
    if notebook.exists():
        images = article(page).select(".cell_output img[src*='_images/']")
        for image, about in zip(images, notebook_figures(notebook)):
            if "width" in about:  # twice as many pixels as it is wide
                image["width"] = about["width"]
            address = f"{repository}/blob/{about.get('commit', 'main')}/chapters/{notebook.name}"
            told = origin(page, about.get("records", []), root, "the cell above", address)
            shown = image.find_parent("a") or image  # a photograph leads to itself in full
            shown.wrap(page.new_tag("div", attrs={"class": "drawn"})).append(told)


def notebook_figures(path: Path) -> list[dict]:
    """What a notebook notes beside its pictures, in the order of the page."""
    found = []
    for cell in json.loads(path.read_text())["cells"]:
        for output in cell.get("outputs", ()):
            for kind in ("image/svg+xml", "image/png"):
                if kind in output.get("data", {}):
                    found.append(output.get("metadata", {}).get(kind, {}))
                    break
    return found


def origin(page: BeautifulSoup, records: list[str], root: str, what: str, address: str) -> Tag:
    """A note in the margin: a link to the code, and the records behind a click."""
    note = page.new_tag("div", attrs={"class": "origin"})
    code = page.new_tag("a", attrs={"href": address})
    code.string = what
    note.extend(["drawn by ", code])
    if records:
        fold, head = page.new_tag("details"), page.new_tag("summary")
        head.string = f"{len(records)} file{'s' if len(records) > 1 else ''} of records"
        fold.append(head)
        for record in records:
            link = page.new_tag("a", attrs={"href": root + record})
            link.string = record.rpartition("/")[2].removesuffix(".jsonl")
            fold.append(link)
        note.append(fold)
    return note


def illustrate(page: BeautifulSoup, pages: dict[str, BeautifulSoup], name: str) -> None:
    """Give each chapter's card the first picture of its chapter."""
    for card in article(page).select(".chapter-card"):
        stem = next(c for c in card["class"] if re.match(r"chapter-\d", c)).removeprefix("chapter-")
        # as docutils writes a class
        named = (p for p in pages if Path(p).stem.replace("_", "-") == stem)
        chapter = pages.get(next(named, ""))
        picture = chapter and article(chapter).find("img", src=re.compile("_images/"))
        if picture:
            source = "../" * name.count("/") + picture["src"].removeprefix("../")
            card.insert(0, page.new_tag("img", attrs={"class": "thumb", "alt": "", "src": source}))


# ---- previews --------------------------------------------------------------------------------


def preview_links(page: BeautifulSoup, name: str) -> dict[str, list[Tag]]:
    """Links into pages of the book by target, ``book/errata.html#erratum-e3``."""
    found: dict[str, list[Tag]] = {}
    folder = Path("/" + name).parent
    for link in article(page).find_all("a", href=re.compile("#.")):
        target, _, anchor = link["href"].partition("#")
        if "://" in target or "headerlink" in link.get("class", ()):
            continue
        place = (folder / target).resolve().relative_to("/").as_posix() if target else name
        found.setdefault(f"{place}#{anchor}", []).append(link)
    return found


def previews(pages: dict[str, BeautifulSoup], wanted: set[str]) -> dict[str, str]:
    """HTML to show on hover for each target that is an equation, a reference, a term, an erratum,
    a symbol, an exercise or a solution.
    """
    found = {}
    for key in sorted(wanted):
        name, _, anchor = key.partition("#")
        element = pages[name].find(id=anchor) if name in pages else None
        if element is not None and (said := preview(element)):
            found[key] = said
    return found


def preview(element: Tag) -> str:
    """What a target shows on hover, or "" if it is no small thing."""
    if "math" in element.get("class", ()):
        return _plain(element)
    if element.name == "dt":
        term = element.get_text().strip("# ")
        return f"<p><strong>{term}</strong></p>{_plain(element.find_next('dd'))}"
    if {"citation", "exercise", "solution"} & set(element.get("class", ())):
        return _plain(element)
    if element.name == "tr" and element["id"].startswith("symbol-"):
        return symbol_preview(element)
    if element.name == "tr":
        cells = element.find_all("td")
        return f"<p><strong>{cells[0].get_text()}</strong> {cells[1].get_text()}</p>" + "".join(
            f"<div>{c.decode_contents()}</div>" for c in cells[2:]
        )
    return ""


def _plain(element: Tag) -> str:
    """The content without anchors, links to itself and numbers beside formulas."""
    copy = BeautifulSoup(str(element), "html.parser")
    for extra in copy.select(".headerlink, .eqno, .backrefs"):
        extra.decompose()
    for tag in copy.find_all(True):
        tag.attrs.pop("id", None)
        tag.attrs.pop("href", None)
    return str(copy)


# ---- exercises -------------------------------------------------------------------------------


def share_handlers(app: Sphinx) -> None:
    """Let the single page know every node that the pages know: Sphinx looks for those of "html"
    only where no extension has named "singlehtml", and that of exercises names it.
    """
    handlers = app.registry.translation_handlers
    handlers["singlehtml"] = handlers.get("html", {}) | handlers.get("singlehtml", {})


def finish_exercises(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Mend what the extension writes: one id for the contents of all exercises and solutions, and
    a space inside the link of a solution's title.
    """
    for section in doctree.findall(nodes.section):
        if {"exercise-content", "solution-content"} & set(section["ids"]):
            section["ids"] = []
            for link in section.parent[0].findall(nodes.reference):
                words = next(link.findall(nodes.Text))
                if words.startswith(" "):
                    link.parent.insert(link.parent.index(link), nodes.Text(" "))
                    words.parent.replace(words, nodes.Text(words.lstrip()))


# ---- the extension ---------------------------------------------------------------------------


def setup(app: Sphinx) -> dict:
    register_plugin("pybtex.style.formatting", "hetpure", Style)
    plugin = sphinxcontrib.bibtex.plugin
    plugin.register_plugin("sphinxcontrib.bibtex.style.referencing", "hetpure", ReferenceStyle)
    app.connect("config-inited", address, priority=100)
    app.connect("builder-inited", share_handlers)
    app.connect("builder-inited", leave_themes_out, priority=900)
    app.connect("doctree-resolved", finish_exercises)
    app.connect("html-page-context", describe)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
