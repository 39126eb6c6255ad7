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
import subprocess
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
DECLARED = (
    "pgd",
    "bpda",
    "autoattack-corrected",
    "pgd-mask",
    "per-step",
    "low-frequency",
    "transfer",
    "transfer-from",
    "square",
)
HOME = "cifar10-small"  # the bench whose entries need the headline attack on enough images
LEAST = 16  # images, below which a defence of another bench has no entry
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


def _ball(norm: str, radius: str) -> tuple[str, float]:
    top, _, bottom = radius.partition("/")
    return norm, float(top) / float(bottom or 1)


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
            if attacks := found(known, defence, *_ball(norm, radius)):
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
        "claimed": claimed(defence, bench),
        "records": sorted(set(files)),
        "rescored": rescored(clean),
        "command": f"hetpure run --bench {bench} --defence {defence} --attack pgd --n-images 64",
    }


def _date(e: Evidence) -> str:
    """The commit that made an entry's longest records, with its day where the history knows it."""
    commit = next(iter(e.records.values())).get("commit", "")
    asked = ["git", "-C", ROOT, "show", "-s", "--format=%as", commit]
    day = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    return f"{day} ({commit})" if day else commit


def rescored(attacks: Sequence[Evidence]) -> dict:
    """Of how many labels of these records `rescore` asked again, and how many differed."""
    digests = {rescore.digest(r) for e in attacks for r in e.records.values()}
    notes = [n for n in rescore.notes() if n.record in digests]
    return {"labels": sum(n.of for n in notes), "differing": sum(n.differing for n in notes)}


def claimed(defence: str, bench: str = HOME) -> dict:
    """What a paper claims for it: the first table of the paper with such a row on that bench."""
    for name in (name for name, table in printed.TABLES.items() if table.bench == bench):
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
    """The defences that met the headline attack on enough images; elsewhere than on `HOME`, a
    declared attack of any ball on `LEAST`."""
    known = compare.known(bench, results)
    if bench == HOME:
        enough = [d for d, r in known.met("pgd").items() if len(r) >= compare.ENOUGH]
    else:
        balls = [(norm, radius) for norm, radii in RADII.items() for radius in radii]
        met = lambda d: [e for ball in balls for e in found(known, d, *_ball(*ball)).values()]
        enough = [
            d
            for d in {cell[0] for cell in known.cells}
            if max((len(e.records) for e in met(d)), default=0) >= LEAST
        ]
    return sorted(d for d in enough if d != "none")


def with_entries(results: Path = RESULTS) -> list[str]:
    """The benches that have a defence to enter, `HOME` first."""
    found = [b for b in compare.everything(results) if eligible(b, results)]
    return sorted(found, key=lambda b: (b != HOME, b))


# ---- the page --------------------------------------------------------------------------------

PAGE = """# Leaderboard

Randomised defences under one protocol, on the same images and networks: for each image the attack
that hurts it most, of those declared ({declared}), through the whole defence. Half of the
purifications choose the worst attack, the other half score it. Per cent of right answers of one
purification, with a 95 % interval over images and their number. *Claimed* is what the paper's
tables print for the same method on other networks: it cannot be compared with a cell, it says what
was promised. *Front* marks what no cheaper defence of the same bench surpasses. *Scale* is that of
the [scorecard](scorecard.md): with fewer than 64 images an entry is a toy. Entries of two benches
have other networks or images and cannot be compared. A head sorts, by mouse or by keyboard.

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

SORT = """<style>
.leaderboard button { font: inherit; font-weight: bold; background: none; border: 0; padding: 0;
 color: inherit; cursor: pointer; text-align: inherit; white-space: nowrap; }
.leaderboard th[aria-sort=ascending] button::after { content: " ▲"; }
.leaderboard th[aria-sort=descending] button::after { content: " ▼"; }
.leaderboard td { white-space: nowrap; }
.leaderboard td:first-child, .leaderboard td.said { white-space: normal; min-width: 9em; }
</style>
<script>
document.querySelectorAll("table.leaderboard").forEach(table => {
 const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
 const key = (row, column) => {
  const cell = row.cells[column].dataset.value ?? row.cells[column].textContent;
  const n = parseFloat(cell); return isNaN(n) ? cell : n; };
 heads.forEach((head, column) => head.firstChild.addEventListener("click", () => {
  const up = head.getAttribute("aria-sort") === "descending" ? 1 : -1;
  const order = (x, y) => x < y ? -1 : x > y ? 1 : 0;
  [...body.rows].sort((a, b) => up * order(key(a, column), key(b, column)))
   .forEach(row => body.append(row));
  heads.forEach(other => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", up > 0 ? "ascending" : "descending");
 }));
});
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


HEADS = ("attacks", "calls", "front", "scale", "claimed", "scored again", "version", "records")


def page(rows: Sequence[dict]) -> str:
    """The page of entries: a section for each bench."""
    benches = list(dict.fromkeys(e["bench"] for e in sorted(rows, key=_place)))
    declared = ", ".join(names.ATTACKS.get(a, a) for a in DECLARED)
    sections = [section(bench, [e for e in rows if e["bench"] == bench]) for bench in benches]
    fields = ", ".join(f"`{name}`" for name in FIELDS)
    sort = f"```{{raw}} html\n{SORT}\n```\n"
    return (
        PAGE.format(declared=declared) + "\n".join(sections) + sort + SUBMIT.format(fields=fields)
    )


def _place(e: dict) -> tuple:
    return e["bench"] != HOME, e["bench"]


def section(bench: str, rows: Sequence[dict]) -> str:
    """The table of one bench, ordered by the ball that most of its entries have."""
    top = max(COLUMNS, key=lambda c: sum(c.key in e["worst"] for e in rows))
    left = lambda e: e["worst"].get(top.key, {"value": -1})["value"]
    points = {e["defence"]: (e["calls"], left(e)) for e in rows if top.key in e["worst"]}
    front = set(tables.pareto(points))
    heads = ["defence", "clean", *(c.head for c in COLUMNS), *HEADS]
    body = "".join(
        f"<tr>{''.join(_cells(e, front))}</tr>\n" for e in sorted(rows, key=left, reverse=True)
    )
    head = "".join(
        f"<th{' aria-sort=descending' if h == top.head else ''}><button>{h}</button></th>"
        for h in heads
    )
    table = f"<thead><tr>{head}</tr></thead><tbody>\n{body}</tbody>"
    table = f'<table class="leaderboard dataframe" style="font-size: 75%">{table}</table>'
    title = names.bench(bench)
    where = (
        f'<div tabindex="0" role="region" aria-label="{escape(title)}" style="overflow-x: auto">'
    )
    said = f"{len(rows)} entries, ordered by {top.head}, where the front is drawn too."
    return f"## {title}\n\n{said}\n\n```{{raw}} html\n{where}{table}</div>\n```\n"


def _cells(e: dict, front: set[str]) -> Iterator[str]:
    def cell(said: object, value: object = "", kind: str = "") -> str:
        about = {"data-value": value, "class": kind}
        attributes = "".join(f' {k}="{v}"' for k, v in about.items() if v != "")
        return f"<td{attributes}>{said}</td>"

    number = lambda w: (
        cell(f"{w['value']:z.1f} [{w['low']:z.1f}, {w['high']:z.1f}] ({w['n']})", w["value"])
        if w
        else cell("not measured", -1)
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
        f'<abbr title="{escape(e["claimed"]["source"])}">{escape(said)}</abbr>' if said else "–",
        kind="said",
    )
    yield cell(
        f"{e['rescored']['differing']} of {e['rescored']['labels']} labels differ"
        if e["rescored"]["labels"]
        else "not yet"
    )
    yield cell(escape(e["date"]))
    yield cell(tables.files(e["records"]), len(e["records"]))


def file(defence: str, bench: str) -> str:
    """The name of an entry's file."""
    name = re.sub(r"[^\w.=+-]+", "-", defence)
    return f"{name}.json" if bench == HOME else f"{bench}--{name}.json"


def write(results: Path = RESULTS, book: Path = ROOT / "book") -> None:
    """Write the entries of every eligible defence of every bench, and the page."""
    folder = results / "leaderboard"
    folder.mkdir(exist_ok=True)
    for bench in with_entries(results):
        for defence in eligible(bench, results):
            text = json.dumps(entry(defence, bench, results), indent=1, ensure_ascii=False) + "\n"
            (folder / file(defence, bench)).write_text(text)
    (book / "leaderboard.md").write_text(page(list(entries(results))))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="hetpure leaderboard", description=(__doc__ or "").split("\n")[0]
    )
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
        strongest = lambda e: -e["worst"].get("Linf 8/255", {"value": -1})["value"]
        for e in sorted(entries(), key=lambda e: (*_place(e), strongest(e))):
            left = "  ".join(f"{k} {w['value']:z.1f}" for k, w in e["worst"].items())
            print(f"{e['bench']:22} {e['defence']:40} clean {e['clean']['value']:.1f}  {left}")
