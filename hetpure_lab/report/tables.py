"""Tables as functions of records: what the paper prints, what we measured, on how many images, from
which file.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from hetpure_core import Schedule, linear_schedule
from hetpure_lab import evidence
from hetpure_lab.attacks import ATTACKS
from hetpure_lab.audit.flags import Flag
from hetpure_lab.common import names, specs, stats
from hetpure_lab.defences import DEFENCES, published, votes
from hetpure_lab.evidence import RESULTS, listing
from hetpure_lab.evidence.compare import NOT_HERE, TESTS, Judged, compare, main_split, together
from hetpure_lab.evidence.compare import known as known_bench
from hetpure_lab.paper.printed import HEADLINE, TABLES, Claim
from hetpure_lab.paper.protocols import attack_of

ENOUGH = 64  # images, for a level of uniform noise to be named, and called the best

# The attack budget that every row gets: 20 iterations with 8 gradients each; AutoAttack spends it
# on each of its two losses.
BUDGET = {
    "pgd": "pgd",
    "bpda": "bpda:iterations=20,eot=8",
    "autoattack": "autoattack:iterations=20,eot=8",
    "autoattack-corrected": "autoattack-corrected:iterations=20,eot=8,accept=16",
}


def percent(row: dict, column: str) -> str:
    """A summary's accuracy as text: value [low, high], in percent."""
    a = row[column]
    return f"{100 * a['value']:z.1f} [{100 * a['low']:z.1f}, {100 * a['high']:z.1f}]"


def counted(row: dict, column: str) -> str:
    """`percent`, and on how many images: value [low, high] (n)."""
    return f"{percent(row, column)} ({row['n']})"


@lru_cache(maxsize=8)
def _summaries(results: Path, files: tuple) -> list[dict]:
    """Every summary, computed anew when a file of records has changed."""
    return listing.rows(results)


def summaries(results: Path = RESULTS) -> list[dict]:
    """A summary of every experiment on record, of any bench, attack and radius."""
    files = sorted(results.glob("*/*.jsonl"))
    return _summaries(results, tuple((path, path.stat().st_mtime_ns) for path in files))


def evidence_rows(
    bench: str,
    norm: str = "Linf",
    attack: str = "pgd",
    results: Path = RESULTS,
    eps: float | None = None,
) -> list[dict]:
    """Summaries of a bench's experiments at radius `eps` (the norm's headline radius); the most
    images first, then the most iterations.
    """
    keep = [
        r
        for r in summaries(results)
        if (r["bench"], r["norm"], r["attack"].partition(":")[0]) == (bench, norm, attack)
    ]
    keep = [r for r in keep if np.isclose(r["eps"], eps or HEADLINE[norm])]
    split = main_split(r["data"] for r in summaries(results) if r["bench"] == bench)
    keep = [r for r in keep if r["data"] == split]
    return sorted(keep, key=lambda r: (-r["n"], -r["iterations"]))


def headline(bench: str, results: Path = RESULTS, eps: float | None = None) -> list[dict]:
    """The rows to show first: seed 0 and the standard attack budget; the undefended network, then
    uniform noise, then the method.
    """
    rows = [
        r
        for r in evidence_rows(bench, results=results, eps=eps)
        if r["seed"] == 0 and within_budget(r)
    ]
    order = {"none": 0, "uniform": 1, "hetpure": 2}
    slug = lambda r: r["defence"].partition(":")[0]
    return sorted(
        (r for r in rows if slug(r) in order), key=lambda r: (order[slug(r)], r["defence"])
    )


def within_budget(row: dict) -> bool:
    """Whether a record's attack is the one of `BUDGET`, at whatever radius; the undefended network
    needs no expectation.
    """
    slug, attack = specs.parse(row["attack"], ATTACKS)
    if slug not in BUDGET:
        return False
    budget = replace(specs.parse(BUDGET[slug], ATTACKS)[1], norm=attack.norm, eps=attack.eps)
    if row["defence"] == "none":
        budget = replace(
            budget,
            **{name: getattr(attack, name) for name in ("eot", "confirm") if hasattr(attack, name)},
        )
    if attack.norm == "L2" and attack.ascends:
        budget = replace(budget, step=attack.eps / 10)
    return budget == attack


def measured(rows: list[dict]) -> pd.DataFrame:
    """One line per experiment: single-shot and majority accuracy in the three columns, with 95 %
    intervals.
    """
    return pd.DataFrame(
        {
            "defence": r["defence"],
            "attack": r["attack"],
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


def beside_the_paper(
    name: str, bench: str, norm: str, results: Path = RESULTS, eps: float | None = None
) -> pd.DataFrame:
    """A table of the paper, and beside every row what was measured here (single-shot, with
    interval), or nothing yet; without a
    bench, as printed.

    One radius at a time, the table's own if `eps` is not given; numbers that the paper quotes from
    an attack of another are not shown. Each measured value has its own number of images, in
    parentheses. Which attack fills a column: `protocols.attack_of`.
    """
    table = TABLES[name]
    eps = eps or table.eps
    rows = lambda attack: (
        field(bench, norm, attack_of(attack, bench), results, eps) if bench else []
    )
    found = {attack: rows(attack) for attack in table.attacks}
    return pd.DataFrame(
        _line(claim.at(eps or HEADLINE[norm]), table.attacks, found) for claim in table.rows
    )


def _line(claim: Claim, columns: tuple[str, ...], found: dict[str, list[dict]]) -> dict:
    line = {"type": claim.kind, "method": claim.method, "paper: standard": claim.standard}
    line |= {f"paper: {c}": value for c, value in zip(columns, claim.robust)}
    matches = {
        c: next((r for spec in claim.specs for r in found[c] if r["defence"] == spec), None)
        for c in columns
    }
    any_match = next((r for r in matches.values() if r), None)
    line["defence here"] = any_match["defence"] if any_match else " or ".join(claim.specs)
    line["here: standard"] = counted(any_match, "clean_single") if any_match else ""
    line |= {
        f"here: {c}": counted(r, "adversarial_single") if r else "" for c, r in matches.items()
    }
    return line | {
        "note": claim.note,
        "record": f"{any_match['bench']}/{any_match['file']}" if any_match else "",
    }


SPECS = ("defence", "defence here", "attack", "spec", "longer", "strided")  # columns
SIZES = {"larger": ("decided", "▲"), "smaller": ("decided", "▼")}  # neither is good by itself
VERDICTS = (  # columns of one word, which come first
    "verdict",
    "accuracy is",
    "the method is",
    "the single step's is",
    "the method's distance is",
)
LONG = 20  # rows; the page folds longer tables and lets them be filtered
GOOD = ("verified", "right", "yes", "passed", "higher", "nearer")
BAD = ("falsified", NOT_HERE, "wrong", "impossible as printed", "no", "failed", "lower", "farther")


class Table(Styler):
    """A table for the page that reads as text where pages are not shown. The same table has the
    same bytes in every run.
    """

    def __init__(self, frame: pd.DataFrame, caption: str = ""):
        digest = hashlib.sha256(f"{caption}\n{frame.to_csv()}".encode()).hexdigest()
        super().__init__(frame, uuid=digest[:8], uuid_len=8, cell_ids=False)

    def __repr__(self) -> str:
        return self.data.to_string(index=False)


def show(frame: pd.DataFrame, caption: str = "") -> Table:
    """A table for the page: small print, the verdict first, people's names with the spec one hover
    away, whole intervals. An index that names the lines becomes the first columns.

    The caption says what is shown, on which images, under which attack. Below it stand notes, each
    once, and the files behind the whole table (`behind`). A record of a line is a link to its file,
    which the book carries along, or the options that make it. The page's script folds a table of
    more than `LONG` rows and gives it a filter.
    """
    records = frame.attrs.get("records", ())
    if frame.index.names != [None] or not pd.api.types.is_integer_dtype(frame.index):
        frame = frame.reset_index(names=_unnamed(frame.index.names))
    notes = {
        text: i for i, text in enumerate(dict.fromkeys(filter(None, frame.get("note", []))), 1)
    }
    frame = frame[sorted(frame, key=lambda column: not set(_heads(column)) & set(VERDICTS))]
    said = [escape(caption)] if caption else []
    said += [f"{i}: {noted(text)}" for text, i in notes.items()]
    said += [files(records)] if records else []
    table = Table(frame, caption).hide(axis="index").format(_formats(frame, notes))
    table = table.format_index(
        lambda column: called(column) if column in ("none", "hetpure") or ":" in column else column,
        axis=1,
    )
    if said:
        table = table.set_caption("<br>".join(said))
    kind = "dataframe beside" if "type" in frame else "dataframe"  # its first column is narrow
    kind += " long" if len(frame) > LONG else ""
    return table.set_table_attributes(f'class="{kind}" style="font-size: 75%"')


def _unnamed(names: Sequence[str | None]) -> list[str]:
    """Names of an index's levels; those without one have none to read, and differ."""
    return [name or " " * i for i, name in enumerate(names)]


def _formats(frame: pd.DataFrame, notes: dict[str, int]) -> dict[str, Callable]:
    """How the cells of each column are written: by its name, or by a head over several."""
    known = dict.fromkeys(SPECS, called) | dict.fromkeys(VERDICTS, verdict)
    known |= dict.fromkeys(TESTS.values(), lambda p: f"{float(p):.2g}")
    known |= {"record": linked, "note": lambda text: str(notes.get(text, ""))}
    write = lambda column: next((known[h] for h in _heads(column) if h in known), unbroken)
    return {column: write(column) for column in frame}


def _heads(column: str | tuple[str, ...]) -> tuple[str, ...]:
    """The heads over a column, from the top."""
    return column if isinstance(column, tuple) else (column,)


def behind(frame: pd.DataFrame, records: Iterable[str]) -> pd.DataFrame:
    """`frame`, and the files of ``results/`` that it was made from, for `show` to name."""
    frame.attrs["records"] = tuple(dict.fromkeys(r.removeprefix("results/") for r in records))
    return frame


def stacked(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Frames one below the other, each under its name, with the records of all; no empty ones."""
    kept = {name: frame for name, frame in frames.items() if len(frame)}
    records = [name for frame in kept.values() for name in frame.attrs.get("records", ())]
    bare = {name: behind(frame.copy(), ()) for name, frame in kept.items()}
    return behind(pd.concat(bare) if bare else pd.DataFrame(), records)


def files(records: Sequence[str], root: str = "../results/") -> str:
    """Files of records behind a click, each a link that leads from a page or a notebook; a dash for
    none.
    """
    if not records:
        return "–"
    names = [name.removeprefix("results/") for name in records]
    links = " ".join(f'<a href="{root}{name}">{_key(name)}</a>' for name in names)
    count = f"{len(records)} file{'s' if len(records) > 1 else ''} of records"
    return f"<details><summary>{count}</summary>{links}</details>"


def _key(record: str) -> str:
    return record.rpartition("--")[2].removesuffix(".jsonl").rpartition("/")[2]


def linked(record: str) -> str:
    """A record's file, or several with " / " between them, as links that say their keys, or the
    command line that makes it as code.

    The link leads from a folder of the repository, such as ``chapters`` or ``out``, and the built
    book has the same folders: one link holds in Jupyter, in the page of ``make run``, in the book.
    """
    if record.startswith("--") or record.startswith("hetpure "):
        return f"<code>{escape(record)}</code>"
    named = record.split(" / ") if record else ()
    return " / ".join(f'<a href="../results/{name}">{_key(name)}</a>' for name in named)


def flagged(raised: Sequence[Flag], results: Path = RESULTS) -> pd.DataFrame:
    """Flags of files of records, one a line, with links to these files."""
    where = {path.stem: f"{path.parent.name}/{path.name}" for path in results.glob("*/*.jsonl")}
    record = lambda about: " / ".join(where[stem] for stem in about.split(" / "))
    return pd.DataFrame(
        {"flag": f.name, "seen": f.seen, "record": record(f.about)} for f in raised
    )


def called(spec: object) -> str:
    """A spec by its name (`names.markup`); other text stays."""
    alternatives = str(spec).split(" or ")
    slugs = (text.partition(":")[0] for text in alternatives)
    known = all(slug in DEFENCES or slug in ATTACKS for slug in slugs)
    return " or ".join(map(names.markup, alternatives)) if known else escape(str(spec))


def noted(text: str) -> str:
    """A note of the paper's tables, with the name of the defence that it ends with."""
    before, spec = re.fullmatch(r"(.*?)((?<=: )[a-z][\w-]*(?::\S+)?)?", text).groups()
    return escape(before) + called(spec or "")


def unbroken(cell: object) -> str:
    """Text whose intervals stay on one line: ``64.1 [51.6, 76.6]``; what holds or not as a word."""
    if isinstance(cell, bool | np.bool_):
        return "yes" if cell else "no"
    if isinstance(cell, float):
        return f"{cell:.4g}"
    return re.sub(
        r"-?[\d.]+ \[[^\]]*\]", lambda found: found[0].replace(" ", "\u00a0"), escape(str(cell))
    )


def verdict(word: str) -> str:
    """A verdict that survives print and colour blindness: a sign, the word, and a class for the
    colour.
    """
    known = dict.fromkeys(GOOD, ("good", "✓")) | dict.fromkeys(BAD, ("bad", "✗")) | SIZES
    state, sign = known.get(word, ("undecided", "–"))
    return (
        f'<span class="verdict {state}"><span'
        f' aria-hidden="true">{sign}</span>\u00a0{escape(str(word))}</span>'
    )


# ---- every purifier on one bench -----------------------------------------------------------------


def cost(defence: str, schedule: Schedule | None = None) -> int:
    """Denoiser calls per answer of a defence: calls of one purification times the votes that it
    prescribes itself.
    """
    _, purifier = specs.parse(defence, DEFENCES)
    return purifier.calls(schedule or linear_schedule()) * votes(purifier) if purifier else 0


def field(
    bench: str,
    norm: str = "Linf",
    attack: str = "pgd",
    results: Path = RESULTS,
    eps: float | None = None,
) -> list[dict]:
    """One record per defence under the same attack, seed 0: within the common budget if there is
    one, then the largest.
    """
    rows = [r for r in evidence_rows(bench, norm, attack, results, eps) if r["seed"] == 0]
    rows.sort(key=within_budget, reverse=True)  # stable: the largest stays first
    return list({r["defence"]: r for r in reversed(rows)}.values())


def common(
    bench: str, norm: str = "Linf", attack: str = "pgd", results: Path = RESULTS
) -> list[dict]:
    """`field`, of records within the common budget alone."""
    return [r for r in field(bench, norm, attack, results) if within_budget(r)]


def every_attack(bench: str, norm: str = "Linf", results: Path = RESULTS) -> pd.DataFrame:
    """Single-shot accuracy (and n) of the method, uniform noise by DDIM and the bare classifier
    under every attack that has a record.
    """
    rows = [
        r for slug in ATTACKS for r in evidence_rows(bench, norm, slug, results) if r["seed"] == 0
    ]
    lines: dict[str, dict[str, str]] = {}
    for r in rows:
        if r["defence"] in ("hetpure", "none") or (
            r["defence"].startswith("uniform") and "," not in r["defence"]
        ):
            lines.setdefault(r["attack"], {})[r["defence"]] = counted(r, "adversarial_single")
    columns = sorted({name for line in lines.values() for name in line}, key=_price, reverse=True)
    frame = pd.DataFrame(
        {"attack": a} | {name: line.get(name, "") for name in columns} for a, line in lines.items()
    )
    return behind(frame, [f"{bench}/{r['file']}" for r in rows if r["defence"] in columns])


def planned(bench: str, norm: str = "Linf", attack: str = "pgd") -> dict[str, str]:
    """Every defence that the queue measures within the budget, and the options that do it: the
    last, which ask for the most images.
    """
    found = {}
    for words in evidence.queued():
        options = dict(zip(words[::2], words[1::2]))
        text = evidence.Experiment(options["--defence"], options["--attack"]).attack
        slug, settings = specs.parse(text, ATTACKS)
        where = [options.get(*o) for o in (("--bench", "cifar10-small"), ("--split", "test"))]
        same = where == [bench, "test"] and options.get("--seed", "0") == "0"
        if (
            same
            and slug == attack
            and settings.norm == norm
            and np.isclose(settings.eps, HEADLINE[norm])
        ):
            defence = specs.normal(options["--defence"], DEFENCES)
            if within_budget({"defence": defence, "attack": text}):
                found[defence] = shlex.join(words)
    return found


def by_cost(rows: list[dict]) -> list[dict]:
    """`rows` (summaries) in the order of denoiser calls per answer."""
    return sorted(rows, key=lambda r: _price(r["defence"]))


def command(defence: str, bench: str) -> str:
    """What measures a defence under exact PGD, or under another attack of the queue, or how to
    begin if the queue lacks it.
    """
    found = {
        name: text
        for attack in reversed(BUDGET)
        for norm in ("L2", "Linf")
        for name, text in planned(bench, norm, attack).items()
    }
    start = f"--bench {bench} --defence {defence} --attack pgd"
    return f"hetpure run {found.get(specs.normal(defence, DEFENCES), start)}"


COLUMNS = {"PGD": "pgd", "BPDA": "bpda", "AutoAttack, corrected": "autoattack-corrected"}


def fair(bench: str, norm: str = "Linf", results: Path = RESULTS) -> pd.DataFrame:
    """The same bench, votes and attack budget for every row: calls, and accuracy clean and under
    each attack.

    One row per defence that has a record or stands in the queue; without a record, `record` has the
    options that make one.
    """
    found = {
        title: {r["defence"]: r for r in common(bench, norm, slug, results)}
        for title, slug in COLUMNS.items()
    }
    options = planned(bench, norm, "bpda") | planned(bench, norm)
    every = sorted({name for rows in found.values() for name in rows} | set(options), key=_price)
    return pd.DataFrame(
        _fair_line(name, {t: rows.get(name) for t, rows in found.items()}, options)
        for name in every
    )


def _price(defence: str) -> tuple[int, str]:
    return cost(defence), defence


def _fair_line(defence: str, rows: dict[str, dict | None], options: dict[str, str]) -> dict:
    first = next(filter(None, rows.values()), None)
    line = {"defence": defence, "calls": cost(defence), "n": first["n"] if first else ""}
    line |= {
        title: percent(first, f"{column}_single") if first else ""
        for title, column in (("clean", "clean"), ("random noise", "null"))
    }
    for title, row in rows.items():
        line[title] = percent(row, "adversarial_single") if row else ""
        if title == "PGD":
            line["PGD, vote"] = percent(row, "adversarial_majority") if row else ""
    return line | {"record": f"{first['bench']}/{first['file']}" if first else options[defence]}


def against_the_method(
    bench: str,
    norm: str = "Linf",
    attack: str = "pgd",
    method: str = "hetpure",
    results: Path = RESULTS,
) -> pd.DataFrame:
    """Every row under the method's own attack, paired with the method on shared images, by the rule
    of `compare`.

    `difference` is attacked accuracy, row minus method, with its interval, `without attack` that of
    the same images without it; `detectable` is the difference of votes that their test would find
    four times in five.
    """
    rows = {r["defence"]: r for r in common(bench, norm, attack, results)}
    if method not in rows:
        return pd.DataFrame()
    same = [
        r
        for name, r in rows.items()
        if name != method and (name == "none" or r["attack"] == rows[method]["attack"])
    ]
    reference = results / bench / rows[method]["file"]
    found = together(
        {
            r["defence"]: (results / bench / r["file"], reference)
            for r in sorted(same, key=lambda r: _price(r["defence"]))
        }
    )
    known, spec, lines = known_bench(bench, results), rows[method]["attack"], []
    for name, pair in found.items():
        judged = known.rivals(method, spec, rows[method]["seed"])[name, "adversarial"].opposite
        line = {
            "defence": name,
            "calls": cost(name),
            "n": judged.difference.n,
            "difference": judged.difference,
        }
        line |= {"without attack": judged.clean, "detectable": detectable(pair)}
        tested = {
            TESTS["p (difference)"]: judged.holm,
            TESTS["p (vote, McNemar)"]: pair[TESTS["p (vote, McNemar)"]],
        }
        lines.append(line | tested | {"verdict": judged.word, "beside": beside(judged)})
    records = [f"{bench}/{rows[name]['file']}" for name in (method, *found)]
    return behind(pd.DataFrame(lines), records)


UNDETECTABLE = "no difference could have been found"


def detectable(pair: dict) -> str:
    """The difference that a pair's test could have found; too few votes may differ for any."""
    found = pair["detectable"]
    return UNDETECTABLE if found == "none" else found


AT_FLOOR = "at the floor, one of the two keeps too little clean accuracy: cannot decide"


def beside(judged: Judged) -> str:
    """What must be said beside a verdict (`Judged.beside`) to a reader who has not met the floor's
    name, and without a sign."""
    if judged.floor or not judged.beside:
        return AT_FLOOR if judged.floor else ""
    return f"clean accuracy is {stats.more_or_less(judged.clean)}"


# Longer chains, up to the published length, and the strided ones that stand for them; of the
# longest walk a tenth as well.
LONGER = {chain: specs.normal(slug, DEFENCES) for slug in DEFENCES if (chain := published(slug))}
LONGER |= {"langevin:t=0.03,stride=10": "langevin:t=0.03"}


def strides(bench: str, results: Path = RESULTS) -> pd.DataFrame:
    """What the stride costs: longer chains minus strided ones on the images that both have, under
    exact PGD and, where planned, BPDA.
    """
    return pd.DataFrame(
        line for title in ("PGD", "BPDA") for line in _strides(bench, title, results)
    )


def _strides(bench: str, title: str, results: Path) -> Iterator[dict]:
    attack = COLUMNS[title]
    rows, options = (
        {r["defence"]: r for r in common(bench, attack=attack, results=results)},
        planned(bench, attack=attack),
    )
    for longer, strided in LONGER.items():
        if longer not in rows and longer not in options:
            continue
        line = {
            "longer": longer,
            "calls": cost(longer),
            "calls, published": cost(published(strided.partition(":")[0])),
        }
        line |= {"strided": strided, "calls, strided": cost(strided), "attack": title}
        line |= {"n": "", "longer minus strided": "", "record": options.get(longer, "")}
        if longer in rows and strided in rows:
            pair = compare(*(results / bench / rows[name]["file"] for name in (longer, strided)))
            line |= {
                "n": pair["n"],
                "longer minus strided": pair["difference"],
                "record": f"{bench}/{rows[longer]['file']}",
            }
        yield line


SAMPLERS = {
    "SDE": "sde:t={}",
    "ODE": "ode:t={}",
    "DDPM": "uniform:t={},sampler=ddpm",
    "DDIM": "uniform:t={}",
}


def diffpure(
    bench: str, levels: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4), results: Path = RESULTS
) -> pd.DataFrame:
    """DiffPure by sampler and level under exact PGD: calls at every level, single-shot accuracy
    clean / attacked, in per cent, and n.
    """
    rows = {r["defence"]: r for r in common(bench, results=results)}

    def cell(spec: str) -> str:
        row = rows.get(specs.normal(spec, DEFENCES))
        return (
            f"{percent(row, 'clean_single')} / {percent(row, 'adversarial_single')}, n = {row['n']}"
            if row
            else "not measured yet"
        )

    # a level changes the steps' size, not their number
    calls = {name: cost(spec.format(levels[0])) for name, spec in SAMPLERS.items()}
    cells = {
        name: {f"t* = {t}": cell(spec.format(t)) for t in levels} for name, spec in SAMPLERS.items()
    }
    frame = pd.DataFrame({"sampler": name, "calls": calls[name]} | cells[name] for name in SAMPLERS)
    shown = [
        specs.normal(spec.format(t), DEFENCES) for spec in SAMPLERS.values() for t in levels
    ]
    return behind(frame, [f"{bench}/{rows[name]['file']}" for name in shown if name in rows])


def rival_row(defence: str, method: str, bench: str, results: Path = RESULTS) -> pd.DataFrame:
    """What the paper prints for `method` (the start of its name in Tables 1, 3 and 5) beside what
    was measured here for `defence`.
    """
    lines, defence = [], specs.normal(defence, DEFENCES)
    for name, norm in (("Table 1", "Linf"), ("Table 3", "L2"), ("Table 5", "Linf")):
        claims = [c for c in TABLES[name].rows if method and c.method.startswith(method)]
        accepted = {
            defence,
            *(
                spec
                for spec in (claims[0].specs if claims else ())
                if spec.partition(":")[0] == defence.partition(":")[0]
            ),
        }
        for i, attack in enumerate(TABLES[name].attacks):
            row = next(
                (
                    r
                    for r in common(bench, norm, attack_of(attack, bench), results)
                    if r["defence"] in accepted
                ),
                None,
            )
            paper = claims[0].robust[i] if claims else ""
            if row or paper:
                lines.append({"attack": f"{attack}, {norm}", "paper": paper} | _measured_cells(row))
    return pd.DataFrame(lines)


def _measured_cells(row: dict | None) -> dict:
    if row is None:
        return {"clean": "", "measured [95 %]": "not measured yet", "n": "", "record": ""}
    cells = {
        "clean": percent(row, "clean_single"),
        "measured [95 %]": percent(row, "adversarial_single"),
    }
    return cells | {"n": row["n"], "record": f"{row['bench']}/{row['file']}"}


def pareto(points: dict[str, tuple[float, float]]) -> list[str]:
    """The names that no other beats: no point with at most as many calls has a higher accuracy, and
    none with fewer the same.
    """
    beaten = lambda c, a: any((d <= c and b > a) or (d < c and b >= a) for d, b in points.values())
    return sorted((n for n, p in points.items() if not beaten(*p)), key=lambda n: points[n])


def conclusions(pairs: pd.DataFrame) -> list[str]:
    """What the corrected tests allow one to say of every row against the method, in sentences: how
    many are of each verdict, and the names of those that keep as much without attack. The table has
    the others.
    """
    if pairs.empty:
        return ["No record compares a rival with the method yet."]
    every, floor = f"of {len(pairs)}", pairs["beside"].str.contains("floor")
    said = []
    for word, name in CONCLUDED.items():
        found = pairs[(pairs["verdict"] == word) & ~floor]
        equal = "; ".join(map(names.markup, found[found["beside"] == ""]["defence"]))
        line = f"**{name}**: {len(found)} {every}"
        said.append(f"{line}. At equal clean accuracy: {equal}." if equal else f"{line}.")
    if floor.any():
        said.append(f"**Too little clean accuracy to be judged**: {floor.sum()} {every}.")
    told_apart = (pairs["p (vote, McNemar, Holm)"] < 0.05).sum()
    said.append(f"**Told apart by their votes, after Holm's correction**: {told_apart} {every}.")
    return said


CONCLUDED = {
    "higher": "More accurate under attack than the method",
    "lower": "Less accurate under attack than the method",
    "inconclusive": "Not told apart from the method",
}
