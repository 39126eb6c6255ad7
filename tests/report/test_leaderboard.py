"""The leaderboard: entries say what records say, a template passes, and bad ones are refused in a
sentence."""

from __future__ import annotations

import json

import pytest
from conftest import ROOT

from hetpure_lab.report import leaderboard
from hetpure_lab.report.leaderboard import BadEntry


@pytest.fixture(scope="module")
def template():
    return leaderboard.entry("uniform:t=0.1")


def test_a_template_entry_passes(template):
    leaderboard.check(json.loads(json.dumps(template)))
    attacks = template["worst"]["Linf 8/255"]["attacks"]
    assert template["scale"] == "small" and len(attacks) > 2 and template["claimed"] == {}


def test_the_worst_of_several_attacks_leaves_no_more_than_one(template):
    known = leaderboard.compare.known("cifar10-small")
    records = known.cells["uniform:t=0.1", "pgd", 0]
    one = sum(leaderboard.compare.shares(records, "adversarial").values()) / len(records)
    assert template["worst"]["Linf 8/255"]["value"] <= 100 * one + 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda e: e.pop("clean"), "the entry lacks clean; it needs"),
        (lambda e: e.update(records=[]), "names no records"),
        (
            lambda e: e.update(records=["cifar10-small/none.jsonl"]),
            "no such records: cifar10-small/none.jsonl",
        ),
        (lambda e: e.update(calls="ten"), "calls must be of type int, not str"),
        (
            lambda e: e["worst"]["Linf 8/255"].update(value=99.0),
            "worst of uniform:t=0.1 is not what its records say",
        ),
        (
            lambda e: e.update(rescored={"labels": 9, "differing": 2}),
            "2 labels of uniform:t=0.1 come out differently",
        ),
    ],
)
def test_a_bad_entry_is_refused_in_a_sentence(template, change, said):
    entry = json.loads(json.dumps(template))
    change(entry)
    with pytest.raises(BadEntry, match=said):
        leaderboard.check(entry)


def test_a_defence_without_records_has_no_entry():
    with pytest.raises(BadEntry, match="has no records on cifar10-small: hetpure run"):
        leaderboard.entry("uniform:t=0.123")


def test_the_committed_entries_and_page_are_up_to_date():
    rows = list(leaderboard.entries())
    page = (ROOT / "book" / "leaderboard.md").read_text()
    assert len(rows) > 20 and page == leaderboard.page(rows), "run: hetpure leaderboard --write"
    on_file = {(e["bench"], e["defence"]): e for e in rows}
    benches = leaderboard.with_entries()
    assert len(benches) > 4 and benches[0] == leaderboard.HOME
    assert {(b, d) for b in benches for d in leaderboard.eligible(b)} == set(on_file)
    for key in (("cifar10-small", "hetpure"), ("svhn-small", "uniform:t=0.2")):
        undated = lambda e: {k: v for k, v in e.items() if k != "date"}
        made = leaderboard.entry(key[1], key[0])
        assert undated(made) == undated(on_file[key]), "run: hetpure leaderboard --write"


def test_a_bench_has_a_section_with_its_own_front_and_what_is_missing_is_said():
    rows = list(leaderboard.entries())
    for bench in {e["bench"] for e in rows}:
        chosen = [e for e in rows if e["bench"] == bench]
        section = leaderboard.section(bench, chosen)
        assert section.count("<tr>") == len(chosen) + 1 and "✓" in section
        assert section.count('aria-sort="descending"') + section.count("aria-sort=descending") == 1
        cells = sum(c.key not in e["worst"] for e in chosen for c in leaderboard.COLUMNS)
        assert section.count("not measured") == cells


def test_few_images_make_a_toy_of_an_entry():
    scales = {e["scale"] for e in leaderboard.entries() if e["bench"] == "svhn-small"}
    small = [e for e in leaderboard.entries() if min(w["n"] for w in e["worst"].values()) < 64]
    assert small and {e["scale"] for e in small} == {"toy"} and "toy" in scales
