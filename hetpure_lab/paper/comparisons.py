"""The paper's comparisons of its method with other rows of its tables, each held against the
records by the one rule of `evidence.compare`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from hetpure_lab.attacks import ATTACKS
from hetpure_lab.common import specs
from hetpure_lab.defences import DEFENCES
from hetpure_lab.evidence import compare
from hetpure_lab.evidence.compare import Cell, Judged, Known
from hetpure_lab.paper import printed
from hetpure_lab.paper.protocols import attack_of

STANDARD = "standard"
SDE = re.compile(r"^sde:t=([\d.]+)$")


@dataclass(frozen=True)
class Comparison:
    """A claim of the paper: in `column` of `table`, the row `method` is `claimed` points above the
    row `rival`. `defence` and `attack` (a slug) measure it here; `variant` says in which way that
    is not the first choice, `stand_in` that something stands for what the paper used."""

    table: printed.Table
    method: printed.Claim
    rival: printed.Claim
    column: str
    attack: str
    claimed: float
    defence: str
    variant: str = ""
    stand_in: bool = False

    @property
    def ours(self) -> str:
        """The defence that is the method here."""
        return specs.normal(self.method.ours or self.method.published, DEFENCES)

    @property
    def side(self) -> str:
        """The column of records that decides."""
        return "clean" if self.column == STANDARD else "adversarial"


def number(text: str) -> float | None:
    """The value that a cell prints, without deviation and remarks."""
    found = re.match(r"[\d.]+", text)
    return float(found[0]) if found else None


def comparisons() -> Iterator[Comparison]:
    """All comparisons of the method, the last row of a table, with another row of the table."""
    for table in printed.TABLES.values():
        method = table.rows[-1]
        for row in (other.at(table.radius) for other in table.rows[:-1]):
            columns = [(STANDARD, table.attacks[0], method.standard, row.standard)]
            columns += [
                (a, a, *values) for a, *values in zip(table.attacks, method.robust, row.robust)
            ]
            for column, attack, *values in columns if row.specs else ():
                ours, theirs = map(number, values)
                if ours and theirs and ours != theirs:
                    yield from _variants(table, method, row, column, attack, ours - theirs)


def _variants(
    table: printed.Table,
    method: printed.Claim,
    row: printed.Claim,
    column: str,
    name: str,
    gap: float,
) -> Iterator[Comparison]:
    """The comparison as it is measured first, and as it could be measured else."""
    attack, spec = attack_of(name, table.bench), row.ours or row.published
    stand_in = bool(row.ours) and any(
        text in row.note for text in (printed.STAND_IN, printed.BY_DDIM)
    )
    stand_in |= bool(row.ours) and row.ours == "at" and bool(row.note)
    claim = Comparison(
        table, method, row, column, attack, gap, specs.normal(spec, DEFENCES), "", stand_in
    )
    yield claim
    if found := SDE.match(spec):
        by_ddim = specs.normal(f"uniform:t={found[1]}", DEFENCES)
        yield replace(claim, defence=by_ddim, variant="by DDIM", stand_in=True)
    if column != STANDARD and attack == "autoattack-corrected":
        yield replace(claim, attack="autoattack", variant="as packaged")


@dataclass(frozen=True)
class Measured:
    """A comparison's decision: the verdict of the rule under one `attack` spec, and its scale."""

    judged: Judged
    attack: str
    scale: str


def measure(claim: Comparison, known: Known) -> Measured | None:
    """Under that attack setting which most images share; of accuracy without attack, the clean
    side of any attack's records, since no attack touches it."""
    found = [
        (a, known.rivals(claim.ours, a).get((claim.defence, claim.side)))
        for a in settings(claim, known)
    ]
    found = [(attack, judged) for attack, judged in found if judged]
    if not found:
        return None
    attack, judged = max(found, key=lambda pair: pair[1].difference.n)  # the first of equals
    at = compare.scale(claim.table.bench, judged.difference.n, judged.floor, claim.stand_in)
    return Measured(judged, attack, at)


def cells(claim: Comparison, attack: str, known: Known) -> list[Cell]:
    """The cells of the method and of its rival under an attack."""
    return [
        known.alone(attack) if defence == "none" else (defence, attack, 0)
        for defence in (claim.ours, claim.defence)
    ]


def settings(claim: Comparison, known: Known) -> list[str]:
    """The attack settings that can decide a claim, the plainest first."""
    found = {a for d, a, seed in known.cells if d == claim.ours and seed == 0}
    if claim.column != STANDARD:
        found = {a for a in found if _meets(a, claim)}
    return sorted(found, key=lambda a: (len(a), a))


def _meets(attack: str, claim: Comparison) -> bool:
    slug, settings = specs.parse(attack, ATTACKS)
    ball = settings.norm == claim.table.norm and math.isclose(
        settings.eps, claim.table.radius, rel_tol=1e-5
    )
    gradient = getattr(settings, "gradient", "exact") in ("exact", "bpda")
    return slug == claim.attack and ball and gradient and not getattr(settings, "frozen", "")


def verdict(claim: Comparison, found: Measured | None) -> str:
    """One of `compare.VERDICTS`."""
    return compare.verdict(claim.claimed, found and found.judged, found.scale if found else "paper")
