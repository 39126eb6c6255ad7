"""The page that `make run` writes: ``python -m hetpure_lab.report.runpage out/05_cifar10.ipynb``.

The notebook becomes plain in place (see `plain`), and a page stands beside it: one file that needs
no other, with its mathematics, its style and what makes long tables fold. It asks no other host.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import nbformat
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter
from nbformat import NotebookNode

from hetpure_lab.common.paths import ROOT
from hetpure_lab.report import plain

TEMPLATE = ROOT / "book" / "run.html.j2"
STATIC = ROOT / "book" / "_static"


def mathematics() -> str:
    """The script that sets formulas, as the book's own package has it."""
    package = Path(find_spec("sphinx-mathjax-offline").submodule_search_locations[0])
    return (package / "static" / "mathjax" / "tex-svg-full.js").read_text()


def page(notebook: NotebookNode, title: str) -> str:
    """A plain notebook as one HTML file."""
    notebook = nbformat.from_dict(notebook)
    notebook.cells = [c for c in notebook.cells if "remove-cell" not in c.metadata.get("tags", ())]
    exporter = HTMLExporter(template_file=str(TEMPLATE), embed_images=True)
    style, script = (STATIC / f"hetpure.{kind}" for kind in ("css", "js"))
    inside = {
        "title": title,
        "hetpure_style": style.read_text(),
        "hetpure_script": script.read_text(),
        "mathematics": mathematics(),
    }
    return finish(exporter.from_notebook_node(notebook, {"metadata": {"name": title}} | inside)[0])


def finish(html: str) -> str:
    """What the template cannot say: boxes that scroll by keyboard, and heads that are not empty."""
    soup = BeautifulSoup(html, "html.parser")
    for i, table in enumerate(soup.find_all("table"), 1):
        box = soup.new_tag("div", attrs={"class": "table-box", "tabindex": "0", "role": "region"})
        box["aria-label"] = f"Table {i}"
        table.wrap(box)
        for head in table.find_all("th"):
            if not head.get_text(strip=True):
                head.name = "td"
    for block in soup.find_all("pre"):
        block["tabindex"] = "0"
    for anchor in soup.select("a.anchor-link"):
        anchor["aria-hidden"], anchor["tabindex"] = "true", "-1"
    return str(soup)


def write(path: Path) -> Path:
    """Make the notebook of a run plain, and write the page beside it."""
    notebook = nbformat.read(path, as_version=4)
    notebook = plain.plain(notebook, path.name, plain.near(path.parent.resolve()))
    nbformat.write(notebook, path)
    title = next((c.source for c in notebook.cells if c.source.startswith("# ")), path.stem)
    target = path.with_suffix(".html")
    target.write_text(page(notebook, title.splitlines()[0].removeprefix("# ")))
    return target


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m hetpure_lab.report.runpage", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("notebook", type=Path, help="a chapter that papermill has run")
    path = parser.parse_args(argv).notebook
    if not path.exists():
        print(f"{path} is not there: make run writes it", file=sys.stderr)
        return 2
    print(write(path))
    return 0


if __name__ == "__main__":
    sys.exit(main())
