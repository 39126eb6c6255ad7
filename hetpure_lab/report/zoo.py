"""The bug zoo as a page: the gain from each evaluation fault, its measurement, and its flag."""

from __future__ import annotations

import re
from pathlib import Path

from hetpure_lab.audit import faults
from hetpure_lab.audit.faults import FAULTS, Fault
from hetpure_lab.audit.flags import MEANING
from hetpure_lab.common import stats
from hetpure_lab.common.stats import Accuracy
from hetpure_lab.evidence import RESULTS, compare
from hetpure_lab.report import tables

REAL, KNOWN = "cifar10-small", "world"

HEAD = """\
# Bug zoo

Faults that evaluations of robustness made, each planted alone in an otherwise sound evaluation of
one defence. *Adds* is the accuracy under attack that is reported with the fault minus the one
that is reported without it, in points, with a 95 % interval over the same images. Where it is
positive, the fault makes robustness up. Where it is negative, it flatters the attack. What is
said to be higher or lower is decided by a sign-flip test after Holm's correction over all faults.
This page is generated from `results/zoo.jsonl`; a test fails if it is not up to date.

```bash
# the faults, and what is on record
hetpure zoo
# measure them on your data, or in the world whose truth is known
hetpure zoo --n-images 64
hetpure zoo --bench world --n-images 256
```

The first column of numbers is of CIFAR-10 test images and the small networks of this project: the
size of an effect is theirs. The second is of the [world](../chapters/13_ground_truth.ipynb) in
which the best attack is known. Every gradient has the right signs there, so faults of the
gradient's *direction* add nothing in an l-infinity ball. Each fault is a few lines of
`hetpure_lab/audit/faults.py`, and a test shows that its flag is raised with it and is not raised
without it.
"""


def page(results: Path = RESULTS) -> str:
    """The page."""
    found = {bench: faults.recorded(bench, results) for bench in (REAL, KNOWN)}
    said = words(found[REAL])
    head = "| fault | adds, CIFAR-10 | reported accuracy is | adds, known truth | caught by |\n"
    order = sorted(FAULTS.values(), key=lambda fault: -_value(found[REAL].get(fault.name)))
    table = head + "|---|---|---|---|---|\n" + "\n".join(_row(f, found, said) for f in order)
    return "\n".join(
        [
            HEAD,
            f"## What each adds\n\n{_summary(found[REAL], said)}\n\n{table}\n",
            f"{tables.files([faults.ZOO])}\n",
            f"## What goes wrong, and where\n\n{_explained()}\n",
            f"## Where this was measured\n\n{_places(found)}\n",
        ]
    )


def words(records: dict[str, dict]) -> dict[str, str]:
    """By fault, the word of a sign-flip test after Holm's correction over all faults."""
    known = {name: r for name, r in records.items() if name in FAULTS}
    p = compare.corrected(
        "faults", [faults.chance(r["faulty"], r["sound"]) for r in known.values()]
    )
    return {name: stats.word(_added(r), q) for (name, r), q in zip(known.items(), p)}


def _added(record: dict) -> Accuracy:
    return faults.added(record["faulty"], record["sound"])


def _value(record: dict | None) -> float:
    return _added(record).value if record else -1.0


def _signed(record: dict | None) -> str:
    if not record:
        return "not measured"
    d = _added(record)
    return f"{100 * d.value:+z.1f} [{100 * d.low:+z.1f}, {100 * d.high:+z.1f}]"


def _anchor(fault: Fault) -> str:
    return "zoo-" + re.sub(r"\W+", "-", fault.name.lower())


def _row(fault: Fault, found: dict[str, dict[str, dict]], said: dict[str, str]) -> str:
    real, known = (_signed(found[bench].get(fault.name)) for bench in (REAL, KNOWN))
    link, flag = f"[{fault.name}](#{_anchor(fault)})", f"[`{fault.caught}`](flags.md)"
    return f"| {link} | {real} | {said.get(fault.name, '–')} | {known} | {flag} |"


def _summary(records: dict[str, dict], said: dict[str, str]) -> str:
    """How many faults add robustness, which add most, and whether all are caught."""
    if not said:
        return "Not measured yet."
    by_word = {w: [n for n in said if said[n] == w] for w in ("higher", "lower", "inconclusive")}
    most = sorted(by_word["higher"], key=lambda name: -_value(records[name]))[:2]
    parts = [f"Of {len(FAULTS)} faults {len(said)} are measured on CIFAR-10."]
    parts.append(f"{len(by_word['higher'])} of them make the reported accuracy higher")
    parts[-1] += (
        f", most of all {' and '.join(_points(n, records) for n in most)}." if most else "."
    )
    if lower := by_word["lower"]:
        parts.append(f"Lower it is with {' and '.join(_points(name, records) for name in lower)}.")
    if none := by_word["inconclusive"]:
        parts.append(f"On so many images it is inconclusive for {', '.join(none)}.")
    caught = sum(FAULTS[name].caught in records[name]["faulty_flags"] for name in said)
    clean = sum(FAULTS[name].caught not in records[name]["sound_flags"] for name in said)
    parts.append(f"The named flag is raised with the fault in {caught} cases of {len(said)},")
    parts.append(f"and not raised without it in {clean}.")
    return " ".join(parts)


def _points(name: str, records: dict[str, dict]) -> str:
    return f"*{name}* ({100 * _value(records[name]):+.0f} points)"


def _explained() -> str:
    return "\n\n".join(map(_paragraph, FAULTS.values()))


def _paragraph(fault: Fault) -> str:
    title = f"**{fault.name[0].upper()}{fault.name[1:]}.**"
    return f"({_anchor(fault)})=\n{title} {fault.does} {_made(fault)} {_caught(fault)}"


def _made(fault: Fault) -> str:
    keys, _, where = fault.made.partition(": ")
    if not fault.made:
        return "No release is named for it here."
    return f"Seen: {where} {{cite:p}}`{keys.replace(' ', '')}`."


def _caught(fault: Fault) -> str:
    return f"Caught by [`{fault.caught}`](flags.md): {MEANING[fault.caught]}."


def _places(found: dict[str, dict[str, dict]]) -> str:
    sizes = [
        (bench, n) for bench, of in found.items() for n in sorted({r["n"] for r in of.values()})
    ]
    each = (_place(b, [r for r in found[b].values() if r["n"] == n]) for b, n in sizes)
    return "\n".join(each) or "Not measured yet."


def _place(bench: str, records: list[dict]) -> str:
    """The common settings of records of one bench and number of images."""
    first = records[0]
    s = first["settings"]
    one, two, attack = s["uniform"], s["two_levels"], s["attack"]
    parts = [f"- `{bench}`, n = {first['n']}: {len(records)} faults; {first['source']}."]
    parts.append(f"One level: t = {one['t']}, {_steps(one)}.")
    parts.append(f"Two levels: {two['t_l']} and {two['t_s']}, {_steps(two)}.")
    parts.append(f"PGD of {attack['iterations']} iterations, {attack['eot']} purifications each;")
    parts.append(f"K = {s['K']}.")
    return " ".join(parts)


def _steps(purifier: dict) -> str:
    return f"{purifier['steps']} step{'s' if purifier['steps'] > 1 else ''}"
