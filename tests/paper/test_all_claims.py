"""Claims: every printed thing has a row, arithmetic follows from the tables, verdicts from the
rule,
and what is said to show an erratum exists."""

from __future__ import annotations

import json
import re

import pytest
from conftest import ROOT

from hetpure_lab.common.stats import Accuracy
from hetpure_lab.evidence import compare
from hetpure_lab.evidence.compare import Judged, Known
from hetpure_lab.paper import checked, claims
from hetpure_lab.paper.printed import TABLES
from hetpure_lab.report import claims as shown
from hetpure_lab.report import history


@pytest.fixture(scope="module")
def rows():
    return claims.every()


def test_every_claim_has_a_row_with_a_verdict_of_the_vocabulary(rows):
    assert len(rows) >= 250 and len({r.id for r in rows}) == len(rows)
    words = {*compare.VERDICTS, *compare.ARITHMETIC}
    assert {r.verdict for r in rows} <= words and {r.kind for r in rows} == set(claims.KINDS)
    assert all(r.place and r.statement for r in rows)
    assert {r.scale for r in rows if r.measured} <= set(compare.SCALES)


def test_every_printed_accuracy_is_a_row(rows):
    cells = [text for t in TABLES.values() for r in t.rows for text in (r.standard, *r.robust)]
    printed = [text for text in cells if re.match(r"\d", text)]
    assert sum(r.kind == "number" for r in rows) == len(printed) > 150


def test_what_small_networks_measure_falsifies_nothing(rows):
    small = [r for r in rows if r.scale in ("small", "toy", "independent")]
    assert small and "falsified" not in {r.verdict for r in small}


def test_what_was_measured_names_records_that_exist_and_a_command(rows):
    measured = [r for r in rows if r.measured]
    assert len(measured) > 60
    for row in measured:
        assert row.records and all((ROOT / "results" / f).exists() for f in row.records), row.id
        assert row.command.startswith("hetpure "), row.id


def test_the_arithmetic_of_the_errata_is_found_in_the_tables():
    found = {c.id: c for c in checked.every()}
    assert found["margin-table-1-standard"].found.startswith("+1.75")
    assert found["margin-table-4-standard"].found.startswith("+0.39")
    assert (
        found["average-table-5-best"].verdict == "wrong"
        and "0.60" in found["average-table-5-best"].found
    )
    impossible = {c.id for c in found.values() if c.verdict == checked.IMPOSSIBLE}
    assert len(impossible) == 6 and "mean-8045" in impossible
    assert {f"E{n}" for n in range(14, 32)} <= {c.erratum for c in found.values()}


@pytest.mark.parametrize("counts", [(300, 310, 297), (0, 0, 1), (512, 511, 500)])
@pytest.mark.parametrize("digits", [1, 2])
def test_a_mean_that_is_one_is_possible(counts, digits):
    shares = [100 * k / 512 for k in counts]
    exact, rounded = sum(shares) / 3, sum(round(s, digits) for s in shares) / 3
    assert checked.grim(f"{exact:.{digits}f}")[0] and checked.grim(f"{rounded:.{digits}f}")[0]


def test_a_statement_needs_all_its_parts():
    judged = lambda v, p: Judged(Accuracy(v, v - 0.05, v + 0.05, 64), p, p)
    cell = ("hetpure", "pgd", 0)
    for values, word in (
        (((0.2, 0.01), (0.2, 0.01)), "verified"),
        (((0.2, 0.01), (0.2, 0.5)), "inconclusive"),
        (((0.2, 0.01), (-0.2, 0.01)), compare.NOT_HERE),
    ):
        parts = [(judged(*v), cell, cell) for v in values]
        s = claims.Statement("x", "§1", "said", lambda known, parts=parts: parts)
        known = Known({cell: {"a": {"seconds": 2.0}}}, {cell: "cifar10-small/a.jsonl"})
        about = {
            "id": s.id,
            "kind": "statement",
            "place": s.place,
            "statement": s.text,
            "conditions": s.bench,
        }
        assert claims._stated(s, about, parts, known).verdict == word


def test_without_records_statements_are_not_tested_and_say_how_to_begin(tmp_path):
    found = [r for r in claims.statements({}, tmp_path)]
    assert {r.verdict for r in found} == {"not tested"} and all(r.command for r in found)


def test_what_shows_an_erratum_exists(rows):
    for name, where in claims.SHOWN_BY.items():
        file, _, part = where.partition("::")
        source = (ROOT / file).read_text()
        assert re.search(rf"def test_\w*{part}", source), name
    text = (ROOT / "book" / "errata.md").read_text()
    listed = set(re.findall(r"^\| ([A-E]\d+) \|", text, re.MULTILINE))
    assert listed == {e for r in rows for e in [r.erratum] if e}, (
        "an erratum without a row, or the other way"
    )


def test_the_errata_promise_nothing_that_is_done():
    assert "planned" not in (ROOT / "book" / "errata.md").read_text()


def test_unknown_claims_are_explained():
    with pytest.raises(ValueError, match="unknown claim 'fig7-x'; near: fig7-"):
        claims.find("fig7-x")


def test_pages_are_up_to_date_and_put_the_verdict_first(rows, tmp_path):
    with_page = [r for r in rows if r.kind in shown.WITH_PAGE]
    past = history.read()
    assert len(with_page) >= 60
    for row in with_page:
        page = shown.page(row, past.get(row.id, ()))
        assert page.splitlines()[2].startswith(f"**{row.verdict}**")
        assert "What would change our mind" in page and "History" in page
        assert (ROOT / "book" / "claims" / shown.file(row)).read_text() == page, (
            "run: hetpure claims --pages"
        )
    assert (ROOT / "book" / "claims.md").read_text() == shown.index(rows), (
        "run: hetpure claims --pages"
    )


def test_the_export_is_of_the_schema_that_the_page_describes(rows):
    graph = json.loads(json.dumps(shown.jsonld(rows)))["@graph"]
    assert len(graph) == len(rows) and {r["@type"] for r in graph} == {"ClaimReview"}
    described = set(re.findall(r"`(\w+)`", (ROOT / "book" / "claims.md").read_text()))
    assert {p["name"] for r in graph for p in r["additionalProperty"]} <= described
