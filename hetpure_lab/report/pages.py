"""The generated pages of the book: ``hetpure pages`` writes ``book/equations.md``,
``scorecard.md``, ``findings.md`` and others.

The first maps every element of the paper to its place here, the second holds each claim against the
records, the third is what was found (see `findings`). Every registered defence has a page in
``book/rivals`` (see `rivals`). Verdicts are those of `evidence.compare`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from hetpure_core import HetPure, linear_schedule
from hetpure_lab.audit import faults
from hetpure_lab.common import names
from hetpure_lab.common.paths import ROOT
from hetpure_lab.evidence import RESULTS, ablations, compare, studies
from hetpure_lab.paper import comparisons, elements, printed
from hetpure_lab.paper.comparisons import Comparison
from hetpure_lab.report import attack_cost, findings, landing, rivals, tables, zoo

KINDS = {
    "Eq": "Equations",
    "Alg": "Algorithms",
    "Table": "Tables",
    "Fig": "Figures",
    "Sec": "Appendix sections",
}


# ---- equations.md: where everything is -----------------------------------------------------------

EQUATIONS = """\
# Equations, tables and figures

Every numbered item of the paper {cite:p}`pei2025divide`, the chapter that deals with it, the
function that computes it, and its state. Numbers in the column *here* are this book's. This page is
generated, and a test fails if it is not up to date or if an item has no entry:

```bash
hetpure elements    # the list
hetpure pages                # this page, the scorecard and the findings
```

States are computed, not typed. **done**: the chapters use the functions and define the equations,
and every cell or point that the item shows is measured with the networks in the repository.
**partly**: some of it. **planned**: no chapter, or nothing measured.
"""


def equations(results: Path = RESULTS) -> str:
    """The page that maps the paper to chapters, functions, records and states."""
    rows, parts = elements.listing(results), [EQUATIONS]
    for kind, title in KINDS.items():
        chosen = [row for row in rows if row["element"].startswith(kind)]
        head = (
            "| paper | here | what | chapter | functions | measured | records | state"
            " |\n|---|---|---|---|---|---|---|---|"
        )
        parts.append(f"## {title}\n\n{head}\n" + "\n".join(map(_element, chosen)) + "\n")
    return "\n".join(parts)


def _element(row: dict) -> str:
    here = (
        ", ".join(f"{{eq}}`{label}`" for label in row["labels"]) or ", ".join(row["parts"]) or "–"
    )
    functions = ", ".join(f"`{name}`" for name in row["functions"]) or "–"
    element = elements.ELEMENTS[row["element"]]
    needs_records = (
        row["measured"] != 1 or element.name in printed.TABLES or element.grids or element.study
    )
    measured = f"{row['measured']:.0%}" if needs_records and not row["parts"] else "–"
    chapters = ", ".join(map(_chapter, row["chapters"]))
    cells = (
        row["element"],
        here,
        row["says"],
        chapters,
        functions,
        measured,
        tables.files(row["records"]),
        row["status"],
    )
    return f"| {' | '.join(cells)} |"


def _chapter(number: int) -> str:
    path = elements.chapter(number)
    return f"[{number}](../chapters/{path.name})" if path else str(number)


# ---- scorecard.md: what the records say of each claim --------------------------------------------

SCORECARD = """\
# Scorecard

What the paper {{cite:p}}`pei2025divide` claims, row by row, and what the records of this project
say. This page is generated from `results/` by `hetpure pages`; a test fails if it is not up to
date.

Each line compares the method with another row of the same table. *Paper* is the difference of the
printed numbers in points. *Here* is the paired difference on the same images under the same attack,
one purification, with a 95 % interval over images, and *clean* the difference of the same records
without attack. **One rule** decides here and on every other page: a sign-flip test of the paired
differences, at 5 % after Holm's correction over all defences that met the attack on these networks,
with and without it. The interval says how large a difference is and decides nothing. {coverage}.

A claim is **verified** if the difference is established on the paper's side of zero. It is
**falsified** only by the published networks and protocol; where smaller ones establish the
opposite, it **does not hold at small scale**. Else it is **inconclusive**, or **not tested**.
Scales: {scales}. Where a stand-in could change the verdict, DDIM for the SDE or AutoAttack as
packaged for the corrected one, both lines are shown. A verdict under attack weighs what it costs
without: where clean accuracies differ by more than {equal:.0f} points, the line says so, and at the
floor, where a defence keeps less than half of the undefended accuracy, nothing is decided.

**Families.** Every correction of this book is over one of these, and over all of it:

{families}
"""

COLUMNS = (
    "verdict",
    "scale",
    "against",
    "column",
    "paper",
    "here",
    "clean",
    "images",
    "attack",
    "beside",
    "records",
)
HEAD = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|\n"


def coverage(results: Path = RESULTS) -> str:
    """How often the interval holds, from a simulation on the paired differences that were measured
    on most images.
    """
    known = compare.known("cifar10-small", results)
    rates = compare.rates(
        *(known.cells.get((d, "pgd", 0), {}) for d in ("hetpure", "uniform:t=0.1"))
    )
    if not len(rates[0]):
        return "How often it holds is not known without records"
    shares = {n: compare.coverage(rates[0] - rates[1], n) for n in (16, 32, 64)}
    found = ", ".join(f"in {100 * share:.0f} % of draws of {n}" for n, share in shares.items())
    return f"In a resampling check, this 95 % interval held the true mean {found} images"


def families(results: Path = RESULTS) -> str:
    """Every declared family of tests, and how many tests it has on CIFAR-10 today."""
    known = compare.known("cifar10-small", results)
    ours = sorted({a for d, a, s in known.cells if (d, s) == ("hetpure", 0)})
    sizes = {
        "rivals": [len(known.rivals("hetpure", a)) for a in ours],
        "attacks": [len(known.attacks("hetpure", a)) for a in ours],
        "curve": [len(known.curves("hetpure"))],
        "faults": [len(zoo.words(faults.recorded(zoo.REAL, results)))],
        "pair": [1],
        "study": [
            len(lines(studies.table(name, "cifar10-small", results=results)))
            for name, lines in (("distance", studies.nearer), ("consistency", studies.resampled))
            if studies.path(name, "cifar10-small", results=results).exists()
        ],
    }
    head = "| family | holds | tests, CIFAR-10 |\n|---|---|---|\n"
    return head + "\n".join(
        f"| {name} | {said} | {_sizes(sizes.get(name, []))} |"
        for name, said in compare.FAMILIES.items()
    )


def _sizes(found: Sequence[int]) -> str:
    found = [n for n in found if n]
    if not found:
        return "said beside the table"
    return str(found[0]) if min(found) == max(found) else f"{min(found)} to {max(found)}"


def _line(claim: Comparison, found: dict[str, compare.Known]) -> str:
    known = found.get(claim.table.bench, compare.Known({}))
    seen = comparisons.measure(claim, known)
    if seen is None and claim.variant:
        return ""
    name = f"{claim.rival.method}, {claim.variant}" if claim.variant else claim.rival.method
    verdict = comparisons.verdict(claim, seen)
    scale, cells = "–", ["–"] * 4 + ["", ""]
    if seen:
        j, clean = seen.judged, "" if claim.side == "clean" else unbroken(seen.judged.clean)
        beside = "" if claim.side == "clean" and not j.floor else j.beside
        scale, cells = (
            seen.scale,
            [unbroken(j.difference), clean, str(j.difference.n), names.markup(seen.attack), beside],
        )
        pair = comparisons.cells(claim, seen.attack, known)
        cells.append(tables.files([known.files[cell] for cell in pair]))
    return (
        f"| **{verdict}** | {scale} | {name} | {claim.column} | {claim.claimed:+z.2f} |"
        f" {' | '.join(cells)} |\n"
    )


def unbroken(interval: object) -> str:
    """An interval that a page does not break."""
    return str(interval).replace(" ", "\u00a0")


def counts(lines: Sequence[str]) -> str:
    """How many lines of a table have each verdict, in a sentence."""
    found = Counter(line.split("**")[1] for line in lines if line)
    return ", ".join(f"{n} {word}" for word, n in found.most_common()).capitalize() + ".\n\n"


def _cost(results: Path) -> str:
    multi, one = (
        HetPure(U=20, reading=reading).calls(linear_schedule())
        for reading in ("multi-step", "paper")
    )
    # truncated, as printed
    time, memory = (
        f"{int(100 * (1 - b / a))}%" for a, b in (printed.COST["time"], printed.COST["memory"])
    )
    said = (
        f"For U = 20 the paper reports that the single step saves {time} of the time and {memory}"
        " of the memory. Here it saves\n"
    )
    said += (
        f"{1 - one / multi:.0%} of the denoiser calls: {one} instead of {multi} with"
        f" {HetPure().steps} steps"
    )
    rows = studies.table("cost", "cifar10-small", results=results)
    if rows.empty:
        return f"{said}.\n\nBytes and seconds are not measured yet."
    head = "| activations | time saved | memory saved |\n|---|---|---|\n"
    saved = {
        how: [studies.saved(rows, what, how)[20] for what in ("seconds", "held")]
        for how in ("kept", "recomputed")
    }
    lines = [f"| {how} | {seconds:.0%} | {held:.0%} |" for how, (seconds, held) in saved.items()]
    return (
        f"{said}, and of processor time and held bytes\n([chapter"
        f" 10](../chapters/10_cost.ipynb)):\n\n{head}"
        + "\n".join(lines)
        + f"\n\n{_study('cost', results)}"
    )


def _consistency(results: Path) -> str:
    rows = studies.table("consistency", "cifar10-small", results=results)
    if rows.empty:
        return "**not tested**"
    head = (
        "| of clean images | n | single step (U = 10) minus repetition (U = 20) | the single step's"
        " is |\n|---|---|---|---|\n"
    )
    table = head + "\n".join(
        f"| {name} | {' | '.join(map(str, row))} |"
        for name, row in studies.resampled(rows).iterrows()
    )
    return f"{table}\n\n{_study('consistency', results)}"


def _study(name: str, results: Path) -> str:
    """The link to a study's file."""
    path = studies.path(name, "cifar10-small", results=results)
    return tables.files([path.relative_to(results).as_posix()])


def _distances(results: Path) -> str:
    rows = studies.table("distance", "cifar10-small", results=results)
    if rows.empty:
        return "**not tested**"
    head = (
        "| images | against | n | method minus the other | the method's distance is"
        " |\n|---|---|---|---|---|\n"
    )
    table = head + "\n".join(
        f"| {' | '.join(map(str, [images, names.markup(other), *found]))} |"
        for images, other, *found in studies.nearer(rows).itertuples(index=False)
    )
    return f"{table}\n\n{_study('distance', results)}"


def _grid_lines(name: str, results: Path) -> str:
    found, reference = (
        ablations.records(ablations.experiments(name), results),
        ablations.GRIDS[name].reference,
    )
    if reference not in found:
        return "**not tested**"
    head = (
        "| setting | images | against the paper's choice, attacked | Holm-corrected p | accuracy is"
        " |\n|---|---|---|---|---|\n"
    )
    table = ablations.against(found, reference, results=results)
    records = ablations.files(ablations.experiments(name), found)
    return (
        head
        + "\n".join(
            f"| {label} | {' | '.join(map(str, row.drop('p')))} |"
            for label, row in table.iterrows()
        )
        + f"\n\n{tables.files(records)}"
    )


def _choice(name: str, results: Path) -> str:
    """What a grid says of the claim that the paper's choice leaves most under attack."""
    found, reference = (
        ablations.records(ablations.experiments(name), results),
        ablations.GRIDS[name].reference,
    )
    said = ablations.choice(found, reference, results)
    return f"That no setting leaves more under attack than {reference}: {said}."


def scorecard(results: Path = RESULTS) -> str:
    """The page that holds the paper's claims against the records."""
    scales = "; ".join(f"**{name}**, {said}" for name, said in compare.SCALES.items())
    head = SCORECARD.format(
        coverage=coverage(results),
        scales=scales,
        equal=100 * compare.EQUAL_CLEAN,
        families=families(results),
    )
    parts, every, found = [head], list(comparisons.comparisons()), compare.everything(results)
    for name in printed.TABLES:
        chosen = [c for c in every if c.table.name == name]
        caption = (
            printed.TABLES[name]
            .caption.replace("l-infinity", r"$\ell_\infty$")
            .replace("l2", r"$\ell_2$")
        )
        lines = [_line(c, found) for c in chosen]
        body = (
            counts(lines) + HEAD + "".join(lines)
            if lines
            else "No row of this table has a counterpart here yet.\n"
        )
        parts.append(f"## {name}: {caption}\n\n{body}")
    parts.append("## Fig 7: the chosen threshold and levels give the highest robust accuracy\n")
    parts.append(
        f"Threshold, against 0.8:\n\n{_grid_lines('tau', results)}\n\n{_choice('tau', results)}\n"
    )
    parts.append(
        "Levels, against 0.2 and"
        f" 0.05:\n\n{_grid_lines('levels', results)}\n\n{_choice('levels', results)}\n"
    )
    parts.append(
        "## The mask: what the paper leaves out\n\nEvery control, against"
        f" attention:\n\n{_grid_lines('mask', results)}\n"
    )
    parts.append(f"## Fig 8: cost\n\n{_cost(results)}\n")
    parts.append(
        "## Fig 3: the single step with U = 10 does what 20 repetitions"
        f" do\n\n{_consistency(results)}\n"
    )
    parts.append(
        f"## Fig 9: the method's feature distance is the smallest\n\n{_distances(results)}\n"
    )
    live = (
        "Figs 1, 2 and 4 to 6 are drawn live in [chapter 9](../chapters/09_inside.ipynb), with"
        " their definitions."
    )
    parts.append(f"## The other figures\n\n{live}\n")
    return "\n".join(parts)


def found(results: Path = RESULTS) -> str:
    """The page of `findings`."""
    return findings.page(results, _chapter)


PAGES = {
    "equations.md": equations,
    "scorecard.md": scorecard,
    "findings.md": found,
    "bug-zoo.md": zoo.page,
}
PAGES |= {f"_include/{name}": part for name, part in landing.INCLUDES.items()}
PAGES |= {f"rivals/{slug}.md": partial(rivals.page, slug) for slug in rivals.slugs()}
PAGES |= {f"_include/{name}": part for name, part in attack_cost.INCLUDES.items()}


def main(argv: Sequence[str] | None = None) -> None:
    for path in landing.say_found():  # first: pages name chapters by their titles
        print(path.relative_to(ROOT))
    landing.say_answer()
    for name, page in PAGES.items():
        path = ROOT / "book" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(page())
        print(f"book/{name}")
