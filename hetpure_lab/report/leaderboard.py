"""A leaderboard of randomised defences under one protocol: ``hetpure leaderboard``.

    hetpure leaderboard                          # the table
    hetpure leaderboard --entry uniform:t=0.1    # a defence's entry, from its records, as JSON
    hetpure leaderboard --check FILE             # does an entry hold what its records say?
    hetpure leaderboard --write                  # all entries and book/leaderboard.md

An entry counts, per image, the attack that hurts most: half of the purifications choose it, the
other half score it, so that luck in choosing is not counted.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from hetpure_lab.attacks import ATTACKS
from hetpure_lab.audit.cases import worst
from hetpure_lab.audit.flags import Evidence
from hetpure_lab.common import names, specs, stats
from hetpure_lab.common.paths import RESULTS, ROOT
from hetpure_lab.common.stats import Accuracy
from hetpure_lab.defences import DEFENCES
from hetpure_lab.evidence import compare, rescore
from hetpure_lab.evidence.compare import Known
from hetpure_lab.paper import printed
from hetpure_lab.report import tables

RADII = {"Linf": ("2/255", "4/255", "8/255"), "L2": ("0.25", "0.5", "1")}
DECLARED = ("pgd", "bpda", "autoattack-corrected", "pgd-mask", "transfer", "square")
FIELDS = {
    "defence": str,
    "bench": str,
    "clean": dict,
    "worst": dict,
    "calls": int,
    "scale": str,
    "date": str,
    "claimed": dict,
    "records": list,
    "rescored": dict,
    "command": str,
}


class BadEntry(ValueError):
    """An entry that lacks a field or says what its records do not."""


def _value(a: Accuracy) -> dict:
    return {k: round(100 * getattr(a, k), 2) for k in ("value", "low", "high")} | {"n": a.n}


def found(known: Known, defence: str, norm: str, eps: float) -> dict[str, Evidence]:
    """A defence's records under every declared attack of a ball, by attack, on enough draws."""
    kept = {}
    for (d, attack, seed), records in known.cells.items():
        slug, settings = specs.parse(attack, ATTACKS)
        ball = settings.norm == norm and math.isclose(settings.eps, eps, rel_tol=1e-5)
        if (
            (d, seed) == (defence, 0)
            and slug in DECLARED
            and ball
            and not getattr(settings, "frozen", "")
        ):
            kept[attack] = Evidence(known.files[d, attack, seed], records)
    return kept


def worst_case(attacks: dict[str, Evidence]) -> dict:
    """What is left under the worst attack of each image, on the images that most attacks share: an
    attack seen on fewer than half as many as the longest is left out, and named so."""
    longest = max(len(e.records) for e in attacks.values())
    used = {a: e for a, e in attacks.items() if 2 * len(e.records) >= longest}
    shared = [
        key
        for key in next(iter(used.values())).records
        if all(key in e.records for e in used.values())
    ]
    if min(e.outcomes.K for e in used.values()) < 2 or len(used) == 1:
        left = min(
            (np.array([e.rates("adversarial", shared)]).mean(0) for e in used.values()), key=np.mean
        )
    else:
        left = worst(list(used.values()), shared)
    return _value(stats.mean_rate(left)) | {"attacks": sorted(used)}


def entry(defence: str, bench: str = "cifar10-small", results: Path = RESULTS) -> dict:
    """The entry of a defence, from its records. Raises `BadEntry` if it has none."""
    known, defence = compare.known(bench, results), specs.normal(defence, DEFENCES)
    worst_by, files, clean = {}, [], []
    for norm, radii in RADII.items():
        for radius in radii:
            top, _, bottom = radius.partition("/")
            if attacks := found(known, defence, norm, float(top) / float(bottom or 1)):
                worst_by[f"{norm} {radius}"] = worst_case(attacks)
                files += [e.about for e in attacks.values()]
                clean += list(attacks.values())
    if not clean:
        raise BadEntry(
            f"{defence} has no records on {bench}: hetpure run --bench {bench} --defence {defence}"
            " --attack pgd --n-images 64"
        )
    longest = max(clean, key=lambda e: len(e.records))
    scale = compare.scale(bench, min(w["n"] for w in worst_by.values()))
    return {
        "defence": defence,
        "bench": bench,
        "clean": _value(longest.outcomes.single("clean")),
        "worst": worst_by,
        "calls": tables.cost(defence),
        "scale": scale,
        "date": _date(longest),
        "claimed": claimed(defence),
        "records": sorted(set(files)),
        "rescored": rescored(clean),
        "command": f"hetpure run --bench {bench} --defence {defence} --attack pgd --n-images 64",
    }


def _date(e: Evidence) -> str:
    """The commit that made an entry's longest records: their only clock."""
    return next(iter(e.records.values())).get("commit", "")


def rescored(attacks: Sequence[Evidence]) -> dict:
    """Of how many labels of these records `rescore` asked again, and how many differed."""
    digests = {rescore.digest(r) for e in attacks for r in e.records.values()}
    notes = [n for n in rescore.notes() if n.record in digests]
    return {"labels": sum(n.of for n in notes), "differing": sum(n.differing for n in notes)}


def claimed(defence: str) -> dict:
    """What a paper claims for it: the first table of the paper with such a row."""
    for name in ("Table 1", "Table 3", "Table 5"):
        for row in printed.TABLES[name].rows:
            if row.ours and specs.normal(row.ours, DEFENCES) == defence:
                robust = dict(zip(printed.TABLES[name].attacks, row.robust))
                return {"source": f"{name}, {row.method}", "standard": row.standard} | robust
    return {}


def check(given: dict, results: Path = RESULTS) -> None:
    """Raise `BadEntry` unless an entry has all fields and says what its records say."""
    if missing := [name for name in FIELDS if name not in given]:
        raise BadEntry(f"the entry lacks {', '.join(missing)}; it needs {', '.join(FIELDS)}")
    for name, kind in FIELDS.items():
        if not isinstance(given[name], kind):
            raise BadEntry(
                f"{name} must be of type {kind.__name__}, not {type(given[name]).__name__}"
            )
    if not given["records"]:
        raise BadEntry(f"the entry of {given['defence']} names no records")
    if absent := [f for f in given["records"] if not (results / f).exists()]:
        raise BadEntry(f"no such records: {', '.join(absent)}")
    if given["rescored"].get("differing"):
        raise BadEntry(
            f"{given['rescored']['differing']} labels of {given['defence']} come out differently"
            " when scored again"
        )
    truth = entry(given["defence"], given["bench"], results)
    for name in ("clean", "worst", "scale", "records"):
        if given[name] != truth[name]:
            raise BadEntry(
                f"{name} of {given['defence']} is not what its records say: hetpure leaderboard"
                f" --entry {given['defence']}"
            )


def entries(results: Path = RESULTS) -> Iterator[dict]:
    """The entries on file."""
    for path in sorted((results / "leaderboard").glob("*.json")):
        yield json.loads(path.read_text())


def eligible(bench: str, results: Path = RESULTS) -> list[str]:
    """The defences that met the headline attack on enough images."""
    met = compare.known(bench, results).met("pgd")
    return sorted(d for d, r in met.items() if len(r) >= compare.ENOUGH and d != "none")


# ---- the page --------------------------------------------------------------------------------

PAGE = """# Leaderboard

Randomised defences under one protocol, on the same images and networks: for each image the attack
that hurts it most, of those declared ({declared}), through the whole defence. Half of the
purifications choose the worst attack, the other half score it. Per cent of right answers of one
purification, with a 95 % interval over images. *Claimed* is what the paper's tables print for the
same method on other networks: it cannot be compared with a cell, it says what was promised. *Front*
marks what no cheaper defence surpasses at the largest radius. Click a head to sort.

"""

SUBMIT = """
## Enter a defence

1. Write it as a plug-in: a frozen class with `plan` and `calls`, as
   [chapter 12](../chapters/12_audit.ipynb) shows, or a function from
   images to images for a first look with `hetpure audit --defence module:function`.
2. Measure it: `hetpure run --defence NAME --attack pgd --n-images 64`, and the same with the other
   declared attacks.
3. Score a part of it again: `hetpure rescore results/cifar10-small/FILE --n-images 4`.
4. Make the entry: `hetpure leaderboard --entry NAME > results/leaderboard/NAME.json`, and see that
   `hetpure leaderboard --check results/leaderboard/NAME.json` finds nothing.

An entry is JSON with these fields: {fields}. Numbers that its records do not say, records that are
missing, or labels that come out differently when scored again, are refused in a sentence.
"""

SORT = """<script>
document.querySelectorAll("table.leaderboard th").forEach((head, column) =>
 head.addEventListener("click", () => {
  const body = head.closest("table").tBodies[0], rows = [...body.rows];
  const up = head.dataset.up !== "1";
  const key = row => {
    const cell = row.cells[column].dataset.value ?? row.cells[column].textContent;
    const n = parseFloat(cell); return isNaN(n) ? cell : n; };
  const order = (x, y) => x < y ? -1 : x > y ? 1 : 0;
  rows.sort((a, b) => (up ? 1 : -1) * order(key(a), key(b))).forEach(row => body.append(row));
  head.dataset.up = up ? "1" : "0";
}));
</script>"""


@dataclass(frozen=True)
class Column:
    """A column of the page: its head and the balls that it shows."""

    head: str
    key: str


COLUMNS = [
    Column(f"{'ℓ∞' if norm == 'Linf' else 'ℓ2'} {radius}", f"{norm} {radius}")
    for norm, rs in RADII.items()
    for radius in rs
]


def page(rows: Sequence[dict]) -> str:
    """The page of entries."""
    top = "Linf 8/255"
    points = {
        e["defence"]: (e["calls"], e["worst"][top]["value"]) for e in rows if top in e["worst"]
    }
    front = set(tables.pareto(points))
    heads = [
        "defence",
        "clean",
        *(c.head for c in COLUMNS),
        "attacks",
        "calls",
        "front",
        "scale",
        "claimed",
        "scored again",
        "version",
    ]
    lines = sorted(rows, key=lambda e: -e["worst"].get(top, {"value": -1})["value"])
    body = "".join(f"<tr>{''.join(_cells(e, front))}</tr>\n" for e in lines)
    head = "".join(f"<th>{h}</th>" for h in heads)
    table = (
        '<table class="leaderboard dataframe" style="font-size:'
        f' 75%"><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>'
    )
    raw = f"```{{raw}} html\n{table}\n{SORT}\n```\n"
    fields = ", ".join(f"`{name}`" for name in FIELDS)
    return (
        PAGE.format(declared=", ".join(names.ATTACKS.get(a, a) for a in DECLARED))
        + raw
        + SUBMIT.format(fields=fields)
    )


def _cells(e: dict, front: set[str]) -> Iterator[str]:
    cell = lambda said, value="": (
        f'<td data-value="{value}">{said}</td>' if value != "" else f"<td>{said}</td>"
    )
    number = lambda w: (
        cell(f"{w['value']:.1f} [{w['low']:.1f}, {w['high']:.1f}] ({w['n']})", w["value"])
        if w
        else cell("–", -1)
    )
    yield cell(names.markup(e["defence"]))
    yield number(e["clean"])
    yield from (number(e["worst"].get(c.key)) for c in COLUMNS)
    attacks = {a for w in e["worst"].values() for a in w["attacks"]}
    yield cell(
        f'<abbr title="{escape("; ".join(sorted(attacks)))}">{len(attacks)}</abbr>', len(attacks)
    )
    yield cell(e["calls"], e["calls"])
    yield cell("✓" if e["defence"] in front else "")
    yield cell(e["scale"])
    said = "; ".join(f"{k}: {v}" for k, v in e["claimed"].items() if k != "source")
    yield cell(
        f'<abbr title="{escape(e["claimed"]["source"])}">{escape(said)}</abbr>' if said else "–"
    )
    yield cell(
        f"{e['rescored']['differing']} of {e['rescored']['labels']} labels differ"
        if e["rescored"]["labels"]
        else "not yet"
    )
    yield cell(escape(e["date"]))


def write(results: Path = RESULTS, book: Path = ROOT / "book") -> None:
    """Write the entries of every eligible defence, and the page."""
    folder = results / "leaderboard"
    folder.mkdir(exist_ok=True)
    for defence in eligible("cifar10-small", results):
        name = re.sub(r"[^\w.=+-]+", "-", defence)
        text = json.dumps(entry(defence, results=results), indent=1, ensure_ascii=False) + "\n"
        (folder / f"{name}.json").write_text(text)
    (book / "leaderboard.md").write_text(page(list(entries(results))))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="hetpure leaderboard", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--entry", metavar="DEFENCE", help="print a defence's entry, from its records"
    )
    parser.add_argument("--bench", default="cifar10-small")
    parser.add_argument("--check", metavar="FILE", help="does an entry hold what its records say?")
    parser.add_argument(
        "--write", action="store_true", help="write all entries and book/leaderboard.md"
    )
    args = parser.parse_args(argv)
    if args.entry:
        print(json.dumps(entry(args.entry, args.bench), indent=1, ensure_ascii=False))
    elif args.check:
        try:
            check(json.loads(Path(args.check).read_text()))
        except json.JSONDecodeError as error:
            raise BadEntry(f"{args.check} is not JSON: {error}") from error
        print(f"{args.check} holds what its records say")
    elif args.write:
        write()
    else:
        for e in sorted(
            entries(), key=lambda e: -e["worst"].get("Linf 8/255", {"value": -1})["value"]
        ):
            left = "  ".join(f"{k} {w['value']:.1f}" for k, w in e["worst"].items())
            print(f"{e['defence']:40} clean {e['clean']['value']:.1f}  {left}")
