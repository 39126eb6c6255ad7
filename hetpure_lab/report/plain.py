"""A chapter for readers without MyST: in any Jupyter, on Colab, on the page that `make run` writes.

Chapters are written in MyST, which the book renders. Elsewhere its directives, roles and macros are
raw text, and links between sources lead nowhere. `plain` turns a chapter into what every notebook
program shows: standard Markdown and LaTeX, folded solutions and helpers, alternative texts, no
stderr, and links that lead somewhere from where the notebook will lie. What the run found stands at
the top.

    python -m hetpure_lab.report.plain out/lab    # all chapters, for JupyterLab
"""

from __future__ import annotations

import argparse
import copy
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import nbformat
import yaml
from nbformat import NotebookNode

from hetpure_lab.common.paths import ROOT
from hetpure_lab.report import citations
from hetpure_lab.report.release import published

CHAPTERS = ROOT / "chapters"
BUILT = ROOT / "book" / "_build" / "html"
LEARNED = "#a54a08"  # the colour of learned parts on white, as in book/_static/hetpure.css
ANSWER, FIRST = "run-answer", "run_answer_first"  # a tag, and a mark that it was copied
IMAGES = ("image/png", "image/svg+xml")
Lead = Callable[[str], str]  # from a link in a chapter's source to where it leads

DIRECTIVE = re.compile(
    r"^(?P<fence>`{3,}|:{3,})\{(?P<name>[\w:-]+)\}[ ]*(?P<title>[^\n]*)\n"
    r"(?P<options>(?::[\w-]+:[^\n]*\n)*)(?P<body>.*?)\n(?P=fence)[ ]*$",
    re.MULTILINE | re.DOTALL,
)
EQUATION = re.compile(r"\$\$(?P<body>(?:(?!\$\$).)*)\$\$ \((?P<label>[\w-]+)\)", re.DOTALL)
ROLE = re.compile(r"\{(?P<name>cite(?::[pt])?|eq|prf:ref|ref)\}`(?P<keys>[^`]+)`")
NAMED = {"prf:algorithm": "Algorithm", "exercise": "Exercise"}  # directives that are numbered
LINK = re.compile(r"(?P<head>\]\(|<a\b[^>]*?\bhref=\")(?P<href>[^)\"\s]+)(?P<tail>[)\"])")


# ---- what the book numbers ---------------------------------------------------------------------


@cache
def numbers() -> dict[str, tuple[str, str]]:
    """Labels of equations, algorithms, exercises and solutions: the chapter that has it, and its
    name in the book: "(2.7)", "Algorithm 3.1", "Exercise 4.2", "Solution to Exercise 4.2".
    """
    found, counted = {}, Counter()
    for path in sorted(CHAPTERS.glob("*.ipynb")):  # numbers go on in a chapter's next notebook
        text = "\n".join(
            c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown"
        )
        chapter = int(path.name.partition("_")[0])
        names = {"({})": [m["label"] for m in EQUATION.finditer(text)]}
        for directive, word in NAMED.items():
            labels = re.findall(rf"\{{{directive}\}}[^\n]*\n:label: ([\w-]+)", text)
            names[f"{word} {{}}"] = labels
        for name, labels in names.items():
            for label in labels:
                counted[chapter, name] += 1
                found[label] = (path.name, name.format(f"{chapter}.{counted[chapter, name]}"))
        for of, label in re.findall(r"\{solution\} ([\w-]+)\n:label: ([\w-]+)", text):
            found[label] = (path.name, f"Solution to {found[of][1]}")
    return found


@cache
def macros() -> dict[str, str | list]:
    """The book's own LaTeX commands, from its configuration."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text())["sphinx"]["config"]
    return config["mathjax3_config"]["tex"]["macros"]


# ---- text ----------------------------------------------------------------------------------------


def translate(text: str, chapter: str, lead: Lead) -> str:
    """MyST as the book's chapters use it, as standard Markdown with LaTeX.

    `chapter` is the file name of the chapter: its equations are linked within the page, those of
    others where `lead` says.
    """
    for _ in range(2):  # a box may hold a box
        text = DIRECTIVE.sub(_directive, text)
    text = EQUATION.sub(_equation, text)
    text = LINK.sub(lambda m: m["head"] + lead(m["href"]) + m["tail"], text)
    text = ROLE.sub(lambda m: _role(m["name"], m["keys"], chapter, lead), text)
    return expand(text)


def _directive(found: re.Match) -> str:
    options = dict(re.findall(r"^:([\w-]+): *(.*)$", found["options"], re.MULTILINE))
    title, body, label = found["title"], found["body"].strip("\n"), options.get("label", "")
    name = numbers().get(label, ("", "?"))[1]
    if found["name"] == "exercise":
        return f'<a id="{label}"></a>\n\n### {name}\n\n{body}'
    if found["name"] == "solution":
        head = f'<details id="{label}"><summary>{name}</summary>'
        return f"{head}\n\n{body}\n\n</details>"
    if found["name"] == "admonition" and "dropdown" in options.get("class", ""):
        return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>"
    if found["name"] == "prf:algorithm":
        title = f"{name}: {title}"
    elif found["name"] != "admonition":
        return found[0]  # another directive is a code block here, as before
    return "\n".join(f"> {line}".rstrip() for line in f"**{title}**\n\n{body}".splitlines())


def _equation(found: re.Match) -> str:
    label = found["label"]
    number = numbers().get(label, ("", "(?)"))[1].strip("()")
    return f'<a id="{label}"></a>\n\n$${found["body"].rstrip()}\n\\tag{{{number}}}\n$$'


def _role(name: str, keys: str, chapter: str, lead: Lead) -> str:
    if name.startswith("cite"):
        known, where = citations.labels(), lead("../book/references.md")
        said = (known.get(key.strip(), key) for key in keys.split(","))
        return "[" + "; ".join(f"[{label}]({where})" for label in said) + "]"
    other, _, label = keys.rstrip(">").rpartition("<")  # {ref}`other words <label>`
    home, word = numbers().get(label, (chapter, "?"))
    where = f"#{label}" if home == chapter else lead(home)
    return f"[{other.strip() or word}]({where})"


def expand(text: str) -> str:
    """The book's own LaTeX commands written out; what is learned in its colour."""
    for name, meaning in macros().items():
        if isinstance(meaning, str):
            text = re.sub(rf"\\{name}(?![A-Za-z])", lambda _, m=meaning: m + " ", text)
        else:
            text = _coloured(text, f"\\{name}")
    return text


def _coloured(text: str, command: str) -> str:
    """``\\learned{x}`` as colour, with braces inside."""
    while (start := text.find(command + "{")) >= 0:
        depth, end = 0, start + len(command)
        for end in range(start + len(command), len(text)):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            if depth == 0:
                break
        inside = text[start + len(command) + 1 : end]
        text = f"{text[:start]}\\textcolor{{{LEARNED}}}{{{inside}}}{text[end + 1 :]}"
    return text


# ---- where links lead ----------------------------------------------------------------------------


def _source(href: str) -> tuple[Path, str] | None:
    """The file of the checkout that a chapter's link means, and its anchor; None for others."""
    target, mark, anchor = href.partition("#")
    if not target or "://" in href or href.startswith(("mailto:", "data:", "/")):
        return None
    place = Path(os.path.normpath(CHAPTERS / target))
    return (place, mark + anchor) if place.is_relative_to(ROOT) else None


def online(href: str) -> str:
    """Where a link leads from anywhere: to the published pages and records."""
    if (found := _source(href)) is None:
        return href
    place, anchor = found
    name = place.relative_to(ROOT).as_posix()
    return published() + re.sub(r"\.(ipynb|md)$", ".html", name) + anchor


def near(folder: Path) -> Lead:
    """Where links lead from `folder`: to its own chapters, to built pages, to files of the
    checkout, and online where there is none of these.
    """

    def lead(href: str) -> str:
        if (found := _source(href)) is None:
            return href
        place, anchor = found
        built = (BUILT / place.relative_to(ROOT)).with_suffix(".html")
        for choice in (folder / place.name if place.parent == CHAPTERS else None, built, place):
            if choice is not None and choice.exists():
                return os.path.relpath(choice, folder) + anchor
        return online(href)

    return lead


# ---- notebooks -----------------------------------------------------------------------------------


def plain(notebook: NotebookNode, chapter: str, lead: Lead) -> NotebookNode:
    """A copy of `notebook`, which is `chapter` or a run of it, for readers without MyST."""
    done = copy.deepcopy(notebook)
    done.metadata = {k: v for k, v in done.metadata.items() if k in ("kernelspec", "language_info")}
    for cell in done.cells:
        if cell.cell_type == "markdown":
            cell.source = translate(cell.source, chapter, lead)
        elif cell.cell_type == "code":
            _fold(cell)
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
            for output in cell.outputs:
                _output(output, cell, chapter, lead)
    answer_first(done)
    return done


def _fold(cell: NotebookNode) -> None:
    """Hide what the book hides: JupyterLab and Colab have a mark of their own for it."""
    tags = set(cell.metadata.get("tags", ()))
    if tags & {"hide-input", "hide-cell", "remove-cell", "remove-input"}:
        cell.metadata["jupyter"] = {"source_hidden": True}
        cell.metadata["cellView"] = "form"


def _output(output: NotebookNode, cell: NotebookNode, chapter: str, lead: Lead) -> None:
    data = output.get("data", {})
    if "text/markdown" in data:
        data["text/markdown"] = translate(data["text/markdown"], chapter, lead)
    if "text/html" in data:
        data["text/html"] = LINK.sub(
            lambda m: m["head"] + lead(m["href"]) + m["tail"], data["text/html"]
        )
    alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
    for kind in IMAGES:
        if kind in data:
            output.metadata.setdefault(kind, NotebookNode())["alt"] = alt


def answer_first(notebook: NotebookNode) -> None:
    """Put what the run found right below the title, if a cell is tagged as saying it."""
    head = notebook.cells[0]
    for cell in notebook.cells:
        if ANSWER in cell.metadata.get("tags", ()) and FIRST not in head.metadata:
            found = [o.data["text/markdown"] for o in cell.outputs if "text/markdown" in o.data]
            title, _, rest = head.source.partition("\n")
            head.source = "\n\n".join([title, *found, rest.strip()])
            head.metadata[FIRST] = bool(found)


def write(folder: Path, chapters: Sequence[Path]) -> list[Path]:
    """Plain copies of `chapters` in `folder`, for a reader to work in. One that is there stays."""
    folder.mkdir(parents=True, exist_ok=True)
    fresh = [path for path in chapters if not (folder / path.name).exists()]
    for path in fresh:  # they link to each other, so all are there first
        (folder / path.name).touch()
    for path in fresh:
        notebook = plain(nbformat.read(path, as_version=4), path.name, near(folder))
        nbformat.write(notebook, folder / path.name)
    return fresh


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m hetpure_lab.report.plain", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("folder", type=Path, help="where the copies go; those there stay")
    for path in write(parser.parse_args(argv).folder.resolve(), sorted(CHAPTERS.glob("*.ipynb"))):
        print(path.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
