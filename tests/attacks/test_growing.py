"""The attack on randomised masks: it averages more from stage to stage, and finds at least what its
start finds."""

from __future__ import annotations

import torch

from hetpure_core import Purified, Uniform
from hetpure_lab.attacks import Undefended, mean_loss, reseeded, threat
from hetpure_lab.attacks.growing import Growing
from hetpure_lab.audit import world
from hetpure_lab.audit.world import Truth

PARTS = world.two_parts()


def test_budgets_grow_and_steps_shrink():
    attack = Growing(eot=4, stages=3, growth=3, step=0.02)
    assert attack.budgets == [(4, 0.02), (12, 0.01), (36, 0.005)]
    assert attack.steps == 40


def test_of_a_linear_classifier_behind_uniform_noise_it_finds_the_best_attack():
    """Ground truth: every pixel against the sign of the pattern, by the whole radius."""
    images, purifier = PARTS.sample(6, seed=1), Uniform(0.2, 1)
    x, y, ids = images.floats.double(), images.labels, images.ids
    defended = PARTS.defended(purifier)
    attack = Growing(eps=0.05, iterations=5, eot=4, stages=2, step=0.02, confirm=0)
    found, spent = attack.run(defended, x, y, ids)
    truth = Truth(PARTS, purifier)
    best = (x - 0.05 * (2 * y - 1).reshape(-1, 1, 1, 1) * truth.signs).clamp(0, 1)
    chance, least = (truth.right(z, y) for z in (found, best))
    assert (chance >= least - 1e-6).all() and (chance - least).max() < 0.05
    assert (spent == attack.steps).all()


def test_it_never_ends_below_its_start_and_stays_in_the_ball():
    """By the loss on noise that it never saw, over all images."""
    images = PARTS.sample(6, seed=2)
    x, y, ids = images.floats.double(), images.labels, images.ids
    defended = PARTS.defended(Uniform(0.1, 1))
    attack = Growing(eps=0.03, iterations=2, eot=4, stages=2, step=0.02, confirm=0)
    found, _ = attack.run(defended, x, y, ids)
    fresh = reseeded(defended, "fresh")
    clean, attacked = (mean_loss(fresh, z, y, ids, range(64), "margin") for z in (x, found))
    assert attacked.mean() > clean.mean() and isinstance(defended, Purified)
    assert threat.length(found - x, "Linf").max() <= 0.03 * (1 + 1e-6)


def test_the_bare_classifier_has_no_smoother():
    """It starts on the classifier itself."""
    images = PARTS.sample(2, seed=1)
    bare = Undefended(PARTS.bench().classifier)
    attack = Growing(eps=0.02, iterations=3, eot=1, stages=1, step=0.02, confirm=1)
    found, _ = attack.run(bare, images.floats.double(), images.labels, images.ids)
    assert torch.isfinite(found).all() and not torch.equal(found, images.floats.double())
