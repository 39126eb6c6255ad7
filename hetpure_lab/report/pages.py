"""The generated pages of the book: ``hetpure pages`` writes ``book/equations.md``, ``scorecard.md`` and ``findings.md``.

The first maps every element of the paper to its place here, the second holds each claim against the records, the third is what was found
(see `findings`). Verdicts are functions
of intervals: a claim is *supported* or *contradicted* if the interval of the paired difference leaves 0 out, else *open*.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hetpure_core import HetPure, linear_schedule
from hetpure_lab import evidence
from hetpure_lab.attacks import ATTACKS
from hetpure_lab.common import specs, stats
from hetpure_lab.common.paths import ROOT
from hetpure_lab.defences import DEFENCES
from hetpure_lab.evidence import RESULTS, ablations, studies
from hetpure_lab.paper import elements, printed
from hetpure_lab.report import findings

KINDS = {"Eq": "Equations", "Alg": "Algorithms", "Table": "Tables", "Fig": "Figures", "Sec": "Appendix sections"}
VERDICTS = ("supported", "contradicted", "open", "not measured yet")


# ---- equations.md: where everything is -------------------------------------------------------------------------------------------

EQUATIONS = """\
# Equations, tables and figures

Every numbered item of the paper {cite:p}`pei2025divide`, the chapter that deals with it, the function that computes it, and its state.
Numbers in the column *here* are this book's. This page is generated, and a test fails if it is not up to date or if an item has no entry:

```bash
hetpure elements    # the list
hetpure pages                # this page, the scorecard and the findings
```

States are computed, not typed. **done**: the chapters use the functions and define the equations, and every cell or point that the item
shows is measured with the networks in the repository. **partly**: some of it. **planned**: no chapter, or nothing measured.
"""


def equations(results: Path = RESULTS) -> str:
    """The page that maps the paper to chapters, functions, records and states."""
    rows, parts = elements.listing(results), [EQUATIONS]
    for kind, title in KINDS.items():
        chosen = [row for row in rows if row["element"].startswith(kind)]
        head = "| paper | here | what | chapter | functions | measured | records | state |\n|---|---|---|---|---|---|---|---|"
        parts.append(f"## {title}\n\n{head}\n" + "\n".join(map(_element, chosen)) + "\n")
    return "\n".join(parts)


def _element(row: dict) -> str:
    here = ", ".join(f"{{eq}}`{label}`" for label in row["labels"]) or ", ".join(row["parts"]) or "–"
    functions = ", ".join(f"`{name}`" for name in row["functions"]) or "–"
    element = elements.ELEMENTS[row["element"]]
    needs_records = row["measured"] != 1 or element.name in printed.TABLES or element.grids or element.study
    measured = f"{row['measured']:.0%}" if needs_records and not row["parts"] else "–"
    chapters = ", ".join(map(_chapter, row["chapters"]))
    cells = (row["element"], here, row["says"], chapters, functions, measured, _records(row["records"]), row["status"])
    return f"| {' | '.join(cells)} |"


def _records(files: list[str]) -> str:
    """How many files, and on a click their keys, each a link to its file, which the book carries along."""
    if not files:
        return "–"
    links = " ".join(f'<a href="../{name}">{name.rpartition("--")[2].removesuffix(".jsonl")}</a>' for name in files)
    return f"<details><summary>{len(files)}</summary>{links}</details>"


def _chapter(number: int) -> str:
    path = elements.chapter(number)
    return f"[{number}](../chapters/{path.name})" if path else str(number)


# ---- scorecard.md: what the records say of each claim ----------------------------------------------------------------------------

SCORECARD = """\
# Scorecard

What the paper {cite:p}`pei2025divide` claims, row by row, and what the records of this project say. This page is generated from
`results/` by `hetpure pages`; a test fails if it is not up to date.

Each line compares the method with another row of the same table. *Paper* is the difference of the printed numbers in points. *Here* is
the paired difference on the same images under the same attack, single-shot, with a 95 % interval over images; accuracy without attack
is that of any records of the bench, at whatever radius. A claim is **supported**
if the interval lies on the paper's side of 0, **contradicted** if it lies on the other side, and **open** if it contains 0. The networks
are small ones trained by this project, so a verdict is about the direction of an effect, not its size; and one line in twenty may err.
"""


Records = dict[str, dict]
Found = dict[elements.Place, dict[str, dict[str, Records]]]  # place -> attack spec -> defence spec -> records


@dataclass(frozen=True)
class Comparison:
    """A claim of the paper: in `column` of `table`, the row `method` is `claimed` points above the row `rival`, under `attack`."""

    table: printed.Table
    method: printed.Claim
    rival: printed.Claim
    column: str
    attack: str
    claimed: float

    @property
    def place(self) -> elements.Place:
        """Where its records are."""
        return elements.place(self.table.bench, self.table.norm, self.table.radius, self.attack)


def _number(text: str) -> float | None:
    found = re.match(r"[\d.]+", text)
    return float(found[0]) if found else None


def comparisons() -> Iterator[Comparison]:
    """All comparisons of the method, which is the last row of a table, with another row for which there is a defence here."""
    for table in printed.TABLES.values():
        method = table.rows[-1]
        for row in (other.at(table.radius) for other in table.rows[:-1]):
            columns = [("standard", table.attacks[0], method.standard, row.standard)]
            columns += [(attack, attack, *values) for attack, *values in zip(table.attacks, method.robust, row.robust)]
            for column, attack, *values in columns if row.specs else ():
                ours, theirs = map(_number, values)
                if ours and theirs and ours != theirs:
                    yield Comparison(table, method, row, column, printed.attack_of(attack, table.bench), ours - theirs)


def load(results: Path = RESULTS) -> Found:
    """All records of seed 0, by place."""
    found: Found = {}
    for path in evidence.files(results):
        records = evidence.read(path)
        config = next(iter(records.values()))["config"]
        if config["seed"] == 0:
            by_attack = found.setdefault(elements.place_of(config), {})
            by_attack.setdefault(specs.write(config["attack"], ATTACKS), {})[specs.write(config["defence"], DEFENCES)] = records
    return found


def settings(claim: Comparison, found: Found) -> list[tuple[str, dict[str, Records]]]:
    """(attack setting, records by defence) that can decide a claim; of clean images all of the bench, since no attack touches them."""
    if claim.column != "standard":
        return sorted(found.get(claim.place, {}).items())
    attacks = [by_spec for place, by_attack in found.items() if place[0] == claim.place[0] for by_spec in by_attack.values()]
    rows = [row for by_spec in attacks for row in by_spec.items()]
    return [("any", dict(sorted(rows, key=lambda row: len(row[1]))))]  # of one defence the longest stays


def measure(claim: Comparison, found: Found) -> tuple[stats.Accuracy, str] | None:
    """The paired difference method minus rival under that attack setting which most images share, and the setting; None without records."""
    best = None
    for attack, rows in settings(claim, found):
        pair = [rows.get(row.ours or row.published, {}) for row in (claim.method, claim.rival)]
        a, b = ablations.rates(*pair, "clean" if claim.column == "standard" else "adversarial")
        if len(a) > (best[0].n if best else 0):
            best = stats.paired_difference(a, b), attack
    return best


def verdict(claimed: float, difference: stats.Accuracy | None) -> str:
    """One of `VERDICTS`: on which side of 0 the interval lies, compared with the sign of what was claimed."""
    if difference is None:
        return "not measured yet"
    low, high = (difference.low, difference.high) if claimed > 0 else (-difference.high, -difference.low)
    return "supported" if low > 0 else "contradicted" if high < 0 else "open"


def _line(claim: Comparison, found: Found) -> str:
    difference, attack = measure(claim, found) or (None, "")
    here = f"{difference} | {difference.n} | `{attack}`" if difference else "– | – | –"
    return f"| {claim.rival.method} | {claim.column} | {claim.claimed:+.2f} | {here} | {verdict(claim.claimed, difference)} |"


def _cost(results: Path) -> str:
    multi, one = (HetPure(U=20, reading=reading).calls(linear_schedule()) for reading in ("multi-step", "paper"))
    time, memory = (f"{int(100 * (1 - b / a))}%" for a, b in (printed.COST["time"], printed.COST["memory"]))  # truncated, as printed
    said = f"For U = 20 the paper reports that the single step saves {time} of the time and {memory} of the memory. Here it saves\n"
    said += f"{1 - one / multi:.0%} of the denoiser calls: {one} instead of {multi} with {HetPure().steps} steps"
    rows = studies.table("cost", "cifar10-small", results=results)
    if rows.empty:
        return f"{said}.\n\nBytes and seconds are not measured yet."
    head = "| activations | time saved | memory saved |\n|---|---|---|\n"
    saved = {how: [studies.saved(rows, what, how)[20] for what in ("seconds", "held")] for how in ("kept", "recomputed")}
    lines = [f"| {how} | {seconds:.0%} | {held:.0%} |" for how, (seconds, held) in saved.items()]
    return f"{said}, and of processor time and held bytes\n([chapter 10](../chapters/10_cost.ipynb)):\n\n{head}" + "\n".join(lines)


def _consistency(results: Path) -> str:
    rows = studies.table("consistency", "cifar10-small", results=results)
    if rows.empty:
        return "Not measured yet."
    head = "| of clean images | n | single step (U = 10) minus repetition (U = 20) | the single step's is |\n|---|---|---|---|\n"
    return head + "\n".join(f"| {name} | {' | '.join(map(str, row))} |" for name, row in studies.resampled(rows).iterrows())


def _distances(results: Path) -> str:
    rows = studies.table("distance", "cifar10-small", results=results)
    if rows.empty:
        return "Not measured yet."
    head = "| images | against | n | method minus the other | the method's distance is |\n|---|---|---|---|---|\n"
    return head + "\n".join("| " + " | ".join(map(str, row)) + " |" for row in studies.nearer(rows).itertuples(index=False))


def _grid_lines(name: str, results: Path) -> str:
    found, reference = ablations.records(ablations.experiments(name), results), ablations.GRIDS[name].reference
    if reference not in found:
        return "Not measured yet."
    head = "| setting | images | against the paper's choice, attacked | Holm-corrected p | accuracy is |\n|---|---|---|---|---|\n"
    table = ablations.against(found, reference)
    return head + "\n".join(f"| {label} | {' | '.join(map(str, row.drop('p')))} |" for label, row in table.iterrows())


def _choice(name: str, results: Path) -> str:
    """Whether a grid contradicts that the paper's choice leaves most under attack."""
    found, reference = ablations.records(ablations.experiments(name), results), ablations.GRIDS[name].reference
    return f"That no setting leaves more under attack than {reference} is {ablations.choice(found, reference)}."


def scorecard(results: Path = RESULTS) -> str:
    """The page that holds the paper's claims against the records."""
    parts, every, found = [SCORECARD], list(comparisons()), load(results)
    for name in printed.TABLES:
        chosen = [c for c in every if c.table.name == name]
        head = "| against | column | paper | here | images | attack | verdict |\n|---|---|---|---|---|---|---|\n"
        body = head + "\n".join(_line(c, found) for c in chosen) if chosen else "No row of this table has a counterpart here yet."
        caption = printed.TABLES[name].caption.replace("l-infinity", r"$\ell_\infty$").replace("l2", r"$\ell_2$")
        parts.append(f"## {name}: {caption}\n\n{body}\n")
    parts.append("## Fig 7: the chosen threshold and levels give the highest robust accuracy\n")
    parts.append(f"Threshold, against 0.8:\n\n{_grid_lines('tau', results)}\n\n{_choice('tau', results)}\n")
    parts.append(f"Levels, against 0.2 and 0.05:\n\n{_grid_lines('levels', results)}\n\n{_choice('levels', results)}\n")
    parts.append(f"## The mask: what the paper leaves out\n\nEvery control, against attention:\n\n{_grid_lines('mask', results)}\n")
    parts.append(f"## Fig 8: cost\n\n{_cost(results)}\n")
    parts.append(f"## Fig 3: the single step with U = 10 does what 20 repetitions do\n\n{_consistency(results)}\n")
    parts.append(f"## Fig 9: the method's feature distance is the smallest\n\n{_distances(results)}\n")
    live = "Figs 1, 2 and 4 to 6 are drawn live in [chapter 9](../chapters/09_inside.ipynb), with their definitions."
    parts.append(f"## The other figures\n\n{live}\n")
    return "\n".join(parts)


def found(results: Path = RESULTS) -> str:
    """The page of `findings`."""
    return findings.page(results, _chapter)


PAGES = {"equations.md": equations, "scorecard.md": scorecard, "findings.md": found}


def main(argv: Sequence[str] | None = None) -> None:
    for name, page in PAGES.items():
        (ROOT / "book" / name).write_text(page())
        print(f"book/{name}")
