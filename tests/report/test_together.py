"""Networks trained on attacks beside plain ones: pairs are of one purifier, words of the test."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import records_of

from hetpure_lab.evidence import Experiment, append
from hetpure_lab.report import trained

SHARES = {  # bench, defence: attacked
    ("cifar10-small", "uniform:t=0.1"): 0.2,
    ("cifar10-small", "hetpure"): 0.2,
    ("cifar10-small-at", "uniform:t=0.1"): 0.5,
    ("cifar10-small-at", "none"): 1.0,
    ("cifar10-small-addt", "uniform:t=0.1"): 0.2,
}


@pytest.fixture
def written(tmp_path):
    """Records whose images differ by the same amounts everywhere."""
    apart = np.linspace(-0.1, 0.1, 40)
    for (bench, defence), left in SHARES.items():
        attack = "pgd:eot=1,confirm=1" if defence == "none" else "pgd"
        rates = [(c + apart).clip(0, 1).tolist() for c in (left, 0.8, 0.8)]
        rows = records_of(defence, attack, *rates, K=100, bench=bench).records
        append(Experiment(defence, attack, bench).path(tmp_path), list(rows.values()))
    return tmp_path


def test_every_trained_row_stands_beside_its_plain_twin_and_the_bare_classifier(written):
    found = trained.rows(results=written)
    assert [(r.purifier, r.network, r.than.partition(" ")[0]) for r in found] == [
        ("uniform:t=0.1", trained.TRAINED["cifar10-small-at"], "the"),
        ("uniform:t=0.1", trained.TRAINED["cifar10-small-at"], "that"),
        ("uniform:t=0.1", trained.TRAINED["cifar10-small-addt"], "the"),
    ]
    values = [round(j.difference.value, 6) for j in trained.judged(found)]
    assert values == [0.3, -0.5, 0.0]
    assert all(j.tests == len(found) and j.family == "trained" for j in trained.judged(found))


def test_words_follow_the_corrected_test(written):
    said = trained.conclusions(trained.rows(results=written))
    assert ["more" in said[0], "less" in said[1], "not told apart" in said[2]] == [True] * 3
    shown = trained.table(trained.rows(results=written))
    assert shown["n"].tolist() == [40] * 3


def test_without_records_nothing_is_said(tmp_path):
    assert trained.rows(results=tmp_path) == [] and trained.conclusions([]) == []
    assert trained.table([]).empty
