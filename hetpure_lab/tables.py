"""Tables as functions of records: what the paper prints, what we measured, on how many images, from which file."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from hetpure_core import Schedule, linear_schedule
from hetpure_lab import evidence, specs, stats
from hetpure_lab.claims import ATTACK_NAMES, TABLES, Claim
from hetpure_lab.defences import DEFENCES
from hetpure_lab.evidence import RESULTS, Outcomes
from hetpure_lab.trained import Trained

HEADLINE = {"Linf": 8 / 255, "L2": 0.5}


def percent(row: dict, column: str) -> str:
    """A summary's accuracy as text: value [low, high], in percent."""
    a = row[column]
    return f"{100 * a['value']:.1f} [{100 * a['low']:.1f}, {100 * a['high']:.1f}]"


@lru_cache(maxsize=8)
def _summaries(results: Path, files: tuple) -> list[dict]:
    """Every summary, computed anew when a file of records has changed."""
    return [evidence.summary(path) for path in evidence.files(results)]


def evidence_rows(bench: str, norm: str = "Linf", attack: str = "pgd", results: Path = RESULTS, eps: float | None = None) -> list[dict]:
    """Summaries of a bench's experiments at radius `eps` (the norm's headline radius); the most images first, then the most iterations."""
    rows = _summaries(results, tuple((path, path.stat().st_mtime_ns) for path in sorted(results.glob("*/*.jsonl"))))
    keep = [r for r in rows if (r["bench"], r["norm"], r["attack"].partition(":")[0]) == (bench, norm, attack)]
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
            "seed": r["seed"],
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
    n, record = (any_match["n"], f"{any_match['bench']}/{any_match['file']}") if any_match else ("", "")
    return line | {"n": n, "note": claim.note, "record": record}


def show(frame: pd.DataFrame) -> Styler:
    """A table for the page: small print, no index, and each record a link to its file, which the book carries along."""
    link = lambda file: file and f'<a href="../{file}">{file.rpartition("--")[2].removesuffix(".jsonl")}</a>'
    styled = frame.style.hide(axis="index").format({c: link for c in frame if c == "record"})
    return styled.set_table_attributes('class="dataframe" style="font-size: 75%"')


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


# ---- every purifier on one bench ---------------------------------------------------------------------------------------------


def cost(defence: str, schedule: Schedule | None = None) -> int:
    """Denoiser calls per answer of a defence: calls of one purification times the votes that it prescribes itself; 0 without a denoiser."""
    _, purifier = specs.parse(defence, DEFENCES)
    if purifier is None or isinstance(purifier, Trained):
        return 0
    return purifier.calls(schedule or linear_schedule()) * getattr(purifier, "votes", 1)


def field(bench: str, norm: str = "Linf", attack: str = "pgd", results: Path = RESULTS, eps: float | None = None) -> list[dict]:
    """One record per defence under the same attack: the largest, seed 0, and for PGD the standard budget on the exact gradient."""
    rows = [r for r in evidence_rows(bench, norm, attack, results, eps) if r["seed"] == 0]
    if attack == "pgd":
        rows = [r for r in rows if r["defence"] == "none" or (r["iterations"], r["gradient"]) == (20, "exact")]
    return list({r["defence"]: r for r in reversed(rows)}.values())


def by_cost(rows: list[dict]) -> list[dict]:
    """`rows` (summaries) in the order of denoiser calls per answer."""
    return sorted(rows, key=lambda r: (cost(r["defence"]), r["defence"]))


def fair(bench: str, norm: str = "Linf", results: Path = RESULTS) -> pd.DataFrame:
    """The same bench, votes and attack budget for every row: calls, and single-shot accuracy clean and under each attack measured."""
    pgd, bpda = ({r["defence"]: r for r in field(bench, norm, attack, results)} for attack in ("pgd", "bpda"))
    lines = []
    for defence in sorted(pgd | bpda, key=lambda d: (cost(d), d)):
        row = pgd.get(defence) or bpda[defence]
        line = {"defence": defence, "calls": cost(defence), "n": row["n"], "clean": percent(row, "clean_single")}
        line |= {"null": percent(row, "null_single"), "PGD": percent(pgd[defence], "adversarial_single") if defence in pgd else ""}
        line |= {"PGD, vote": percent(pgd[defence], "adversarial_majority") if defence in pgd else ""}
        lines.append(line | {"BPDA": percent(bpda[defence], "adversarial_single") if defence in bpda else ""})
    return pd.DataFrame(lines)


def against_the_method(
    bench: str, norm: str = "Linf", attack: str = "pgd", method: str = "hetpure", results: Path = RESULTS
) -> pd.DataFrame:
    """Every row paired with the method on shared images: difference of attacked accuracy, row minus method, and McNemar's p."""
    files = {r["defence"]: results / bench / r["file"] for r in field(bench, norm, attack, results)}
    if method not in files:
        return pd.DataFrame()
    pairs = {name: compare(path, files[method]) for name, path in files.items() if name != method}
    lines = [{"defence": n, "calls": cost(n)} | p | {"difference": f"{p['difference']} points"} for n, p in pairs.items()]
    return pd.DataFrame(sorted(lines, key=lambda line: (line["calls"], line["defence"])))


def rival_row(defence: str, method: str, bench: str, results: Path = RESULTS) -> pd.DataFrame:
    """What the paper prints for `method` (the start of its name in Tables 1, 3 and 5) beside what was measured here for `defence`."""
    lines, defence = [], specs.normal(defence, DEFENCES)
    for name, norm in (("Table 1", "Linf"), ("Table 3", "L2"), ("Table 5", "Linf")):
        claims = [c for c in TABLES[name].rows if method and c.method.startswith(method)]
        for i, attack in enumerate(TABLES[name].attacks):
            row = next((r for r in field(bench, norm, ATTACK_NAMES[attack], results) if r["defence"] == defence), None)
            paper = claims[0].robust[i] if claims else ""
            if row or paper:
                lines.append({"attack": f"{attack}, {norm}", "paper": paper} | _measured_cells(row))
    return pd.DataFrame(lines)


def _measured_cells(row: dict | None) -> dict:
    cells = {"clean": percent(row, "clean_single"), "measured [95 %]": percent(row, "adversarial_single")} if row else {}
    return {"clean": "", "measured [95 %]": ""} | cells | {"n": row["n"] if row else "", "record": row["file"] if row else ""}


def pareto(points: dict[str, tuple[float, float]]) -> list[str]:
    """The names that no other beats: no point with at most as many calls has a higher accuracy, and none with fewer the same."""
    beaten = lambda c, a: any((d <= c and b > a) or (d < c and b >= a) for d, b in points.values())
    return sorted((n for n, p in points.items() if not beaten(*p)), key=lambda n: points[n])


def conclusions(pairs: pd.DataFrame) -> list[str]:
    """What the paired intervals allow one to say of every row against the method, in sentences."""
    if pairs.empty:
        return ["No record compares a rival with the method yet."]
    words = {"higher": "more accurate under attack than the method", "lower": "less accurate under attack than the method"}
    names = {v: [f"`{r.defence}`" for r in pairs.itertuples() if r.verdict == v] for v in dict.fromkeys(pairs["verdict"])}
    said = [f"**{words.get(v, 'Not told apart from the method')}**: {', '.join(n)}." for v, n in names.items()]
    return [s[:2] + s[2].upper() + s[3:] for s in said]
