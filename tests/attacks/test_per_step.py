"""Losses at every step: their closed form, their gradient, and what is left where there is none."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from hetpure_core import HetPure, Purified, Uniform
from hetpure_lab.attacks import PGD, Undefended, reseeded
from hetpure_lab.attacks.gradients import Frozen
from hetpure_lab.attacks.per_step import PerStep, watched
from hetpure_lab.audit import world
from hetpure_lab.audit.world import Truth
from hetpure_lab.defences import behind, me_net
from hetpure_lab.defences.densepure import DensePure


class Nothing(nn.Module):
    """A denoiser that predicts no noise."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.zeros_like(x)


@pytest.fixture
def batch(images):
    return images, torch.tensor([0, 3, 1, 2]), list("abcd")


@pytest.mark.parametrize("frozen", [False, True])
def test_where_no_noise_is_removed_the_deviation_has_a_closed_form(frozen, classifier, batch):
    """A state at s is the signal with the noise of the start, scaled; the forward process has the
    same noise, less of it.
    """
    (x, _, ids), purifier = batch, Uniform(0.2, 4)
    defended = Purified(classifier, Nothing(), purifier)
    defended = Frozen(defended, "all") if frozen else defended
    seen = watched(defended)
    seen(x, ids, [5] * 4)
    abar = defended.schedule.abar.double()
    eps = (defended.hold if frozen else lambda n: n)(defended.noise(4, ids, [5] * 4))("start", x)
    first, *times = purifier.grid(defended.schedule)[1]
    expected = sum(
        (math.sqrt(abar[s] * (1 - abar[first]) / abar[first]) - math.sqrt(1 - abar[s])) ** 2
        for s in times
    ) / len(times)
    torch.testing.assert_close(
        seen.deviation, expected * eps.square().mean((1, 2, 3)), rtol=1e-5, atol=1e-9
    )


@pytest.mark.parametrize(
    "purifier", [Uniform(0.1, 3), HetPure(0.3, 0.1, tau=0.5, U=2, steps=3), DensePure(steps=2)]
)
def test_its_gradient_is_that_of_finite_differences(purifier, classifier, denoiser, batch):
    """Through every state, and through votes."""
    (x, y, ids), attack = batch, PerStep(weight=3.0)
    defended = Purified(classifier, denoiser, purifier, votes=2)
    value, gradient = attack.loss_and_gradient(defended, x, x, y, ids, range(2))
    torch.testing.assert_close(value, attack.value(defended, x, x, y, ids, range(2)))
    step = 1e-5 * torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    up, down = (attack.value(defended, x + s * step, x, y, ids, range(2)) for s in (1, -1))
    torch.testing.assert_close((gradient * step).sum((1, 2, 3)), (up - down) / 2, rtol=1e-5, atol=0)
    plain, _ = PGD().loss_and_gradient(defended, x, x, y, ids, range(2))
    assert (value > plain).all()


def test_without_weight_or_without_steps_it_is_pgd(classifier, denoiser, batch):
    x, y, ids = batch
    plain = PGD(iterations=3, eot=2, confirm=0)
    defended = Purified(classifier, denoiser, Uniform(0.1, 3))
    for attack, defence in (
        (PerStep(iterations=3, eot=2, weight=0), defended),
        (PerStep(iterations=3, eot=2), Undefended(classifier)),
    ):
        torch.testing.assert_close(
            attack.run(defence, x, y, ids)[0], plain.run(defence, x, y, ids)[0], rtol=0, atol=1e-12
        )
    weighed = PerStep(iterations=3, eot=2, weight=100).run(defended, x, y, ids)[0]
    assert not torch.allclose(weighed, plain.run(defended, x, y, ids)[0])


def test_states_that_cannot_be_seen_are_refused(classifier, batch):
    defended = behind.Behind(classifier, me_net.MENet())
    with pytest.raises(ValueError, match="Behind shows none"):
        PerStep(iterations=1).run(defended, *batch)


def test_in_a_known_world_it_comes_close_to_the_best_attack_and_never_beats_it():
    parts = world.two_parts()
    images, purifier = parts.sample(8, seed=1), Uniform(0.2, 3)
    x, y, defence = images.floats, images.labels, parts.defended(purifier)
    found, _ = PerStep(iterations=12, eot=4, loss="margin").run(
        reseeded(defence, "a"), x, y, images.ids
    )
    assert 0.9 < Truth(parts, purifier).share(x, y, found) < 1.005
