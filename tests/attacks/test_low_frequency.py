"""Low frequencies: the subspace, the ball, and the best attack of a linear classifier in both."""

from __future__ import annotations

import pytest
import torch

from hetpure_lab.attacks import Undefended, threat
from hetpure_lab.attacks.low_frequency import LowFrequency, projector
from hetpure_lab.audit import world

PARTS = world.two_parts()


@pytest.fixture
def sample():
    images = PARTS.sample(6, seed=1)
    return images.floats.double(), images.labels, images.ids


def test_the_projector_keeps_constants_and_low_cosines_and_nothing_else():
    for size, kept in ((8, 2), (32, 8), (5, 5)):
        P = projector(size, kept)
        torch.testing.assert_close(P @ P, P)
        torch.testing.assert_close(P, P.T)
        assert torch.linalg.matrix_rank(P) == kept
        ones = torch.ones(size, dtype=P.dtype)
        torch.testing.assert_close(P @ ones, ones)
    alternating = (-1.0) ** torch.arange(32, dtype=torch.float64)
    assert (projector(32, 8) @ alternating).norm() < 0.1 * alternating.norm()


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_of_a_linear_classifier_it_finds_the_best_attack_of_its_subspace_in_l2(share, sample):
    """The projected weights, as long as the radius, against the label: their gain is eps |P w|."""
    x, y, ids = sample
    attack = LowFrequency(
        "L2", 0.3, iterations=2, eot=1, step=0.3, share=share, confirm=0, loss="margin"
    )
    found, _ = attack.run(Undefended(PARTS.bench().classifier), x, y, ids)
    weights = attack.low(PARTS.bayes[None])
    sign = (1 - 2 * y).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(
        found - x, 0.3 * sign * weights / weights.norm(), rtol=1e-6, atol=1e-9
    )


def test_the_lowest_frequency_is_one_shade_per_channel_and_reaches_the_corner(sample):
    x, y, ids = sample
    attack = LowFrequency(
        eps=0.05, iterations=4, eot=1, step=0.05, share=0.1, confirm=0, loss="margin"
    )
    found, _ = attack.run(Undefended(PARTS.bench().classifier), x, y, ids)
    shades = (found - x).flatten(2)
    torch.testing.assert_close(shades.abs(), torch.full_like(shades, 0.05))
    torch.testing.assert_close(shades.amax(2), shades.amin(2))
    sign = (1 - 2 * y)[:, None].double() * PARTS.bayes.sum((1, 2)).sign()
    assert torch.equal(shades[:, :, 0].sign(), sign)


@pytest.mark.parametrize("norm, eps", [("Linf", 0.05), ("L2", 0.5)])
def test_attack_and_null_control_have_no_high_frequency_and_the_control_the_whole_norm(
    norm, eps, sample
):
    x, y, ids = sample
    attack = LowFrequency(norm, eps, iterations=5, eot=1, random_start=True, confirm=0)
    found, _ = attack.run(Undefended(PARTS.bench().classifier), x, y, ids)
    for delta in (found - x, attack.null(x, ids, "null") - x):
        torch.testing.assert_close(attack.low(delta), delta, rtol=0, atol=1e-9)
        assert threat.length(delta, norm).max() <= eps * (1 + 1e-9)
    torch.testing.assert_close(
        threat.length(delta, norm).flatten(), torch.full((6,), eps, dtype=x.dtype)
    )
    assert not torch.equal(attack.null(x, ids, "other"), attack.null(x, ids, "null"))
