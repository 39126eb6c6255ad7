"""Every claim of the paper as a row: its place, its content in our words, the measurement, the
verdict, its scale, the records behind it and the command that repeats it.

Five kinds: a ``number`` of a table; a ``comparison`` of two rows; ``arithmetic`` on printed numbers
(`checked`); a ``statement`` of the text or of a figure; an ``erratum``, where paper and released
code differ or a formula is wrong. Verdicts come from `evidence.compare`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from hetpure_lab.attacks import ATTACKS
from hetpure_lab.common import names, specs, stats
from hetpure_lab.common.paths import RESULTS, ROOT
from hetpure_lab.common.stats import Accuracy
from hetpure_lab.defences import DEFENCES
from hetpure_lab.evidence import ablations, compare, studies
from hetpure_lab.evidence.compare import Cell, Judged, Known
from hetpure_lab.paper import checked, comparisons, printed
from hetpure_lab.paper.protocols import attack_of

KINDS = ("number", "comparison", "arithmetic", "statement", "erratum")
READ = "quoted from reading the released code, not executed here"
SHOWN = "shown by the test or the recorded outputs that the command runs"


@dataclass(frozen=True)
class Row:
    """One claim. `measured` is in points, or None; `records` are files of ``results/``; `seconds`
    the processor time that they took; `remark` belongs beside the verdict.
    """

    id: str
    kind: str
    place: str
    statement: str
    conditions: str
    verdict: str
    scale: str = ""
    measured: Accuracy | None = None
    found: str = ""
    records: tuple[str, ...] = ()
    seconds: float | None = None
    command: str = ""
    remark: str = ""
    erratum: str = ""
    before: str = ""

    def as_json(self) -> dict:
        """The row as values; the measured difference in points."""
        m = self.measured
        points = m and {k: round(100 * getattr(m, k), 2) for k in ("value", "low", "high")} | {
            "n": m.n
        }
        return asdict(self) | {"measured": points, "records": list(self.records)}


# ---- tables ----------------------------------------------------------------------------------


def numbers(everything: dict[str, Known]) -> Iterator[Row]:
    """Every printed accuracy of Tables 1 to 8, and beside it this project's measurement. A number
    is of its own networks: small ones cannot test it.
    """
    for table in printed.TABLES.values():
        for row in table.rows:
            for column, text in zip(
                (comparisons.STANDARD, *table.attacks), (row.standard, *row.robust)
            ):
                if comparisons.number(text) is None:
                    continue
                cell, known = None, everything.get(table.bench, Known({}))
                if row.specs:
                    cell = _cell_of(row, table, column, known)
                yield _number(table, row, column, text, cell, known)


def _cell_of(row: printed.Claim, table: printed.Table, column: str, known: Known) -> Cell | None:
    """The cell with most images that measures a row in a column."""
    names = [specs.normal(s, DEFENCES) for s in row.specs]
    slug = attack_of(table.attacks[0] if column == comparisons.STANDARD else column, table.bench)
    same = [c for c in known.cells if c[0] in names and c[2] == 0 and _at(c[1], slug, table, row)]
    return max(same, key=lambda c: (len(known.cells[c]), -len(c[1])), default=None)


def _at(attack: str, slug: str, table: printed.Table, row: printed.Claim) -> bool:
    name, settings = specs.parse(attack, ATTACKS)
    radius = row.eps or table.radius
    ball = settings.norm == table.norm and math.isclose(settings.eps, radius, rel_tol=1e-5)
    plain = getattr(settings, "gradient", "exact") in ("exact", "bpda") and not getattr(
        settings, "frozen", ""
    )
    return name == slug and ball and plain


def _number(
    table: printed.Table,
    row: printed.Claim,
    column: str,
    text: str,
    cell: Cell | None,
    known: Known,
) -> Row:
    measured, records, command, seconds, scale = None, (), _start(row, table, column), None, ""
    if cell:
        side = "clean" if column == comparisons.STANDARD else "adversarial"
        measured = stats.mean_rate(np.array(list(compare.shares(known.cells[cell], side).values())))
        records, command, seconds = (known.files[cell],), run(table.bench, cell), spent(known, cell)
        stand_in = any(t in row.note for t in (printed.STAND_IN, printed.BY_DDIM))
        scale = compare.scale(table.bench, measured.n, stand_in=stand_in)
    standard = column == comparisons.STANDARD
    what = "standard accuracy" if standard else f"robust accuracy under {column}"
    said = f"{row.method}: {what} {text} %"
    verdict = "not tested"
    if measured and scale == "paper":
        inside = 100 * measured.low <= comparisons.number(text) <= 100 * measured.high
        verdict = "verified" if inside else "falsified"
    return Row(
        _slug(table.name, row.method, column),
        "number",
        table.name,
        said,
        table.caption,
        verdict,
        scale,
        measured,
        records=records,
        seconds=seconds,
        command=command,
        remark=row.note
        or (
            ""
            if verdict != "not tested"
            else "a number of its own networks, which small ones cannot test"
        ),
    )


def _start(row: printed.Claim, table: printed.Table, column: str) -> str:
    """How to begin where nothing is measured."""
    if not row.specs:
        return ""
    slug = attack_of(table.attacks[0] if column == comparisons.STANDARD else column, table.bench)
    settings = "" if table.norm == "Linf" else f":norm=L2,eps={table.radius:g}"
    bench = table.bench if row.ours else f"{table.bench.split('-')[0]}-paper"
    return (
        f"hetpure run --bench {bench} --defence {row.specs[-1]} --attack {slug}{settings}"
        " --n-images 512"
    )


def compared(everything: dict[str, Known]) -> Iterator[Row]:
    """Every comparison of the method with another row of its table."""
    for claim in comparisons.comparisons():
        known = everything.get(claim.table.bench, Known({}))
        seen = comparisons.measure(claim, known)
        if seen is None and claim.variant:
            continue
        name = ", ".join(filter(None, (claim.rival.method, claim.variant)))
        way = "above" if claim.claimed > 0 else "below"
        said = (
            f"the method is {abs(claim.claimed):.2f} points {way} {claim.rival.method} in"
            f" {claim.column}"
        )
        row_id = _slug(claim.table.name, "against", name, claim.column)
        about = {"id": row_id, "kind": "comparison", "place": claim.table.name, "statement": said}
        about |= {"conditions": claim.table.caption, "verdict": comparisons.verdict(claim, seen)}
        if seen is None:
            yield Row(**about, command=_start(claim.rival, claim.table, claim.column))
            continue
        yield _judged(
            about,
            seen.judged,
            seen.scale,
            known,
            claim.table.bench,
            comparisons.cells(claim, seen.attack, known),
            old(claim.claimed, seen.judged),
        )


def _judged(
    about: dict,
    judged: Judged,
    scale: str,
    known: Known,
    bench: str,
    cells: Sequence[Cell],
    before: str,
) -> Row:
    found = (
        f"sign-flip p {judged.p:.2g}, {judged.holm:.2g} after Holm's correction over {judged.tests}"
        " tests"
    )
    files = tuple(known.files[c] for c in cells if c in known.files)
    seconds = sum(filter(None, (spent(known, c) for c in cells))) or None
    command = run(bench, cells[0])
    details = {
        "records": files,
        "seconds": seconds,
        "command": command,
        "remark": judged.beside,
        "before": before,
    }
    return Row(**about, scale=scale, measured=judged.difference, found=found, **details)


def old(claimed: float, judged: Judged) -> str:
    """The verdict of the rule before this one: the side of zero on which the interval lies."""
    d = judged.difference if claimed > 0 else stats.opposite(judged.difference)
    return "supported" if d.low > 0 else "contradicted" if d.high < 0 else "open"


def spent(known: Known, cell: Cell) -> float | None:
    """The processor seconds that a cell's records took, if all of them say."""
    times = [r.get("seconds") for r in known.cells[cell].values()]
    return None if None in times else round(sum(times), 1)


def run(bench: str, cell: Cell, n: int = 64) -> str:
    """The command that measures a cell."""
    defence, attack, seed = cell
    words = (
        f"hetpure run --bench {bench} --defence {defence} --attack {specs.readable(attack)}"
        f" --n-images {n}"
    )
    return words + (f" --seed {seed}" if seed else "")


# ---- arithmetic ------------------------------------------------------------------------------


def arithmetic() -> Iterator[Row]:
    """Every check of `checked`."""
    for c in checked.every():
        conditions, command = "the paper's own tables", f"hetpure claims {c.id}"
        yield Row(
            c.id,
            "arithmetic",
            c.place,
            c.printed,
            conditions,
            c.verdict,
            "paper",
            None,
            c.found,
            command=command,
            erratum=c.erratum,
        )


# ---- statements of the text ------------------------------------------------------------------


@dataclass(frozen=True)
class Statement:
    """A statement of the text or of a figure. `parts` gives the differences that must all be above
    zero for it to hold, or nothing if it is not measured; `why` is the caution beside it, `command`
    the beginning where nothing else says one. A `stand_in` for a part of the paper makes a toy.
    """

    id: str
    place: str
    text: str
    parts: Callable[[Known], Sequence[tuple[Judged | None, Cell, Cell]]] = field(
        default=lambda known: []
    )
    bench: str = "cifar10-small"
    why: str = ""
    stand_in: bool = False
    command: str = ""


GRID = ablations.ATTACK
L2 = "pgd:norm=L2,eps=0.5,step=0.05"


def over(
    one: str, two: str, attack: str = "pgd", side: str = "adversarial", other: str = ""
) -> Callable[[Known], list]:
    """The difference of two defences under one attack, or of one under `attack` and `other`."""

    def parts(known: Known) -> list[tuple[Judged | None, Cell, Cell]]:
        cells = (
            (specs.normal(one, DEFENCES), attack, 0),
            (specs.normal(two, DEFENCES), other or attack, 0),
        )
        cells = tuple((d, known.bare(a), s) if d == "none" else (d, a, s) for d, a, s in cells)
        return [(known.between(*cells, side), *cells)]

    return parts


def chain(
    specs_: Sequence[str], attack: str = GRID, side: str = "adversarial"
) -> Callable[[Known], list]:
    """Each of a row of defences above its neighbour before."""
    return lambda known: [
        part for a, b in pairwise(specs_) for part in over(b, a, attack, side)(known)
    ]


def against_all(grid: str, attack: str = GRID) -> Callable[[Known], list]:
    """The method above every other point of an ablation grid."""
    points = [e.defence for e in ablations.experiments(grid).values() if e.defence != "hetpure"]
    return lambda known: [part for p in points for part in over("hetpure", p, attack)(known)]


def curve(attack: str) -> Callable[[Known], list]:
    """The method above the curve of uniform noise at its own clean accuracy."""
    cell = ("hetpure", attack, 0)
    return lambda known: [(known.at_equal_clean(*cell), cell, cell)]


def against_half(defence: str, attack: str = "pgd") -> Callable[[Known], list]:
    """The share of right answers on clean images, purified, minus one half."""

    def parts(known: Known) -> list[tuple[Judged | None, Cell, Cell]]:
        cell = (specs.normal(defence, DEFENCES), attack, 0)
        records = known.cells.get(cell)
        if not records:
            return [(None, cell, cell)]
        right = np.array(list(compare.shares(records, "clean").values()))
        pair = compare.Pair(right, np.full(len(right), 0.5))
        return [(compare.judge({"": pair})[""], cell, cell)]

    return parts


def lead(one: str, two: str, long: str, short: str) -> Callable[[Known], list]:
    """The lead of one defence over another under a long attack minus that under a short one."""

    def parts(known: Known) -> list[tuple[Judged | None, Cell, Cell]]:
        cells = [(specs.normal(d, DEFENCES), a, 0) for a in (long, short) for d in (one, two)]
        missing = [c for c in cells if c not in known.cells]
        if missing:
            return [(None, missing[0], missing[-1])]
        sides = [compare.shares(known.cells[c], "adversarial") for c in cells]
        shared = [k for k in sides[0] if all(k in side for side in sides)]
        a, b, c, d = (np.array([side[k] for k in shared]) for side in sides)
        judged = compare.judge({"": compare.Pair(a - b, c - d)})[""]
        return [(judged, *cells[:2])]

    return parts


TAUS = [f"hetpure:tau={t}" if t != 0.8 else "hetpure" for t in (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)]
UNIFORMS = [f"uniform:t={t}" for t in (0.05, 0.1, 0.2, 0.3, 0.4)]
DIGITS = [f"sde:t={t}" for t in (0.2, 0.3, 0.4)]
CORRECTED = "autoattack-corrected:iterations=20,eot=8,accept=16"

STATEMENTS = (
    Statement(
        "fig7-standard-rises",
        "§5.3, Fig 7 left",
        "standard accuracy consistently rises with the threshold",
        over(TAUS[-1], TAUS[0], GRID, "clean"),
    ),
    Statement(
        "fig7-every-step",
        "§5.3, Fig 7 left",
        "it rises at every step of the threshold",
        chain(TAUS, GRID, "clean"),
    ),
    Statement(
        "fig7-large-tau",
        "§5.3, Fig 7 left",
        "a threshold above 0.8 leaves less under attack",
        over("hetpure", TAUS[-1], GRID),
    ),
    Statement(
        "fig7-small-tau",
        "§5.3, Fig 7 left",
        "a threshold below 0.8 leaves less under attack",
        over("hetpure", TAUS[0], GRID),
    ),
    Statement(
        "fig7-tau-best",
        "§5.3, Fig 7 left",
        "no threshold leaves more under attack than about 0.8",
        against_all("tau"),
    ),
    Statement(
        "fig7-levels-best",
        "§5.3, Fig 7 right",
        "t_l = 0.2 with t_s = 0.05 leaves the most under attack",
        against_all("levels"),
    ),
    Statement(
        "table7-every-block",
        "§5.3, Table 7",
        "every block of the mask is needed",
        against_all("blocks"),
    ),
    Statement(
        "strong-noise-costs",
        "abstract, §1",
        "uniform noise compromises normal pixels: more of it costs standard accuracy",
        chain(UNIFORMS[::-1], "pgd", "clean"),
    ),
    Statement(
        "weak-noise-fails",
        "abstract, Fig 1",
        "low noise alone is insufficient under attack",
        over("uniform:t=0.2", "uniform:t=0.05"),
    ),
    Statement(
        "two-levels-keep-more",
        "abstract, Fig 1",
        "two levels keep more standard accuracy than strong noise everywhere",
        over("hetpure", "hetpure:mask_kind=all", GRID, "clean"),
    ),
    Statement(
        "two-levels-beat-weak",
        "abstract, Fig 1",
        "two levels leave more under attack than weak noise everywhere",
        over("hetpure", "hetpure:mask_kind=none", GRID),
    ),
    Statement(
        "two-levels-beat-strong",
        "abstract, Fig 1",
        "they leave more under attack than strong noise everywhere",
        over("hetpure", "hetpure:mask_kind=all", GRID),
    ),
    Statement(
        "balance",
        "abstract, §1, Fig 1",
        "they strike a better balance than one level: more under attack at equal standard accuracy",
        curve("pgd"),
    ),
    Statement("balance-autoattack", "abstract, §1", "they do under AutoAttack", curve(CORRECTED)),
    Statement("balance-l2", "§5.2, Tables 3 and 4", "they do in the l2 ball", curve(L2)),
    Statement(
        "attention-matters",
        "§3",
        "perturbations where the classifier looks matter most: attention beats a random mask of"
        " equal area",
        over("hetpure", "hetpure:mask_kind=random"),
    ),
    Statement(
        "attention-not-inverse",
        "§3",
        "attention beats the inverted mask",
        over("hetpure", "hetpure:mask_kind=inverted"),
    ),
    Statement(
        "beats-at",
        "abstract",
        "the method outperforms adversarial training (Table 1 prints less under PGD+EOT)",
        over("hetpure", "at"),
    ),
    Statement(
        "beats-at-l2",
        "§5.2, Table 3",
        "it outperforms adversarial training in the l2 ball",
        over("hetpure", "at:model=pgd-at-l2", L2),
    ),
    Statement(
        "better-than-t02",
        "§5.2, Table 6",
        "it leaves significantly more under attack than DiffPure at t* = 0.2",
        over("hetpure", "uniform:t=0.2"),
        why="DDIM stands for the SDE",
        stand_in=True,
    ),
    Statement(
        "significant-standard",
        "§5.2, Table 1",
        "it significantly outperforms baselines in standard accuracy",
        over("hetpure", "gradual", "pgd", "clean"),
    ),
    Statement(
        "significant-pgd",
        "§5.2, Table 1",
        "it significantly outperforms baselines under PGD",
        over("hetpure", "gradual"),
    ),
    Statement(
        "significant-autoattack",
        "§5.2, Table 1",
        "it significantly outperforms baselines under AutoAttack",
        over("hetpure", "gradual", CORRECTED),
    ),
    Statement(
        "digits-standard-falls",
        "§8, Table 8",
        "on digits DiffPure's standard accuracy falls as t* grows",
        chain(DIGITS[::-1], "pgd", "clean"),
        bench="svhn-small",
    ),
    Statement(
        "digits-rises",
        "§8, Table 8",
        "on digits DiffPure leaves more under attack at t* = 0.3 than at 0.2",
        over(DIGITS[1], DIGITS[0]),
        bench="svhn-small",
    ),
    Statement(
        "digits-falls",
        "§8, Table 8",
        "and less again at t* = 0.4",
        over(DIGITS[1], DIGITS[2]),
        bench="svhn-small",
    ),
    Statement(
        "digits-margin",
        "§8",
        "on digits the method significantly outperforms Lee & Kim under attack",
        over("hetpure:t_l=0.4,t_s=0.2", printed.GRADUAL["svhn"]),
        bench="svhn-small",
    ),
    Statement(
        "digits-lags",
        "§8",
        "there it lags behind Lee & Kim in standard accuracy",
        over(printed.GRADUAL["svhn"], "hetpure:t_l=0.4,t_s=0.2", "pgd", "clean"),
        bench="svhn-small",
    ),
    Statement(
        "bpda-weaker",
        "§5.2",
        "BPDA approximates: it breaks less than the exact gradient",
        over("hetpure", "hetpure", "bpda:iterations=20,eot=8", other="pgd"),
    ),
    Statement(
        "autoattack-strong",
        "§5.1",
        "AutoAttack as packaged is a strong adaptive attack: it leaves no more than PGD",
        over("hetpure", "hetpure", "pgd", other="autoattack:iterations=20,eot=8"),
    ),
    Statement(
        "surrogate-enough",
        "§5.1",
        "a surrogate gives the gradient of a white-box attack: it leaves no more than the"
        " exact one",
        over("hetpure", "hetpure", "pgd", other="pgd:gradient=surrogate"),
    ),
    Statement(
        "sampler-attacked",
        "Eq 7 and 9",
        "ancestral steps, as printed, leave more under attack than DDIM's, as released (B2)",
        over("hetpure:sampler=ddpm", "hetpure", GRID),
    ),
    Statement(
        "sampler-clean",
        "Eq 7 and 9",
        "ancestral steps keep more standard accuracy than DDIM's (B2)",
        over("hetpure:sampler=ddpm", "hetpure", GRID, "clean"),
    ),
    Statement(
        "fig2-classified",
        "Fig 2",
        "samples purified by the method can be classified correctly: more often than not",
        against_half("hetpure"),
    ),
    Statement(
        "half-iterations",
        "§5.2",
        "under PGD of equal length the lead over Bai et al. would be larger",
        lead("hetpure", "contrastive:t=0.1", "pgd:iterations=40,eot=16", "pgd"),
        why="the lead after twice the iterations and purifications minus the lead before",
    ),
    Statement(
        "fig5-masks",
        "Fig 5",
        "masks cover what a person would name the object",
        why="needs outlines of objects drawn by people for these images, which no data set at hand"
        " has; the command draws the masks to look at",
        command="papermill chapters/09_inside.ipynb out/09_inside.ipynb",
    ),
    Statement(
        "unknown-attacks",
        "§1",
        "purification defends against unknown attacks, adversarial training does not",
        over("hetpure", "at", "spatial"),
        why="an attack outside every l_p ball: rotation and translation",
    ),
)


def statements(everything: dict[str, Known], results: Path = RESULTS) -> Iterator[Row]:
    """Every statement, judged where its differences are measured."""
    for s in STATEMENTS:
        known = everything.get(s.bench, Known({}))
        parts = s.parts(known)
        about = {
            "id": s.id,
            "kind": "statement",
            "place": s.place,
            "statement": s.text,
            "conditions": s.bench,
        }
        if not parts or any(judged is None for judged, *_ in parts):
            missing = next(
                (
                    run(s.bench, c)
                    for judged, *cs in parts
                    if judged is None
                    for c in cs
                    if c not in known.cells
                ),
                "",
            )
            yield Row(
                **about,
                verdict="not tested",
                remark=s.why,
                command=s.command or missing or f"hetpure claims {s.id}",
            )
            continue
        yield _stated(s, about, parts, known)
    yield _three_datasets(everything)
    yield from _on_paths(results)
    yield from _studied(results)


def _stated(s: Statement, about: dict, parts: Sequence, known: Known) -> Row:
    """All parts must hold; one that is established the other way decides against the statement."""
    scales = [compare.scale(s.bench, j.difference.n, j.floor, s.stand_in) for j, *_ in parts]
    verdicts = [compare.verdict(1, j, at) for (j, *_), at in zip(parts, scales)]
    verdict = together(verdicts)
    telling = min(parts, key=lambda part: part[0].difference.value)
    cells = list(dict.fromkeys(c for _, *cs in parts for c in cs))
    row = _judged(
        about | {"verdict": verdict},
        telling[0],
        scales[0],
        known,
        s.bench,
        telling[1:],
        old(1, telling[0]),
    )
    count = (
        f"{verdicts.count('verified')} of {len(parts)} differences established, the least shown; "
        if len(parts) > 1
        else ""
    )
    files = tuple(dict.fromkeys(known.files[c] for c in cells if c in known.files))
    remark = "; ".join(filter(None, (s.why, row.remark)))
    return Row(**{**vars(row), "found": count + row.found, "records": files, "remark": remark})


def together(verdicts: Sequence[str]) -> str:
    """The verdict on a statement that needs all its parts, from theirs."""
    against = [v for v in verdicts if v in ("falsified", compare.NOT_HERE)]
    if against:
        return against[0]
    return "verified" if set(verdicts) == {"verified"} else "inconclusive"


DATASETS = {"Table 1": "CIFAR-10", "Table 6": "ImageNet", "Table 8": "SVHN"}


def _three_datasets(everything: dict[str, Known]) -> Row:
    """That the method outperforms others on three data sets: every lead under attack that Tables 1,
    6 and 8 print, as `compared` has it; one that is established the other way decides."""
    about = {"id": "three-datasets", "kind": "statement", "place": "abstract"}
    about |= {
        "statement": "the method outperforms others under attack on three data sets",
        "conditions": ", ".join(f"{table} for {name}" for table, name in DATASETS.items()),
    }
    lines = [
        (c, comparisons.measure(c, everything.get(c.table.bench, Known({}))))
        for c in comparisons.comparisons()
        if c.table.name in DATASETS and c.side == "adversarial" and c.claimed > 0 and not c.variant
    ]
    found = [(c, seen) for c, seen in lines if seen]
    if not found:
        return Row(**about, verdict="not tested", command="hetpure queue")
    verdicts = {
        (c.table.name, c.rival.method, c.column): comparisons.verdict(c, s) for c, s in found
    }
    said = []
    for table, name in DATASETS.items():
        words = [v for (at, *_), v in verdicts.items() if at == table]
        counts = ", ".join(f"{words.count(w)} {w}" for w in compare.VERDICTS if w in words)
        said.append(f"{name}: {counts or 'none measured'}")
    measured = f"of {len(lines)} printed leads under attack {len(found)} are measured"
    known = {c.table.bench: everything[c.table.bench] for c, _ in found}
    cells = dict.fromkeys(
        (c.table.bench, (d, s.attack, 0)) for c, s in found for d in (c.ours, c.defence)
    )
    files = tuple(known[b].files[c] for b, c in cells if c in known[b].files)
    least = min((s.scale for _, s in found), key=list(compare.SCALES)[::-1].index)
    return Row(
        **about,
        verdict=together([*verdicts.values()]),
        scale=least,
        found=f"{measured}; {'; '.join(said)}",
        records=files,
        command="hetpure claims three-datasets",
        remark="line by line on the scorecard, where each has its own scale",
    )


PATHS, BY_PATHS = "paths", "cifar10-small"  # the study behind Figs 4 and 6, and its bench


def _on_paths(results: Path) -> Iterator[Row]:
    """Statements of Figs 4 and 6, from the study of paths."""
    rows = studies.table(PATHS, BY_PATHS, results=results)
    method, others = "hetpure", []
    if len(rows):
        others = [d for d in dict.fromkeys(rows.defence) if d != method]
    of = lambda defence, column: rows[rows.defence == defence].set_index("image")[column]
    way = "progress, the share of the way back to the original in feature space"
    yield _of_study(
        "fig4-directions",
        "Fig 4",
        "purification paths of the method point to the original class",
        [(of(method, "progress"), 0)] if others else [],
        f"{way} (chapter 9): the paper defines no measure (E33)",
        results,
    )
    yield _of_study(
        "fig4-diffpure",
        "Fig 4",
        "those of DiffPure at 0.4 do not",
        [(-of("uniform:t=0.4", "progress"), 0)] if "uniform:t=0.4" in others else [],
        f"minus the {way}; DDIM stands for the SDE",
        results,
        stand_in=True,
    )
    yield _of_study(
        "fig6-most-similar",
        "Fig 6",
        "the joint distribution of purified images is the most similar to the originals",
        [(of(method, c), of(other, c)) for c in ("pixels", "features") for other in others],
        "Pearson's r of an image's pixels and of its features with the original's, of transferred"
        " adversarial examples, against uniform noise at three levels: the paper names no measure"
        " (E33)",
        results,
    )


def _of_study(
    row_id: str,
    place: str,
    said: str,
    pairs: Sequence,
    remark: str,
    results: Path,
    stand_in: bool = False,
) -> Row:
    """A statement that needs all differences of columns of one study to be above zero."""
    file = studies.path(PATHS, BY_PATHS, results=results).relative_to(results).as_posix()
    about = {"id": row_id, "kind": "statement", "place": place, "statement": said}
    about |= {"conditions": BY_PATHS, "remark": remark, "command": f"hetpure study {PATHS}"}
    if not pairs:
        return Row(**about, verdict="not tested")
    column = lambda a, b: (0 * a if isinstance(b, int) else b[a.index]).to_numpy()
    judged = compare.judge(
        {i: compare.Pair(a.to_numpy(), column(a, b)) for i, (a, b) in enumerate(pairs)}, "study"
    )
    least = min(judged.values(), key=lambda j: j.difference.value)
    scale = compare.scale(BY_PATHS, least.difference.n, stand_in=stand_in)
    verdicts = [compare.verdict(1, j, scale) for j in judged.values()]
    count = f"{verdicts.count('verified')} of {len(pairs)} differences established, the least: "
    d = studies.signed(least.difference)
    found = f"{count if len(pairs) > 1 else ''}{d}, n = {least.difference.n}, {least.of}"
    return Row(**about, verdict=together(verdicts), scale=scale, found=found, records=(file,))


def _studied(results: Path) -> Iterator[Row]:
    """Statements of Figs 3, 8 and 9, from the studies."""
    words = {"smaller": "verified", "larger": compare.NOT_HERE}
    far, jump = (
        studies.table(name, "cifar10-small", results=results)
        for name in ("distance", "consistency")
    )
    for line in studies.nearer(far).to_dict("records") if len(far) else []:
        said = (
            f"the method's feature distance is smaller than that of"
            f" {names.defence(line['against'])} on"
            f" {line['images']} images"
        )
        word = words.get(line["the method's distance is"], "inconclusive")
        file = (
            studies.path("distance", "cifar10-small", results=results)
            .relative_to(results)
            .as_posix()
        )
        scale, found = (
            compare.scale("cifar10-small", line["n"]),
            f"{line['difference']}, n = {line['n']}",
        )
        row_id = _slug("fig9", line["against"], line["images"])
        yield Row(
            row_id,
            "statement",
            "Fig 9",
            said,
            "cifar10-small",
            word,
            scale,
            None,
            found,
            (file,),
            None,
            "hetpure study distance",
        )
    for name, line in studies.resampled(jump).to_dict("index").items() if len(jump) else []:
        said = f"one step with U = 10 does what 20 repetitions do: {name}"
        word = (
            compare.NOT_HERE if line["the single step's is"] != "inconclusive" else "inconclusive"
        )
        file = (
            studies.path("consistency", "cifar10-small", results=results)
            .relative_to(results)
            .as_posix()
        )
        scale, found = (
            compare.scale("cifar10-small", line["n"]),
            f"{line['difference']}, n = {line['n']}",
        )
        yield Row(
            _slug("fig3", name),
            "statement",
            "§4, Fig 3",
            said,
            "cifar10-small",
            word,
            scale,
            None,
            found,
            (file,),
            None,
            "hetpure study consistency",
        )


# ---- errata ----------------------------------------------------------------------------------

ERRATA = ROOT / "book" / "errata.md"
# What shows an entry that is no arithmetic: tests, as FILE::PART OF A NAME.
SHOWN_BY = {
    "E1": "tests/core/test_core.py::merge",
    "E2": "tests/core/test_core.py::softmax",
    "E4": "tests/core/test_core.py::compos",
    "E7": "tests/core/test_core.py::grid",
    "A1": "tests/core/test_parity.py::official",
    "A2": "tests/core/test_parity.py::official",
    "A3": "tests/core/test_parity.py::official",
    "A5": "tests/core/test_parity.py::official",
    "B1": "tests/core/test_parity.py::official",
    "B2": "tests/core/test_parity.py::official",
    "B3": "tests/core/test_parity.py::official",
    "B5": "tests/core/test_parity.py::official",
    "B6": "tests/core/test_parity.py::official",
    "D5": "tests/audit/test_faults.py::",
}


def errata(path: Path = ERRATA) -> Iterator[Row]:
    """Every entry of the errata that is no arithmetic: the printed or released version, and its
    evidence.
    """
    covered = {c.erratum for c in checked.every()}
    for line in path.read_text().splitlines():
        found = re.match(r"\| ([A-E]\d+) \| (.*) \|$", line)
        if not found or found[1] in covered:
            continue
        name, cells = found[1], [cell.strip() for cell in re.split(r"(?<!\\)\|", found[2])]
        evidence = cells[-1] if name[0] != "E" else "the paper's own text"
        text = (
            f"the paper: {cells[0]}; the released code: {cells[1]}" if name[0] != "E" else cells[1]
        )
        shown = (
            READ
            if evidence.startswith("read") and ";" not in evidence and "," not in evidence
            else SHOWN
        )
        command = f"hetpure claims {name}"
        if name in SHOWN_BY:
            file, _, part = SHOWN_BY[name].partition("::")
            command = f"python -m pytest {file}" + (f" -k {part}" if part else "")
        place = cells[0] if name[0] == "E" else "paper and released code"
        verdict = "right" if cells[-1].startswith("no difference") or name == "C6" else "wrong"
        details = {"command": command, "remark": shown if name[0] != "E" else "", "erratum": name}
        yield Row(name, "erratum", place, text, "", verdict, "paper", None, evidence, **details)


# ---- all -------------------------------------------------------------------------------------


def every(results: Path = RESULTS) -> list[Row]:
    """All rows, each once."""
    known = compare.everything(results)
    rows = [
        *arithmetic(),
        *statements(known, results),
        *errata(),
        *compared(known),
        *numbers(known),
    ]
    return list({row.id: row for row in rows}.values())


def find(name: str, results: Path = RESULTS) -> Row:
    """One row by its id. Raises `ValueError` with the nearest ids for unknown ones."""
    rows = {row.id: row for row in every(results)}
    if name not in rows:
        near = [i for i in rows if name.lower().split("-")[0] in i.lower()][:5]
        raise ValueError(
            f"unknown claim {name!r}; near: {', '.join(near) or 'none'}; hetpure claims lists all"
        )
    return rows[name]


def _slug(*words: str) -> str:
    text = re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower().replace("t* = 0.", "t"))
    return text.strip("-")
