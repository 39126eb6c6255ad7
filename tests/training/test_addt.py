"""Noise made against the classifier: its law, its direction, and a run that starts from the plain
denoiser.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from hetpure_core import linear_schedule, q_xt_x0, x0_xt
from hetpure_lab import data
from hetpure_lab.networks import benches, small
from hetpure_lab.training import train
from hetpure_lab.training.train import RECIPES

RECIPE = dataclasses.replace(
    RECIPES["cifar10-small-addt-denoiser"],
    network="tiny",
    shares={"a/all": 1.0},
    cycles=(16,),
    batch=4,
    bf16=False,
)


@pytest.fixture
def little():
    return data.embedded_sample(data.DATASETS["cifar10"])[torch.arange(6)]


def test_noise_in_the_order_of_a_direction_is_the_same_noise():
    direction, noise = torch.randn(2, 2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    made = train.ranked(direction, noise)
    assert torch.equal(made.flatten(2).argsort(2), direction.flatten(2).argsort(2))
    assert torch.equal(made.flatten(2).sort(2).values, noise.flatten(2).sort(2).values)


def test_the_adversarial_share_grows_as_the_noise_fades_and_has_a_top():
    t = torch.tensor([1, 50, 100, 400])
    share = train.adversarial_share(t, torch.zeros(4, 3, 2, 2, dtype=torch.float64)).flatten()
    abar = linear_schedule().abar[t]
    torch.testing.assert_close(
        share[1:], (0.03 * (abar / (1 - abar)).sqrt())[1:], rtol=1e-5, atol=0
    )
    assert (share.diff() < 0).all() and share[0] == pytest.approx(0.3)


def test_the_direction_raises_the_classifiers_loss_more_than_noise_does(little):
    """At a level where much of the noise is adversarial, with the real networks."""
    bench, schedule = benches.load("cifar10-small"), linear_schedule()
    x0, y, t = 2 * little.floats - 1, little.labels, torch.full((6,), 50)
    generator = torch.Generator().manual_seed(1)
    noise = lambda: torch.randn(x0.shape, generator=generator)

    def loss(eps):
        xt = q_xt_x0(x0, t, eps, schedule)
        logits = bench.classifier((x0_xt(xt, t, bench.denoiser(xt, t), schedule) + 1) / 2)
        return torch.nn.functional.cross_entropy(logits, y, reduction="sum")

    eps = noise().requires_grad_()
    made = train.ranked(torch.autograd.grad(loss(eps), eps)[0], noise())
    share = train.adversarial_share(t, x0)
    mixed = lambda delta: (1 - share**2).sqrt() * noise() + share * delta
    with torch.no_grad():
        raised, plain = (sum(loss(mixed(d)) for _ in range(4)) for d in (made, noise()))
    assert raised > 1.2 * plain


def test_a_run_starts_from_the_plain_network_and_repeats_itself(little, tmp_path, monkeypatch):
    monkeypatch.setitem(small.NETWORKS, "tiny", lambda: small.UNet((8, 8), (1, 1), n_time=8))
    torch.manual_seed(5)
    plain = small.build("tiny")
    classifier = benches.load_network("cifar10-small-classifier")
    known = {RECIPE.start: plain, RECIPE.classifier: classifier}
    monkeypatch.setattr(train.benches, "load_network", lambda name, folder=None: known[name])
    monkeypatch.setattr(train, "sources", lambda recipe, folder: ({"a/all": little}, little))
    train.fixed.cache_clear()
    runs = [
        train.train(RECIPE, every=2, progress=False, runs=tmp_path / name, weights=tmp_path)
        for name in "ab"
    ]
    train.fixed.cache_clear()
    (net, log), (again, _) = runs
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters()))
    assert any(not torch.equal(a, b) for a, b in zip(net.parameters(), plain.parameters()))
    assert {"mse_0.1", "accuracy", "pgd10"} <= set(log[-1])
