"""Arithmetic of the paper's printed numbers, computed from its tables: margins, averages, bold
faces, counts of calls, and whether a mean of three runs on 512 images can give a printed number.
Needs no records.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hetpure_core import HetPure, linear_schedule
from hetpure_lab.paper.printed import COST, TABLES, Claim, Table

RIGHT, WRONG, IMPOSSIBLE = "right", "wrong", "impossible as printed"
IMAGES, RUNS = 512, 3
FIRST = ("Table 1", "Table 2", "Table 3", "Table 4")


@dataclass(frozen=True)
class Checked:
    """A printed statement with what its own tables give: `place`, what is `printed`, what is
    `found`, one of `compare.ARITHMETIC`, and the erratum that notes it.
    """

    id: str
    place: str
    printed: str
    found: str
    verdict: str
    erratum: str = ""


def value(text: str) -> float | None:
    """The number that a cell prints, without deviation and remarks."""
    head = text.split("±")[0].split(" ")[0]
    return float(head) if head.replace(".", "", 1).isdigit() else None


def cell(row: Claim, table: Table, column: str) -> str:
    """The number that a row prints in a column."""
    return row.standard if column == "standard" else row.robust[table.attacks.index(column)]


def best(table: Table, column: str, kinds: tuple[str, ...] = ("AP",)) -> tuple[float, str]:
    """The highest value of a column among the rows other than the method's, and its row."""
    rows = [(value(cell(r, table, column)), r.method) for r in table.rows[:-1] if r.kind in kinds]
    return max(row for row in rows if row[0] is not None)


# ---- margins ---------------------------------------------------------------------------------

MARGINS = (  # table, column, printed lead over the best other purifier, erratum
    ("Table 1", "standard", 3.00, "E14"),
    ("Table 1", "PGD+EOT", 3.56, "E15"),
    ("Table 1", "AutoAttack", 3.37, "E16"),
    ("Table 2", "standard", 1.37, "E17"),
    ("Table 2", "PGD+EOT", 2.91, "E18"),
    ("Table 2", "AutoAttack", 5.73, "E18"),
    ("Table 3", "standard", -0.59, "E19"),
    ("Table 3", "PGD+EOT", 0.98, "E19"),
    ("Table 3", "AutoAttack", 3.77, "E19"),
    ("Table 4", "standard", 1.21, "E20"),
    ("Table 4", "PGD+EOT", 3.33, "E20"),
    ("Table 4", "AutoAttack", 6.12, "E20"),
    ("Table 5", "standard", 3.16, "E21"),
    ("Table 5", "BPDA+EOT", -1.71, "E21"),
    ("Table 6", "standard", 0.53, "E22"),
    ("Table 6", "PGD+EOT", 3.52, "E22"),
    ("Table 8", "standard", -5.51, "E25"),
    ("Table 8", "PGD+EOT", 12.85, "E25"),
)


def margins() -> Iterator[Checked]:
    """Every lead that the text prints, against the best other purifier of the table."""
    for name, column, printed, erratum in MARGINS:
        table = TABLES[name]
        top, whose = best(table, column)
        lead = round(value(cell(table.rows[-1], table, column)) - top, 2)
        verdict = RIGHT if abs(lead - printed) < 0.005 else WRONG
        place = f"{name}, {column}"
        said = f"the method leads the best other purifier by {printed:+.2f}"
        yield Checked(
            _id("margin", place), place, said, f"{lead:+.2f}, to {whose} at {top}", verdict, erratum
        )


def beaten() -> Iterator[Checked]:
    """Whether the method outperforms most rows of adversarial training, per table and attack."""
    for name in FIRST:
        table = TABLES[name]
        for column in table.attacks:
            ours = value(cell(table.rows[-1], table, column))
            rows = [value(cell(r, table, column)) for r in table.rows if r.kind == "AT"]
            more = sum(ours > row for row in rows)
            place = f"abstract; {name}, {column}"
            said = "it outperforms most adversarially trained rows"
            verdict = RIGHT if more > len(rows) / 2 else WRONG
            yield Checked(
                _id("most", place), place, said, f"it exceeds {more} of {len(rows)}", verdict, "E27"
            )


# ---- averages, bold, means -------------------------------------------------------------------

AVERAGES = (75.38, 75.58, 75.48, 75.25, 76.27)


def averages() -> Iterator[Checked]:
    """Table 7's averages, and the lead on average that the text takes from Table 5."""
    for row, printed in zip(TABLES["Table 7"].rows, AVERAGES):
        mean = (value(row.standard) + value(row.robust[0])) / 2
        half = round(100 * (value(row.standard) + value(row.robust[0]))) % 2
        how = "truncated, not rounded" if half else "exactly"
        verdict = RIGHT if abs(mean - printed) < 0.01 else WRONG
        place = f"Table 7, {row.method}"
        yield Checked(
            _id("average", place),
            place,
            f"the average is {printed}",
            f"{mean:.3f}, {how}",
            verdict,
            "E24",
        )
    rows = TABLES["Table 5"].rows
    means = {r.method: (value(r.standard) + value(r.robust[0])) / 2 for r in rows}
    ours = means.pop(rows[-1].method)
    to = means["Song et al. (MimicDiffusion)"]
    top = max(means, key=means.get)
    said = "0.73 better on average than MimicDiffusion"
    place = "§5.2, Table 5"
    verdict = RIGHT if abs(ours - to - 0.73) < 0.006 else WRONG
    yield Checked("average-table-5", place, said, f"{ours - to:.3f}", verdict, "E21")
    lead = ours - means[top]
    verdict = RIGHT if abs(lead - 0.73) < 0.006 else WRONG
    said = "0.73 is the average advantage over the best other method"
    yield Checked("average-table-5-best", place, said, f"{lead:.2f}, to {top}", verdict, "E21")
    full = TABLES["Table 7"].rows[-1]
    for column, get in (
        ("standard", lambda r: value(r.standard)),
        ("robust", lambda r: value(r.robust[0])),
    ):
        others = [r for r in TABLES["Table 7"].rows[:-1] if get(r) >= get(full)]
        found = (
            f"not without {', '.join(r.method.removeprefix('without ') for r in others)}"
            if others
            else "lower for each"
        )
        place = f"§5.3, Table 7, {column}"
        verdict = WRONG if others else RIGHT
        yield Checked(
            _id("blocks", column),
            place,
            "removing any block lowers the accuracy",
            found,
            verdict,
            "E24",
        )


BOLD = (  # table, column, rows in bold
    *((name, column, -1) for name in FIRST for column in ("standard", "PGD+EOT", "AutoAttack")),
    ("Table 5", "standard", -1),
    ("Table 5", "BPDA+EOT", 7),
    ("Table 6", "standard", -1),
    ("Table 6", "PGD+EOT", -1),
    ("Table 8", "standard", 6),
    ("Table 8", "PGD+EOT", -1),
)


def bold() -> Iterator[Checked]:
    """Whether a bold number is the highest among the purifiers of its column."""
    for name, column, index in BOLD:
        table = TABLES[name]
        row = table.rows[index]
        purifiers = [
            r for r in table.rows if r.kind == "AP" and value(cell(r, table, column)) is not None
        ]
        top = max(purifiers, key=lambda r: value(cell(r, table, column)))
        place = f"{name}, {column}"
        said = f"bold: {row.method} at {cell(row, table, column)}"
        found = f"the highest purifier is {top.method} at {cell(top, table, column)}"
        verdict = RIGHT if top is row else WRONG
        erratum = {"Table 3": "E19", "Table 5": "E21"}.get(name, "") if verdict == WRONG else ""
        yield Checked(_id("bold", place), place, said, found, verdict, erratum)


def grim(printed: str, images: int = IMAGES, runs: int = RUNS) -> tuple[bool, float]:
    """Whether a printed mean can be the mean of `runs` accuracies on `images` images, each rounded
    or not before, and how far the nearest mean is, in points (Brown & Heathers 2017).
    """
    text = printed.split("±")[0]
    digits = len(text.partition(".")[2])
    step = 100 / (images * runs)
    distance = abs(float(text) - step * round(float(text) / step))
    return distance <= 2 * 0.5 * 10**-digits + 1e-9, distance


def means() -> Iterator[Checked]:
    """Every mean that the paper prints for its method, held against three runs on 512 images."""
    seen = set()
    for table in TABLES.values():
        row = table.rows[-1]
        for column, text in zip(("standard", *table.attacks), (row.standard, *row.robust)):
            if "±" not in text or (number := text.partition("±")[0]) in seen:
                continue
            seen.add(number)
            possible, distance = grim(text)
            found = f"the nearest such mean is {distance:.3f} points away"
            verdict = RIGHT if possible else IMPOSSIBLE
            place = f"{table.name}, {column}"
            said = f"{number} is the mean of three runs on 512 images"
            yield Checked(_id("mean", f"{number}"), place, said, found, verdict, "E30")


# ---- the rest --------------------------------------------------------------------------------

# RobustBench's entries (clean, AutoAttack) behind rows of Tables 1 and 2, from its list of models.
ROBUSTBENCH = {
    ("Table 1", "Gowal et al. 2021"): (87.50, 63.38),
    ("Table 1", "Gowal et al. 2020"): (89.48, 62.76),
    ("Table 2", "Gowal et al. 2020"): (91.10, 65.87),
    ("Table 2", "Gowal et al. 2021"): (88.74, 66.10),
}


def quoted() -> Iterator[Checked]:
    """Rows of adversarial training against the list that they are quoted from."""
    for (name, method), listed in ROBUSTBENCH.items():
        row = next(r for r in TABLES[name].rows if r.method == method)
        printed = value(row.standard), value(row.robust[1])
        same = all(abs(a - b) < 0.02 for a, b in zip(printed, listed))
        place = f"{name}, {method}"
        said, found = (f"clean {a:.2f}, AutoAttack {b:.2f}" for a, b in (printed, listed))
        yield Checked(
            _id("quoted", place),
            place,
            said,
            f"RobustBench lists {found}",
            RIGHT if same else WRONG,
            "E28",
        )


def others() -> Iterator[Checked]:
    """Costs, levels, orders and rows that contradict each other."""
    for what, (multi, one) in COST.items():
        saved = 100 * (1 - one / multi)
        printed = {"time": 89, "memory": 87}[what]
        place, found = f"§7, Fig 8, {what}", f"{saved:.1f} %"
        yield Checked(
            f"saved-{what}",
            place,
            f"{printed} % saved",
            found,
            RIGHT if int(saved) == printed else WRONG,
            "E26",
        )
        verdict = RIGHT if round(saved) == 90 else WRONG
        yield Checked(f"saved-{what}-90", f"§1, {what}", "90 % saved", found, verdict, "E26")
    for name in FIRST:
        table = TABLES[name]
        pgd, auto = (value(text) for text in table.rows[-1].robust)
        found = f"AutoAttack leaves {auto - pgd:+.2f} points against PGD"
        said = "AutoAttack is the stronger attack on the method"
        yield Checked(_id("order", name), name, said, found, RIGHT if auto <= pgd else WRONG, "E34")
    for place, t_s, star, t_l in (
        ("§5.3, CIFAR-10", 0.05, 0.1, 0.2),
        ("§5.3, ImageNet", 0.2, 0.15, 0.4),
    ):
        found = f"{t_s}, {star}, {t_l}"
        verdict = RIGHT if t_s < star < t_l else WRONG
        yield Checked(
            _id("levels", place),
            place,
            "t_s is below DiffPure's level, t_l above it",
            found,
            verdict,
            "E23",
        )
    lee = [
        next(r for r in TABLES[n].rows if r.method == "Lee & Kim").standard
        for n in ("Table 2", "Table 4")
    ]
    verdict = RIGHT if len(set(lee)) == 1 else WRONG
    yield Checked(
        "lee-kim",
        "Tables 2 and 4, Lee & Kim",
        "one clean accuracy",
        " and ".join(lee),
        verdict,
        "E31",
    )
    for name in ("Table 2", "Table 3"):
        twice = [r for r in TABLES[name].rows if r.method.startswith("Zollicoffer")]
        found = f"{len(twice)} rows: {', '.join(r.standard for r in twice)}"
        verdict = RIGHT if len(twice) == 1 else WRONG
        yield Checked(
            _id("twice", name), name, "one row per method and setting", found, verdict, "E31"
        )
    ours, best_at = TABLES["Table 8"].rows[-1], best(TABLES["Table 8"], "PGD+EOT", ("AT",))
    found = f"{ours.robust[0]} is under PGD, {best_at[0]} under AutoAttack"
    yield Checked("svhn-rows", "Table 8", "rows of one column can be compared", found, WRONG, "E25")
    rebuffi = next(r for r in TABLES["Table 3"].rows if r.method == "Rebuffi et al.")
    found = f"RobustBench lists {rebuffi.published.rpartition('/')[2]}, without extra real data"
    verdict = WRONG if "extra" not in rebuffi.published else RIGHT
    yield Checked(
        "extra-data", "Table 3, Rebuffi et al.", "uses extra data (†)", found, verdict, "E29"
    )
    yield from _trends()


def _trends() -> Iterator[Checked]:
    """The text's reading of DiffPure's rows at three levels."""
    for name in ("Table 6", "Table 8"):
        rows = [r for r in TABLES[name].rows if "DiffPure" in r.method]
        clean, robust = (
            [value(text) for text in column]
            for column in ([r.standard for r in rows], [r.robust[0] for r in rows])
        )
        falls = clean == sorted(clean, reverse=True)
        shown = " → ".join(map(str, clean))
        yield Checked(
            _id("trend-clean", name),
            f"{name}, DiffPure",
            "standard accuracy falls as t* grows",
            shown,
            RIGHT if falls else WRONG,
        )
        peak = robust[0] < robust[1] > robust[2]
        shown = " → ".join(map(str, robust))
        said = "robust accuracy rises from t* = 0.2 to 0.3 and falls at 0.4"
        yield Checked(
            _id("trend-robust", name), f"{name}, DiffPure", said, shown, RIGHT if peak else WRONG
        )


# ---- counts ----------------------------------------------------------------------------------

U_MOST, STEPS, LEVEL = 20, 10, 0.2  # of Fig 8, and the strong level of Tables 1 to 5
CARD = 24  # gigabytes of the GPU that the text names


def counts() -> Iterator[Checked]:
    """What the text says of calls and graphs, from the algorithm and the printed memory."""
    calls = {HetPure(U=U).calls(linear_schedule()) for U in range(1, U_MOST + 1)}
    first, second = (len(times) - 1 for times in HetPure().grid(linear_schedule()))
    found = f"{' or '.join(map(str, sorted(calls)))} calls for every U from 1 to {U_MOST}:"
    found += f" {first} steps of the first stage, {second} of the second"
    yield Checked(
        "one-more-call",
        "§4, Fig 3",
        "whatever U is, a step needs one additional call of the denoiser",
        found,
        RIGHT if len(calls) == 1 else WRONG,
    )
    graph = COST["memory"][1] / (2 * STEPS)
    most, every_time = int(CARD / (2 * graph)), round(1000 * LEVEL)
    needs = 2 * every_time * graph
    found = f"{COST['memory'][1]} GB for 2 x {STEPS} graphs in Fig 8, so {CARD} GB hold 2 T up to"
    found += f" T = {most}; Algorithm 1 with every time from t_l = {LEVEL} has T = {every_time}"
    yield Checked(
        "2t-graphs",
        "§4",
        f"2 T graphs fit a GPU of {CARD} gigabytes",
        f"{found} and needs {needs:.0f} GB. The released code takes few steps (B3)",
        RIGHT if most >= STEPS else WRONG,
    )


def _id(kind: str, text: str) -> str:
    words = "".join(c if c.isalnum() or c == "." else "-" for c in text.lower())
    return "-".join(filter(None, f"{kind}-{words}".replace(".", "").split("-")))


def every() -> list[Checked]:
    """All checks of arithmetic."""
    sources = (margins, beaten, averages, bold, means, quoted, others, counts)
    return [checked for source in sources for checked in source()]
