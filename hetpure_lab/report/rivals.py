"""One page per registered defence, ``book/rivals/NAME.md``: ``hetpure pages`` writes them.

A page takes everything from the registration: the class and its docstring, the function that is the
defence's own step, its calls, a picture of `figures`, its row beside the paper's, and every record
of it under any attack. What its authors say and how this version differs may stand in a text of its
own, ``book/_rivals/NAME.md``, whose line ``*In short.*`` is also its line in chapter 11; without a
text the docstring speaks.
"""

from __future__ import annotations

import inspect
import os.path
import re
from collections.abc import Iterator
from dataclasses import MISSING
from pathlib import Path

import pandas as pd

from hetpure_lab.common import names, specs
from hetpure_lab.common.paths import ROOT
from hetpure_lab.defences import DEFENCES, capabilities, published
from hetpure_lab.evidence import RESULTS
from hetpure_lab.paper.printed import TABLES
from hetpure_lab.report import pictures, tables

TEXTS = ROOT / "book" / "_rivals"
FIGURES = ROOT / "figures"
BENCH = "cifar10-small"
NOT_RIVALS = ("none", "hetpure")  # no defence, and the book's subject


def slugs() -> list[str]:
    """Every registered defence that has a page, in the order of registration."""
    return [slug for slug in DEFENCES if slug not in NOT_RIVALS]


def title(slug: str) -> str:
    """The title of a page: of its text, or the defence's name."""
    text = TEXTS / f"{slug}.md"
    first = text.read_text().partition("\n")[0] if text.exists() else f"# {names.defence(slug)}"
    said = first.removeprefix("# ")
    return said[:1].upper() + said[1:]


def docstring(slug: str) -> str:
    """What the class says of itself, as Markdown."""
    said = inspect.getdoc(DEFENCES[slug]) or ""
    return re.sub(r":math:`([^`]*)`", lambda m: _formula(m[1]), said).replace("``", "`")


def _formula(tex: str) -> str:
    r"""A formula that pages and outputs of notebooks both show.

    The book reads an output as plain Markdown: no dollars there, and a backslash before punctuation
    vanishes, so that ``\,`` would be a comma. Every punctuation mark has a backslash of its own.
    """
    escaped = re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", rf"\({' '.join(tex.split())}\)")
    return f'<span class="math notranslate nohighlight">{escaped}</span>'


SHORT = "*In short.* "


def idea(slug: str) -> str:
    """A defence in one sentence: of its text, or the first of its docstring."""
    path = TEXTS / f"{slug}.md"
    if path.exists():
        lines = path.read_text().splitlines()
        return next(line.removeprefix(SHORT) for line in lines if line.startswith(SHORT))
    first = " ".join(docstring(slug).partition("\n\n")[0].split())
    return re.split(r"(?<=[.;]) (?=[A-Z$`])", first)[0].rstrip(";")


def page(slug: str, results: Path = RESULTS) -> str:
    """The page of a defence."""
    parts = [_text(slug), _picture(slug), _step(slug), _cost(slug), _measured(slug, results)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _text(slug: str) -> str:
    path = TEXTS / f"{slug}.md"
    said = path.read_text().strip() if path.exists() else f"# {title(slug)}\n\n{docstring(slug)}"
    return f"{said}\n\n*In [chapter 11](../../chapters/11_rivals.ipynb).*"


def _picture(slug: str) -> str:
    path = FIGURES / f"rival-{slug}.png"
    if not path.exists():
        return ""
    alt = f"What {names.defence(slug)} does to four images, row by row."
    caption = (
        "The image, states on the way, the result, and what changed (grey: nothing; black or white:"
        " a quarter of the range)."
    )
    return f"```{{figure}} ../../figures/{path.name}\n:alt: {alt}\n\n{caption}\n```"


def _step(slug: str) -> str:
    settings = specs.parse(slug, DEFENCES)[1]
    try:
        step = pictures.step_of(settings)
    except ValueError:
        return ""
    where = os.path.relpath(inspect.getsourcefile(step), ROOT)
    source = pictures.show_source(step).data
    return f"## Its own step\n\nFrom `{where}`:\n\n{source}"


def _cost(slug: str) -> str:
    lines = [f"{_calls(slug).capitalize()} per answer."]
    if chain := published(slug):
        lines.append(f"At the published length, {names.markup(chain)}: {_calls(chain)}.")
    known = getattr(DEFENCES[slug], "__dataclass_fields__", {}).values()
    if said := ", ".join(f"`{f.name} = {f.default}`" for f in known if f.default is not MISSING):
        lines.append(f"Settings and their defaults: {said}.")
    return "\n\n".join(lines)


def _calls(spec: str) -> str:
    """The price of an answer: "1 denoiser call"."""
    n = tables.cost(spec)
    return f"{n or 'no'} denoiser call{'s' * (n != 1)}"


# ---- what was measured ---------------------------------------------------------------------------


def _measured(slug: str, results: Path) -> str:
    found = list(_records(slug, results))
    command = f"```bash\n{tables.command(slug, BENCH)}\nhetpure audit '{slug}'\n```"
    head = "## What was measured"
    if not found:
        return f"{head}\n\nNothing yet. To measure it:\n\n{command}"
    parts = [head, _against_the_method(slug, results), _beside_the_paper(slug, results)]
    parts.append("Every record of it, the most images first:")
    parts += [_table(pd.DataFrame(found), "long"), f"To repeat it:\n\n{command}"]
    return "\n\n".join(filter(None, parts))


def _records(slug: str, results: Path) -> Iterator[dict]:
    """Every record of a defence in any setting, on any networks, under any attack."""
    rows = [r for r in tables.summaries(results) if r["defence"].partition(":")[0] == slug]
    for row in sorted(rows, key=lambda r: (-r["n"], r["defence"], r["attack"], r["seed"])):
        yield {
            "defence": row["defence"],
            "attack": row["attack"],
            "networks": row["bench"],
            "n": row["n"],
            "clean": tables.percent(row, "clean_single"),
            "attacked": tables.percent(row, "adversarial_single"),
            "record": f"{row['bench']}/{row['file']}",
        }


def _against_the_method(slug: str, results: Path) -> str:
    """What the paired test under exact PGD says of each of its settings, as chapter 11 has it."""
    pairs = tables.against_the_method(BENCH, results=results)
    own = [] if pairs.empty else pairs[pairs["defence"].str.partition(":")[0] == slug].itertuples()
    lines = [
        {
            "it is": row.verdict,
            "defence": row.defence,
            "n": row.n,
            "minus the method, points": row.difference,
            "without attack": row.beside,
        }
        for row in own
    ]
    said = "Under exact PGD, on the same images, after Holm's correction:"
    return f"{said}\n\n{_table(pd.DataFrame(lines))}" if lines else ""


def printed_as(slug: str) -> str:
    """What the names of a defence's rows in the paper's Tables 1, 3 and 5 begin with; "" if it has
    none.
    """
    rows = (row for name in ("Table 1", "Table 3", "Table 5") for row in TABLES[name].rows)
    found = [r.method for r in rows if any(s.partition(":")[0] == slug for s in r.specs)]
    if not found or slug == "at":  # many networks of others, each a row of its own
        return ""
    return found[0] if len(set(found)) == 1 else found[0].partition(" (")[0]


def _beside_the_paper(slug: str, results: Path) -> str:
    method = printed_as(slug)
    if not method:
        return ""
    frame = tables.rival_row(slug, method, BENCH, results)
    said = f"The paper's row *{method}* beside its stand-in on small networks, in per cent:"
    return f"{said}\n\n{_table(frame)}" if len(frame) else ""


def _table(frame: pd.DataFrame, kind: str = "") -> str:
    """A table as HTML that the book can fold, with names for specifications and unbroken cells."""
    written = frame.copy()
    for column in written:
        write = WRITTEN.get(column, tables.unbroken)
        written[column] = written[column].map(write)
    classes = kind if len(frame) > tables.LONG else None
    return written.to_html(index=False, escape=False, border=0, classes=classes)


def _linked(record: str) -> str:
    return tables.linked(record).replace('href="../', 'href="../../')


WRITTEN = {
    "it is": tables.verdict,
    "defence": tables.called,
    "attack": tables.called,
    "networks": names.bench,
    "record": _linked,
}


# ---- the overview in chapter 11 ------------------------------------------------------------------


def overview() -> str:
    """Every defence that has a page, as a list of links with its idea and its price."""
    lines = []
    for slug in slugs():
        purifies = capabilities(specs.parse(slug, DEFENCES)[1]).purifies
        price = _calls(slug) if purifies else "no purification"
        lines.append(f"- [{title(slug)}](../book/rivals/{slug}.md) ({price}): {idea(slug)}")
    return "\n".join(lines)
