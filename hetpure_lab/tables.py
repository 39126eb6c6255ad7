"""Tables as functions of records: what the paper prints, what we measured, on how many images, from which file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from hetpure_lab import evidence, stats
from hetpure_lab.claims import TABLES, Claim
from hetpure_lab.evidence import RESULTS, Outcomes

ATTACK_NAMES = {"PGD+EOT": "pgd", "BPDA+EOT": "bpda", "AutoAttack": "autoattack"}
HEADLINE = {"Linf": 8 / 255, "L2": 0.5}


def percent(row: dict, column: str) -> str:
    """A summary's accuracy as text: value [low, high], in percent."""
    a = row[column]
    return f"{100 * a['value']:.1f} [{100 * a['low']:.1f}, {100 * a['high']:.1f}]"


def evidence_rows(bench: str, norm: str = "Linf", attack: str = "pgd", results: Path = RESULTS, eps: float | None = None) -> list[dict]:
    """Summaries of a bench's experiments at radius `eps` (the norm's headline radius); the most images first, then the most iterations."""
    rows = [evidence.summary(path) for path in evidence.files(results) if path.parent.name == bench]
    keep = [r for r in rows if (r["norm"], r["attack"].partition(":")[0]) == (norm, attack)]
    keep = [r for r in keep if np.isclose(r["eps"], eps or HEADLINE[norm])]
    return sorted(keep, key=lambda r: (-r["n"], -r["iterations"]))


def headline(bench: str, results: Path = RESULTS, eps: float | None = None) -> list[dict]:
    """The rows to show first: seed 0 and the standard attack budget; the undefended network, then uniform noise, then the method."""
    rows = [r for r in evidence_rows(bench, results=results, eps=eps) if (r["seed"], r["iterations"], r["gradient"]) == (0, 20, "exact")]
    order = {"none": 0, "uniform": 1, "hetpure": 2}
    slug = lambda r: r["defence"].partition(":")[0]
    return sorted((r for r in rows if slug(r) in order), key=lambda r: (order[slug(r)], r["defence"]))


def measured(rows: list[dict]) -> pd.DataFrame:
    """One line per experiment: single-shot and majority accuracy in the three columns, with 95 % intervals."""
    return pd.DataFrame(
        {
            "defence": r["defence"],
            "attack": f"{r['gradient']} gradient, {r['iterations']} x EOT {r['eot']}",
            "n": r["n"],
            "clean, single": percent(r, "clean_single"),
            "null, single": percent(r, "null_single"),
            "attacked, single": percent(r, "adversarial_single"),
            "clean, vote": percent(r, "clean_majority"),
            "attacked, vote": percent(r, "adversarial_majority"),
            "record": f"{r['bench']}/{r['file']}",
        }
        for r in rows
    )


def beside_the_paper(name: str, bench: str, norm: str, results: Path = RESULTS, eps: float | None = None) -> pd.DataFrame:
    """A table of the paper, and beside every row what was measured here (single-shot, with interval), or nothing yet.

    One radius at a time, the table's own if `eps` is not given; numbers that the paper quotes from an attack of another are not shown.
    """
    table = TABLES[name]
    eps = eps or table.eps
    found = {attack: evidence_rows(bench, norm, ATTACK_NAMES[attack], results, eps) for attack in table.attacks}
    return pd.DataFrame(_line(claim.at(eps or HEADLINE[norm]), table.attacks, found) for claim in table.rows)


def _line(claim: Claim, columns: tuple[str, ...], found: dict[str, list[dict]]) -> dict:
    line = {"type": claim.kind, "method": claim.method, "paper: standard": claim.standard}
    line |= {f"paper: {c}": value for c, value in zip(columns, claim.robust)}
    matches = {c: next((r for r in found[c] if claim.ours and r["defence"] == claim.ours), None) for c in columns}
    any_match = next((r for r in matches.values() if r), None)
    line["here: standard"] = percent(any_match, "clean_single") if any_match else ""
    line |= {f"here: {c}": percent(r, "adversarial_single") if r else "" for c, r in matches.items()}
    return line | {"n": any_match["n"] if any_match else "", "note": claim.note, "record": f"{any_match['bench']}/{any_match['file']}" if any_match else ""}


def show(frame: pd.DataFrame) -> Styler:
    """A table for the page: small print, no index, and each record a link to its file, which the book carries along."""
    link = lambda file: file and f'<a href="../{file}">{file.rpartition("--")[2].removesuffix(".jsonl")}</a>'
    return frame.style.hide(axis="index").format({c: link for c in frame if c == "record"}).set_table_attributes('style="font-size: 75%"')


def compare(reference: Path, other: Path) -> dict:
    """Two experiments on the images they share: paired difference of attacked single-shot accuracy, and McNemar on the vote."""
    a, b = evidence.read(reference), evidence.read(other)
    shared = [key for key in a if key in b]
    first, second = (Outcomes.of({key: records[key] for key in shared}) for records in (a, b))
    rates = [o.correct("adversarial").mean(1) for o in (first, second)]
    difference = stats.paired_difference(*rates)
    p = stats.mcnemar(*(o.majority_correct("adversarial") for o in (first, second)))
    return {"n": len(shared), "difference": difference, "p (vote, McNemar)": p, "verdict": verdict(difference)}


def verdict(difference: stats.Accuracy) -> str:
    """What an interval of a difference allows one to say."""
    if difference.low > 0:
        return "higher"
    return "lower" if difference.high < 0 else "no difference established"
