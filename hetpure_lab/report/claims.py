"""Every claim as a page, a table, JSON and JSON-LD: ``hetpure claims``.

hetpure claims --json            # all rows
hetpure claims --jsonld          # the same as schema.org ClaimReview
hetpure claims fig7-tau-best     # one claim: judged again from the records
hetpure claims --pages           # write book/claims.md and book/claims/
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path

from hetpure_lab.common.paths import RESULTS, ROOT
from hetpure_lab.common.progress import bar
from hetpure_lab.evidence import compare
from hetpure_lab.evidence.compare import NOT_HERE
from hetpure_lab.paper import claims
from hetpure_lab.paper.claims import Row
from hetpure_lab.report import history

PAPER = "https://arxiv.org/abs/2503.01407"
# comparisons stand on the scorecard, line by line
WITH_PAGE = ("statement", "arithmetic", "erratum")
KINDS = {
    "statement": "Statements of the text and the figures",
    "arithmetic": "Arithmetic on printed numbers",
    "erratum": "Errata of formulas, names and the released code",
    "comparison": "Comparisons of two rows",
    "number": "Printed numbers",
}

# hetpure.js filters the rows; without it the field is not shown.
FIND = """```{raw} html
<p class="find"><label>Find a claim: <input id="find" type="search"
 placeholder="words, as in: random mask"></label>
 <span id="found" role="status" aria-live="polite"></span></p>
```
"""

INDEX = """# Claims

Every claim of the paper {{cite:p}}`pei2025divide`: {count} of them, each with a verdict, its scale,
what was measured, the records and the command that repeats it. Verdicts and scales are explained on
the [scorecard](scorecard.md). The name of a claim leads to its page; where it has none,
`hetpure claims NAME` prints one.

{find}
All rows with all fields:

```bash
hetpure claims --json      # every row as values
hetpure claims --jsonld    # for registries of claims
hetpure claims ID          # one claim, judged again from the records
```

{counts}

The JSON-LD is a list of [ClaimReview](https://schema.org/ClaimReview) objects. `claimReviewed` is
the statement in our words, `itemReviewed.appearance` the paper, `reviewRating.alternateName` the
verdict. `additionalProperty` holds, as `PropertyValue` pairs: `kind`, `place`, `scale`,
`conditions`, `difference` with `low`, `high` (points) and `n`, `records`, `seconds`, `command`,
`remark`, `erratum`.
"""

MINDS = {
    "verified": (
        "The same difference on other images or larger networks, below zero or not established."
    ),
    NOT_HERE: (
        "The difference above zero on the published networks under the published protocol, or on"
        " larger ones trained here."
    ),
    "falsified": (
        "A mistake in the records: an attack that was too weak for one side only, or too strong."
    ),
    "inconclusive": "More images, or networks whose accuracies lie farther from the floor.",
    "not tested": "Any record of it: the command begins one.",
    "right": "Another edition of the paper with other numbers.",
    "wrong": "Another edition of the paper, or a reading under which the numbers agree.",
    "impossible as printed": (
        "The accuracies of the three runs, or another number of images or runs."
    ),
}


def file(row: Row) -> str:
    """The name of a claim's page."""
    return f"{row.id.lower()}.md"


def page(row: Row, past: Sequence[history.Entry] = ()) -> str:
    """The page of one claim: verdict and scale first, then the statement, what we know and how, and
    its history from the `past` entries."""
    lines = [
        f"# {row.id}",
        "",
        f"**{row.verdict}**{f', scale: {row.scale}' if row.scale else ''}",
        "",
    ]
    lines += [f"> {text(row.statement)} ({row.place})", ""]
    if row.measured:
        m = row.measured
        lines += [
            f"**Here:** {m} points, 95 % interval, n = {m.n}. {row.found}.",
            "",
            picture(row),
            "",
        ]
    elif row.found:
        lines += [f"**Here:** {text(row.found)}.", ""]
    if row.remark:
        lines += [f"**Beside it:** {text(row.remark)}.", ""]
    if row.conditions:
        lines += [f"**Conditions:** {text(row.conditions)}.", ""]
    if row.erratum:
        lines += [f"**Erratum:** {row.erratum}, in the [list](../errata.md).", ""]
    lines += [f"**What would change our mind:** {MINDS[row.verdict]}", ""]
    if row.records:
        links = ", ".join(f'<a href="../../results/{name}">{name}</a>' for name in row.records)
        took = f" They took {row.seconds / 3600:.1f} processor hours." if row.seconds else ""
        lines += [f"**Records:** {links}.{took}", ""]
    lines += [
        "**To repeat it:**",
        "",
        "```bash",
        row.command or f"hetpure claims {row.id}",
        "```",
        "",
    ]
    lines += [f"**History:** {history.said(past)}{counterfactual(row)}", ""]
    return "\n".join(lines)


def text(said: str) -> str:
    """A sentence of the rows as Markdown: without the bars that end a cell."""
    return said.replace("\\|", "|").rstrip(".")


def picture(row: Row) -> str:
    """The difference with its interval on a line from -50 to 50 points, as SVG."""
    place = lambda v: 150 + 2.8 * max(-50, min(50, 100 * v))
    low, middle, high = (
        place(v) for v in (row.measured.low, row.measured.value, row.measured.high)
    )
    said = f"Difference {row.measured} points, on a line from -50 to 50 with zero in the middle."
    bar = (
        f'<line x1="{low:.0f}" x2="{high:.0f}" y1="15" y2="15" stroke="currentColor"'
        ' stroke-width="3"/>'
    )
    dot = f'<circle cx="{middle:.0f}" cy="15" r="5" fill="currentColor"/>'
    zero = '<line x1="150" x2="150" y1="3" y2="27" stroke="currentColor" stroke-dasharray="2 2"/>'
    axis = '<line x1="10" x2="290" y1="27" y2="27" stroke="currentColor"/>'
    return (
        f'<svg role="img" aria-label="{escape(said)}" width="300"'
        f' height="30">{axis}{zero}{bar}{dot}</svg>'
    )


def counterfactual(row: Row) -> str:
    """What the rule before this one would say of the same records."""
    if not row.before:
        return ""
    same = {"supported": "verified", "contradicted": NOT_HERE, "open": "inconclusive"}[row.before]
    agrees = "agrees" if row.verdict == same else "does not agree"
    why = "the side of zero on which the interval lies, without correction for other tests"
    return (
        f" By the rule until November 2026 ({why}) it would read *{row.before}*; today's {agrees}."
    )


def index(rows: Sequence[Row]) -> str:
    """The page that lists every claim."""
    count = Counter((row.kind, row.verdict) for row in rows)
    words = [*compare.VERDICTS, *compare.ARITHMETIC]
    head = f"| kind | {' | '.join(words)} |\n|{'---|' * (len(words) + 1)}"
    counts = [
        f"| {title} | {' | '.join(str(count[kind, word] or '–') for word in words)} |"
        for kind, title in KINDS.items()
    ]
    parts = [INDEX.format(count=len(rows), counts="\n".join([head, *counts]), find=FIND)]
    for kind, title in KINDS.items():
        chosen = [row for row in rows if row.kind == kind]
        parts.append(f"## {title}\n\n{_listed(kind, chosen)}\n")
    return "\n".join(parts)


COLUMNS = ("verdict", "claim", "says", "scale", "here")
BESIDE = {
    "comparison": "With clean accuracy and attack, line by line, on the [scorecard](scorecard.md).",
    "number": "Small networks cannot test a number of other networks. What they give stands beside"
    " it, in per cent.",
}


def _listed(kind: str, rows: Sequence[Row]) -> str:
    head = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|\n"
    name = lambda row: f"[{row.id}](claims/{file(row)})" if kind in WITH_PAGE else f"`{row.id}`"
    says = lambda row: str(row.measured or text(row.found)[:60] or "–")
    linked = lambda row: kind not in WITH_PAGE and row.records  # else its page names them
    here = lambda row: (
        f"[{says(row)}](../results/{row.records[0]})" if linked(row) else says(row)
    )
    line = lambda row: (
        f"| **{row.verdict}** | {name(row)} | {text(row.statement)[:160]} |"
        f" {row.scale or '–'} | {here(row)} |"
    )
    said = f"{BESIDE[kind]}\n\n" if kind in BESIDE else ""
    return said + head + "\n".join(map(line, rows))


def write(book: Path = ROOT / "book", results: Path = RESULTS) -> list[Path]:
    """Write the index and a page per claim that is more than a number or a line of a table.

    Verdicts that changed are noted, pages of claims that are gone removed."""
    rows, folder = claims.every(results), book / "claims"
    folder.mkdir(exist_ok=True)
    history.append([row for row in rows if row.kind in WITH_PAGE], results)
    past = history.read(results)
    told = bar([row for row in rows if row.kind in WITH_PAGE], "pages of claims")
    pages = {folder / file(row): page(row, past.get(row.id, ())) for row in told}
    for old in set(folder.glob("*.md")) - set(pages):
        old.unlink()
    for path, said in (pages | {book / "claims.md": index(rows)}).items():
        path.write_text(said)
    return list(pages)


# ---- JSON-LD ---------------------------------------------------------------------------------


def review(row: Row) -> dict:
    """A row as a ClaimReview of schema.org."""
    values = row.as_json()
    m = values["measured"] or {}
    about = {
        k: values[k]
        for k in (
            "kind",
            "place",
            "scale",
            "conditions",
            "records",
            "seconds",
            "command",
            "remark",
            "erratum",
        )
    }
    about |= {
        "difference": m.get("value"),
        "low": m.get("low"),
        "high": m.get("high"),
        "n": m.get("n"),
    }
    pairs = [
        {"@type": "PropertyValue", "name": k, "value": v}
        for k, v in about.items()
        if v not in (None, "", [])
    ]
    return {
        "@type": "ClaimReview",
        "@id": f"#{row.id}",
        "claimReviewed": row.statement,
        "itemReviewed": {
            "@type": "Claim",
            "appearance": {"@type": "ScholarlyArticle", "url": PAPER},
        },
        "reviewRating": {"@type": "Rating", "alternateName": row.verdict},
        "additionalProperty": pairs,
    }


def jsonld(rows: Sequence[Row]) -> dict:
    """All rows as one JSON-LD document."""
    return {"@context": "https://schema.org", "@graph": [review(row) for row in rows]}


# ---- command line ----------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="hetpure claims", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("claim", nargs="?", help="the id of one claim")
    parser.add_argument("--json", action="store_true", help="all rows as JSON")
    parser.add_argument("--jsonld", action="store_true", help="all rows as JSON-LD")
    parser.add_argument(
        "--pages", action="store_true", help="write book/claims.md and book/claims/"
    )
    args = parser.parse_args(argv)
    if args.pages:
        print(f"book/claims.md and {len(write())} pages")
        return
    rows = [claims.find(args.claim)] if args.claim else claims.every()
    if args.jsonld:
        print(json.dumps(jsonld(rows), indent=1, ensure_ascii=False))
    elif args.json:
        print(json.dumps([row.as_json() for row in rows], indent=1, ensure_ascii=False))
    elif args.claim:
        print(page(rows[0], history.read().get(rows[0].id, ())))
    else:
        print(
            "\n".join(
                f"{row.id:45} {row.verdict:28} {row.scale:12} {row.measured or ''}" for row in rows
            )
        )
