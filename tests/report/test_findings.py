"""Findings: answers follow from intervals, from the records that the tables use, and from nothing
where there are none.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from hetpure_lab import evidence
from hetpure_lab.audit.cases import Case, NotMeasured
from hetpure_lab.evidence import RESULTS, ablations
from hetpure_lab.report import findings, tables


def test_without_records_nothing_is_tested_and_no_level_is_shown(tmp_path):
    assert {found.verdict for found in findings.answers(tmp_path)} == {"not tested"}
    cells = {value for row in findings.left(tmp_path).values() for value in row.values()}
    assert cells == {"–"} and findings.page(tmp_path).count("**not tested**") == len(
        findings.STATEMENTS
    )


@pytest.fixture(scope="module")
def answered():
    return {found.statement.text: found for found in findings.answers()}


def file(defence: str, attack: str):
    return RESULTS / "cifar10-small" / evidence.Experiment(defence, attack).path().name


@pytest.mark.parametrize(
    "text, reference, other",
    [
        (
            "mask where the classifier looks than",
            ("hetpure:mask_kind=random", "pgd"),
            ("hetpure", "pgd"),
        ),
        (
            "AutoAttack as packaged, deciding",
            ("hetpure", findings.ACCEPTED[1]),
            ("hetpure", findings.ACCEPTED[0]),
        ),
        ("robust than adversarial training of", ("at", "pgd"), ("hetpure", "pgd")),
    ],
)
def test_a_statement_is_judged_as_the_tables_judge_it(answered, text, reference, other):
    (found,) = (found for said, found in answered.items() if text in said)
    assert found.judged == tables.compare(file(*other), file(*reference))["judged"]


def test_fig_7_is_judged_by_the_point_of_its_grids_that_leaves_most(answered):
    (found,) = (found for text, found in answered.items() if "Fig 7" in text)
    grids = [
        ablations.against(ablations.records(ablations.experiments(n)), ablations.GRIDS[n].reference)
        for n in ("tau", "levels")
    ]
    most = max((d for grid in grids for d in grid["difference, points"]), key=lambda d: d.value)
    assert found.judged.difference.value == pytest.approx(-most.value)


def test_the_best_level_of_noise_leaves_most_of_those_seen_on_enough_images():
    name = findings.best_noise("pgd")(Case.of("cifar10-small", "hetpure"))
    rows = [
        r
        for r in tables.common("cifar10-small")
        if r["defence"].startswith("uniform") and r["n"] >= tables.ENOUGH
    ]
    rows = [r for r in rows if "steps" not in r["defence"] and "sampler" not in r["defence"]]
    assert name == max(rows, key=lambda r: r["adversarial_single"]["value"])["defence"]


def test_of_one_level_nobody_says_that_it_is_the_best():
    case = Case.of("cifar10-small", "hetpure")
    one = {cell: e for cell, e in case.found.items() if cell[0] in ("hetpure", "uniform:t=0.2")}
    with pytest.raises(NotMeasured, match="uniform:t=0.1"):
        findings.best_noise("pgd")(replace(case, found=one, records=None))
