"""The rule: what decides, what does not, that one comparison has one answer on every page, and how
often an interval holds."""

from __future__ import annotations

import re

import numpy as np
import pytest
from conftest import ROOT
from scipy.stats import permutation_test

from hetpure_lab.common import stats
from hetpure_lab.evidence import ablations, compare
from hetpure_lab.evidence.compare import Judged, Known, Pair
from hetpure_lab.networks import benches

RNG = np.random.default_rng(0)


def records(attacked, clean=None, K=20):
    rows = {}
    for i, rate in enumerate(attacked):
        labels = lambda share: {
            "labels": [0] * round(share * K) + [1] * (K - round(share * K)),
            "soft": 0,
        }
        now = labels(1.0 if clean is None else clean[i])
        rows[str(i)] = {"label": 0, "adversarial": labels(rate), "clean": now, "null": now}
    return rows


def test_the_test_of_signs_is_scipys():
    for n in (8, 12, 40):
        a, b = RNG.random((2, n)).round(1)
        exact = permutation_test(
            (a, b),
            lambda x, y, axis: np.mean(x - y, axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=2**12 if n < 13 else 9999,
            rng=np.random.default_rng(1),
        )
        assert stats.sign_flip(a, b) == pytest.approx(exact.pvalue, abs=0.02 if n > 12 else 1e-9)
    assert stats.sign_flip(np.ones(5), np.ones(5)) == 1


def test_the_family_decides_and_the_interval_does_not():
    a = np.full(8, 0.5)
    pairs = {i: Pair(a + np.array([0.1] * 7 + [0.0]), a) for i in range(6)}
    alone, many = compare.judge({0: pairs[0]})[0], compare.judge(pairs)[0]
    assert alone.difference == many.difference and alone.difference.low > 0
    assert (alone.word, many.word) == ("higher", "inconclusive") and many.tests == 6


def test_at_the_floor_nothing_is_decided():
    high, low = np.full(20, 0.8), np.full(20, 0.4)
    judged = compare.judge({"": Pair(high, low, (high, low), 0.9)})[""]
    assert judged.holm < 0.05 and judged.floor and judged.word == "inconclusive"
    assert "cannot decide" in judged.beside
    assert compare.judge({"": Pair(high, low, (high, low), 0.7)})[""].word == "higher"


def test_a_difference_of_clean_accuracy_is_said():
    known = Known(
        {
            ("hetpure", "pgd", 0): records([0.5] * 20, [0.9] * 20),
            ("at", "pgd", 0): records([0.1] * 20, [0.7] * 20),
        }
    )
    judged = known.rivals("hetpure", "pgd")["at", "adversarial"]
    assert judged.word == "higher" and "clean accuracy differs by 20.0" in judged.beside
    assert judged.opposite.word == "lower" and judged.opposite.clean.value == pytest.approx(-0.2)


def judged(value: float, holm: float) -> Judged:
    return Judged(stats.Accuracy(value, value - 0.1, value + 0.1, 64), holm, holm)


@pytest.mark.parametrize(
    ("claimed", "difference", "scale", "word"),
    [
        (2.0, judged(0.3, 0.01), "small", "verified"),
        (-2.0, judged(-0.3, 0.01), "paper", "verified"),
        (2.0, judged(-0.3, 0.01), "paper", "falsified"),
        (2.0, judged(-0.3, 0.01), "small", compare.NOT_HERE),
        (2.0, judged(-0.3, 0.01), "toy", compare.NOT_HERE),
        (2.0, judged(-0.3, 0.01), "independent", compare.NOT_HERE),
        (2.0, judged(-0.3, 0.2), "paper", "inconclusive"),
        (2.0, None, "paper", "not tested"),
    ],
)
def test_only_the_papers_own_networks_falsify(claimed, difference, scale, word):
    assert compare.verdict(claimed, difference, scale) == word and word in compare.VERDICTS


def test_scales():
    at = compare.scale
    assert (
        at("cifar10-paper-wrn70", 64) == "paper" and at("cifar10-independent", 64) == "independent"
    )
    assert at("svhn-independent-classifier-only", 64) == at("cifar10-small", 64) == "small"


@pytest.mark.parametrize("bench", ["cifar10-small", "cifar10-paper", "svhn-independent"])
def test_few_images_a_stand_in_or_the_floor_make_a_toy_at_every_scale(bench):
    full = benches.scale(bench)
    assert full != "toy" and [compare.scale(bench, n) for n in (1, 63, 64, 65)] == (
        ["toy", "toy", full, full]
    )
    assert (
        compare.scale(bench, 512, stand_in=True) == compare.scale(bench, 512, floor=True) == "toy"
    )


def test_scales_have_one_spelling():
    assert {benches.scale(name) for name in benches.BENCHES} <= set(compare.SCALES) - {"toy"}
    assert benches.Own.scale in compare.SCALES


def test_every_correction_is_of_a_declared_family():
    """No module corrects p-values past `compare.corrected`, which knows the families."""
    past = [
        path.name
        for path in (ROOT / "hetpure_lab").rglob("*.py")
        if re.search(r"\bstats\.holm\(|multipletests", path.read_text())
    ]
    assert past == ["compare.py"], past
    with pytest.raises(ValueError, match="unknown family 'page'; declared: rivals, attacks, curve"):
        compare.corrected("page", [0.01])


def test_the_curve_is_one_family_over_its_attacks():
    bench = compare.known("cifar10-small")
    family = bench.curves("hetpure")
    assert len(family) > 3 and {j.tests for j in family.values()} == {len(family)}
    assert all(j.holm >= j.p and j.family == "curve" for j in family.values())
    assert bench.at_equal_clean("hetpure", "pgd") == family["pgd"]


def test_one_comparison_has_one_answer_however_it_is_asked():
    bench = compare.known("cifar10-small")
    assert len(bench.cells) > 100
    for grid, found in (
        (n, ablations.records(ablations.experiments(n))) for n in ("tau", "mask", "order")
    ):
        reference = ablations.GRIDS[grid].reference
        table, both = ablations.against(found, reference), ablations.established({grid: found})
        for label in table.index:
            test = both[ablations.place(grid, label)]["under attack"]
            assert table.loc[label, "accuracy is"] == test.word
            assert test == compare.in_family(found[label], found[reference])
    one, two = ("hetpure", "pgd", 0), ("uniform:t=0.1", "pgd", 0)
    assert bench.between(one, two) == bench.between(two, one).opposite
    assert bench.between(one, two) == bench.rivals("hetpure", "pgd")["uniform:t=0.1", "adversarial"]


def test_the_generated_pages_answer_every_question_once():
    """A statement of the findings and a line of the scorecard that are one comparison agree, and no
    page uses the words that the rule replaced."""
    said: dict[tuple, set] = {}
    for name in ("findings.md", "scorecard.md"):
        text = (ROOT / "book" / name).read_text()
        old = r"\*\*(yes|no|open|supported|contradicted|not contradicted|not established)\*\*"
        assert not re.findall(old, text), name
        for line in text.replace("\u00a0", " ").splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            words = [c.strip("*") for c in cells if c.strip("*") in compare.VERDICTS]
            numbers = tuple(c for c in cells if re.match(r"-?\d+\.\d \[.*\]$", c))
            claimed = [c for c in cells if re.fullmatch(r"[+-]\d+\.\d\d", c)] or ["+"]
            if words and len(numbers) > 1:
                turned = {"verified": compare.NOT_HERE, compare.NOT_HERE: "verified"}
                word = turned.get(words[0], words[0]) if claimed[0][0] == "-" else words[0]
                said.setdefault(numbers, set()).add(word)
    assert len(said) > 40 and all(len(words) == 1 for words in said.values()), said


@pytest.mark.parametrize(("n", "least"), [(16, 0.84), (64, 0.88)])
def test_the_interval_holds_a_little_less_often_than_it_says(n, least):
    values = RNG.choice([0, 0, 0.1, 0.4, -0.1], 128)
    share = compare.coverage(values, n, samples=300, resamples=200)
    assert least <= share <= 0.98
    assert compare.coverage(values, n, samples=50, resamples=50) == compare.coverage(
        values, n, samples=50, resamples=50
    )


def test_the_distance_at_equal_clean_accuracy_needs_two_levels():
    clean = [0.9] * 10 + [0.5] * 10
    cells = {("hetpure", "pgd", 0): records([0.3] * 20, clean)}
    cells["uniform:t=0.1", "pgd", 0] = records([0.5] * 20, [0.9] * 20)
    assert Known(cells).at_equal_clean("hetpure", "pgd") is None
    cells["uniform:t=0.3", "pgd", 0] = records([0.7] * 20, [0.5] * 20)
    assert Known(cells).at_equal_clean("hetpure", "pgd").difference.value == pytest.approx(-0.3)


def test_a_bench_s_tables_are_about_one_split():
    from hetpure_lab.evidence.compare import main_split

    assert main_split(["test_jpeg", "test"]) == main_split([]) == "test"
    assert main_split(["test_jpeg"]) == "test_jpeg"
