"""The compression rate: its closed form, and its table from records."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor, nn

from hetpure_core import Purified, Uniform, linear_schedule
from hetpure_lab import data, evidence
from hetpure_lab.attacks import Undefended
from hetpure_lab.common.stats import Accuracy
from hetpure_lab.evidence import Experiment, compression
from hetpure_lab.evidence.compression import Predicted
from hetpure_lab.networks import benches

SCHEDULE = linear_schedule()


class Pull(nn.Module):
    """The exact noise predictor of pixels that are independent N(0, 0.09)."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        signal, sigma = SCHEDULE.signal_and_noise(t, x)
        return sigma * x / (signal**2 * 0.09 + sigma**2)


@pytest.mark.parametrize("t", [0.05, 0.2])
def test_of_one_call_on_gaussian_pixels_the_rate_is_the_wiener_gain(t, classifier, images):
    abar = float(SCHEDULE.abar[SCHEDULE.index(t)])
    defended = Purified(classifier, Pull(), Uniform(t, 1))
    rate = compression.rate(defended, images, range(4))
    expected = abar * 0.09 / (abar * 0.09 + 1 - abar)
    torch.testing.assert_close(rate, torch.full_like(rate, expected), rtol=1e-5, atol=0)


def test_a_purifier_that_removes_nothing_compresses_nothing(classifier, images):
    class Nothing(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.zeros_like(x)

    rate = compression.rate(Purified(classifier, Nothing(), Uniform(0.2, 3)), images, range(4))
    torch.testing.assert_close(rate, torch.ones_like(rate))
    alone = compression.rate(Purified(classifier, Pull(), Uniform()), images[2:3], [2])
    whole = compression.rate(Purified(classifier, Pull(), Uniform()), images, range(4))
    torch.testing.assert_close(alone, whole[2:3])
    with pytest.raises(ValueError, match="there is none"):
        compression.rate(Undefended(classifier), images, range(4))


def test_the_table_holds_rates_beside_what_records_say(tmp_path):
    images = data.embedded_sample(data.DATASETS["cifar10"])[torch.arange(2)].named("test")
    bench = benches.load("cifar10-small")
    for t in (0.05, 0.2):
        experiment = Experiment(f"uniform:t={t},steps=1", "pgd:iterations=1,eot=1", K=2)
        evidence.run(experiment, images, bench, progress=False, results=tmp_path)
    attack, rates = "pgd:iterations=1,eot=1", {f"uniform:t={t},steps=1": t for t in (0.2, 0.05)}
    found = compression.predictions(rates, bench.name, attack, tmp_path, least=2)
    assert [(p.defence, p.rate) for p in found] == sorted(rates.items(), key=lambda r: r[1])
    path = Experiment(found[0].defence, attack, K=2).path(tmp_path)
    rows = [json.loads(line) for line in path.read_text().splitlines() if '"image"' in line]
    right = [label == r["label"] for r in rows for label in r["adversarial"]["labels"]]
    assert math.isclose(found[0].attacked.value, sum(right) / len(right)) and found[0].n == 2
    assert compression.predictions(rates, bench.name, "pgd", tmp_path) == []
    assert compression.predictions(rates, bench.name, attack, tmp_path, least=3) == []


def test_agreement_is_one_where_the_strongest_compression_is_the_most_accurate():
    at = lambda v: Accuracy(v, v, v, 1)
    rates = (0.1, 0.2, 0.5, 1)
    found = [Predicted(f"{i}", rate, at(1), at(1 - rate), 1) for i, rate in enumerate(rates)]
    assert compression.agreement(found)[0] == pytest.approx(1)
    with pytest.raises(ValueError, match="four purifiers, not 3"):
        compression.agreement(found[:3])
    equal = [Predicted(f"{i}", i / 10, at(1), at(0.0), 1) for i in range(1, 6)]
    with pytest.raises(ValueError, match="all 5 purifiers leave 0.0 %"):
        compression.agreement(equal)
