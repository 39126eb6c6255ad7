"""Findings: answers follow from intervals, from the records that the tables use, and from nothing where there are none."""

from __future__ import annotations

import pytest

from hetpure_lab import evidence
from hetpure_lab.common.stats import Accuracy
from hetpure_lab.evidence import RESULTS, ablations
from hetpure_lab.report import findings, tables


@pytest.mark.parametrize("low, high, word", [(0.01, 0.1, "yes"), (-0.1, -0.01, "no"), (-0.1, 0.1, "open")])
def test_the_answer_is_the_side_of_zero_that_the_interval_lies_on(low, high, word):
    assert findings.verdict(Accuracy((low + high) / 2, low, high, 50)) == word


def test_without_records_every_question_waits_and_no_level_is_shown(tmp_path):
    assert {answer for _, *both in findings.answers(tmp_path) for answer in both} == {None}
    cells = {value for row in findings.left(tmp_path).values() for value in row.values()}
    assert cells == {"–"} and findings.page(tmp_path).count("not measured yet") == len(findings.QUESTIONS)


@pytest.fixture(scope="module")
def answered():
    return {q.text: (d, clean) for q, d, clean in findings.answers()}


def file(defence: str, attack: str):
    return RESULTS / "cifar10-small" / evidence.Experiment(defence, attack).path().name


@pytest.mark.parametrize(
    "question, reference, other",
    [
        ("mask where the classifier looks", ("hetpure:mask_kind=random", "pgd"), ("hetpure", "pgd")),
        ("AutoAttack, deciding by single purifications", ("hetpure", findings.ACCEPTED[1]), ("hetpure", findings.ACCEPTED[0])),
        ("robust than adversarial training", ("at", "pgd"), ("hetpure", "pgd")),
    ],
)
def test_an_answer_is_the_comparison_that_the_tables_make(answered, question, reference, other):
    ((found, _),) = (both for text, both in answered.items() if question in text)
    # `compare` gives the first minus the second
    expected = tables.compare(file(*other), file(*reference))["difference"]
    assert (found.n, found.value) == (expected.n, pytest.approx(expected.value))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.02)


def test_where_the_sides_are_two_defences_the_difference_without_attack_stands_beside_the_answer(answered):
    beside = {q.text for q in findings.QUESTIONS if q.beside}
    assert beside and beside == {text for text, (_, clean) in answered.items() if clean}
    ((found, clean),) = (both for text, both in answered.items() if "paper's reading" in text)
    grid = ablations.records(ablations.experiments("order"))
    for column, d in (("adversarial", found), ("clean", clean)):
        a, b = ablations.rates(grid["paper"], grid["released"], column)
        assert (d.n, d.value) == (len(a), pytest.approx((a - b).mean()))


def test_fig_7_is_answered_by_the_point_of_its_grids_that_leaves_most(answered):
    ((d, _),) = (both for text, both in answered.items() if "Fig 7" in text)
    grids = [ablations.against(ablations.records(ablations.experiments(n)), ablations.GRIDS[n].reference) for n in ("tau", "levels")]
    most = max(float(cell.split()[0]) for grid in grids for cell in grid["difference, points"])
    assert -100 * d.value == pytest.approx(most, abs=0.051)


def test_the_best_level_of_noise_leaves_most_of_those_seen_on_enough_images():
    case = findings.Case.of("cifar10-small", "hetpure")
    name = findings.best_noise("pgd")(case)
    rows = [r for r in tables.common("cifar10-small") if r["defence"].startswith("uniform") and r["n"] >= tables.ENOUGH]
    assert name == max(rows, key=lambda r: r["adversarial_single"]["value"])["defence"]
