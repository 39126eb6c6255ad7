"""Ground truth: what is said to be known is right, and the engine finds it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hetpure_core import HetPure, Uniform, linear_schedule, q_xt_x0
from hetpure_lab import evidence
from hetpure_lab.attacks import (
    PGD,
    CorrectedAutoAttack,
    RandomNoise,
    Square,
    logits_of,
    loss_and_gradient,
    reseeded,
    to_8_bit,
)
from hetpure_lab.audit import flags, world
from hetpure_lab.audit.own import Trial
from hetpure_lab.audit.world import Mixture, Truth, World
from hetpure_lab.common import stats

EPS = 8 / 255
PARTS = world.two_parts()
TWO_LEVELS = HetPure(t_l=0.4, t_s=0.05, steps=6)
RIGHT = world.mask_of(PARTS, 1.0)
CASES = [
    (Uniform(0.1, 1), None),
    (Uniform(0.2, 3), None),
    (Uniform(0.1, 4, "ddpm"), None),
    (TWO_LEVELS, RIGHT),
    (TWO_LEVELS, world.mask_of(PARTS, 0.5)),
    (
        HetPure(t_l=0.3, t_s=0.1, steps=5, reading="multi-step", U=2, sampler="ddpm"),
        world.mask_of(PARTS, 0.0),
    ),
    (HetPure(t_l=0.4, t_s=0.1, steps=20, reading="released", U=3), RIGHT),
]


@pytest.fixture
def sample():
    images = PARTS.sample(48, seed=1)
    return images.floats, images.labels, images.ids


def misses(right: np.ndarray, chance: np.ndarray, tries: int) -> float:
    """How many standard errors the shares of right outcomes of `tries` each are from their chances,
    over all images."""
    error = np.sqrt((chance * (1 - chance) / tries).sum())
    return float((right - chance).sum() / error)


# ---- what has a closed form ----------------------------------------------------------------------


def three() -> Mixture:
    means = 0.3 * torch.randn(
        3, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    return Mixture(means, 0.2, (0.5, 0.2, 0.3))


@pytest.mark.parametrize(
    "several", [False, True, None], ids=["one level", "a level per pixel", "a number"]
)
def test_the_posterior_mean_is_tweedies(several):
    """Robbins and Tweedie: the conditional mean follows from the gradient of the log density, here
    by automatic differentiation."""
    a = (
        torch.linspace(0.4, 0.95, 16, dtype=torch.float64).reshape(1, 4, 4)
        if several
        else torch.tensor(0.7, dtype=torch.float64)
    )
    a = 0.7 if several is None else a
    b, x = (
        (1 - a**2) ** 0.5,
        0.5
        * torch.randn(5, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),
    )
    x.requires_grad_()
    density = three().log_joint(x, (a, b)).logsumexp(1)
    (score,) = torch.autograd.grad(density.sum(), x)
    assert torch.allclose(three().posterior_mean(x, (a, b)), (x + b**2 * score) / a, atol=1e-10)


def test_the_density_is_one():
    """Integrated over a line through the images, all else being fixed, against the density of the
    rest."""
    mixture, grid = three(), torch.linspace(-4, 4, 4001, dtype=torch.float64)
    x = torch.zeros(len(grid), 3, 4, 4, dtype=torch.float64)
    x[:, 0, 0, 0] = grid
    total = torch.trapezoid(mixture.log_joint(x).logsumexp(1).exp(), grid)
    rest, one = x[:1].flatten(1)[:, 1:], mixture.means.flatten(1)[:, 1:]
    each = -0.5 * ((rest - one) / mixture.sigma).square().sum(1) - 47 / 2 * np.log(
        2 * np.pi * mixture.sigma**2
    )
    assert torch.isclose(total, (each.exp() * torch.tensor(mixture.weights)).sum(), rtol=1e-6)


def test_the_denoiser_is_the_conditional_mean_of_the_noise(sample):
    schedule, (x, _, _) = linear_schedule(), sample
    x0, t = 2 * x.double() - 1, 200
    eps = torch.randn(x0.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    xt = q_xt_x0(x0, t, eps, schedule)
    predicted = world.ExactDenoiser(PARTS.mixture, schedule)(xt, torch.full((len(x),), t))
    error = (eps - predicted).flatten(1)
    assert (
        abs(float((error * predicted.flatten(1)).mean())) < 0.02
    )  # the error is orthogonal to what is predicted
    assert float(error.square().mean()) < float((eps - xt).square().mean())
    with pytest.raises(ValueError, match="one time for all"):
        world.ExactDenoiser(PARTS.mixture, schedule)(xt, torch.arange(len(x)))


def test_two_ways_to_bayes(sample):
    x, _, _ = sample
    log_odds = world.Bayes(PARTS.mixture)(x.double())
    linear = world.Linear(PARTS.bayes)(x.double())
    assert torch.allclose(log_odds[:, 1] - log_odds[:, 0], linear[:, 1] - linear[:, 0])


def test_accuracy_without_a_purifier_is_that_of_many_images():
    images, faint = World(PARTS.pattern / 3).sample(4000, 2), Truth(World(PARTS.pattern / 3))
    x, y = images.floats.double(), images.labels
    for norm, eps in (("Linf", 0.0), ("Linf", 2 / 255), ("L2", 0.1)):
        attacked = faint.best_attack(x, y, norm, eps)
        right = world.Linear(PARTS.bayes)(attacked).argmax(1) == y
        share = stats.clopper_pearson(right.numpy())
        assert share.low < faint.accuracy(norm, eps).value < share.high


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("eps", [0, EPS])
def test_one_level_is_a_coin_whose_bias_is_known(steps, eps, sample):
    """However many steps DDIM takes, uniform purification is the noise that it began with."""
    x, y, _ = sample
    truth = Truth(PARTS, Uniform(0.1, steps))
    x = truth.best_attack(x.double(), y, "Linf", eps)
    assert np.abs(truth.right(x, y, 2**15) - world.one_level(PARTS, 0.1, x, y)).max() < 1e-3
    levels = torch.full((1, 8, 8), 0.1)
    assert abs(truth.accuracy("Linf", eps).value - world.ideal(PARTS, levels, "Linf", eps)) < 1e-3


@pytest.mark.parametrize("purifier, mask", CASES[3:6], ids=str)
def test_nothing_exceeds_the_best_decision_without_an_attack(purifier, mask):
    levels = torch.where(mask == 1, purifier.t_l, purifier.t_s)
    known = Truth(PARTS, purifier, mask).accuracy(draws=2**12)
    assert known.value < world.ideal(PARTS, levels) + 4 * known.error


def test_heterogeneous_noise_helps_as_far_as_its_mask_is_right():
    left = [
        Truth(PARTS, TWO_LEVELS, world.mask_of(PARTS, share)).accuracy("Linf", EPS, 2**12).value
        for share in (0, 0.5, 1)
    ]
    uniform = max(
        Truth(PARTS, Uniform(t, 1)).accuracy("Linf", EPS, 2**12).value
        for t in (0.05, 0.1, 0.2, 0.4)
    )
    assert left[0] < left[1] < uniform < left[2] - 0.1


# ---- the engine, graded --------------------------------------------------------------------------


@pytest.mark.parametrize("purifier, mask", CASES, ids=str)
@pytest.mark.parametrize("attacked", [False, True], ids=["clean", "attacked"])
def test_purifiers_are_right_as_often_as_they_should_be(purifier, mask, attacked, sample):
    x, y, ids = sample
    truth, defence = Truth(PARTS, purifier, mask), PARTS.defended(purifier, attends=mask)
    x = truth.best_attack(x, y) if attacked else x
    right = (logits_of(defence, x, ids, range(24)).argmax(-1) == y).double().mean(0).numpy()
    assert abs(misses(right, truth.right(x, y, 2048), 24)) < 4


def test_a_wrong_purifier_is_told_from_the_right_one(sample):
    """The grade can fail: a mask turned round, or a level that is off, is many standard errors
    away."""
    x, y, ids = sample
    defence = PARTS.defended(TWO_LEVELS, attends=RIGHT)
    x = Truth(PARTS, TWO_LEVELS, RIGHT).best_attack(x, y)
    right = (logits_of(defence, x, ids, range(24)).argmax(-1) == y).double().mean(0).numpy()
    for wrong in (
        Truth(PARTS, TWO_LEVELS, 1 - RIGHT),
        Truth(PARTS, HetPure(t_l=0.4, t_s=0.2, steps=6), RIGHT),
    ):
        assert abs(misses(right, wrong.right(x, y, 2048), 24)) > 5


def test_one_step_restores_the_posterior_mean(sample):
    x, _, ids = sample
    defence = PARTS.defended(Uniform(0.2, 1))
    noise = defence.noise(len(x), ids)
    a, b = world.level(PARTS, 0.2)
    xt = a * (2 * x - 1) + b * noise("start", x)
    assert torch.allclose(
        2 * defence.purify(x, noise) - 1, PARTS.mixture.posterior_mean(xt, (a, b)), atol=1e-4
    )


def test_ancestral_sampling_restores_the_posterior_mean_on_average(sample):
    x, _, ids = (part[:6] for part in sample)
    defence, copies, (a, b) = PARTS.defended(Uniform(0.2, 25, "ddpm")), 40, world.level(PARTS, 0.2)
    gaps = []
    for c in range(copies):
        noise = defence.noise(len(x), ids, [c] * len(x))
        mean = PARTS.mixture.posterior_mean(a * (2 * x - 1) + b * noise("start", x), (a, b))
        with torch.no_grad():
            gaps.append((2 * defence.purify(x, noise) - 1 - mean).double())
    along = (torch.stack(gaps) * PARTS.pattern / PARTS.pattern.norm()).sum((2, 3, 4)).flatten()
    assert abs(float(along.mean())) < 4 * float(along.std()) / len(along) ** 0.5


def test_votes_are_binomial(sample):
    x, y, ids = sample
    truth, defence = Truth(PARTS, TWO_LEVELS, RIGHT), PARTS.defended(TWO_LEVELS, attends=RIGHT)
    x = truth.best_attack(x, y)
    rounds = [
        (logits_of(reseeded(defence, s), x, ids, range(5)).argmax(-1) == y).sum(0) >= 3
        for s in range(6)
    ]
    right = torch.stack(rounds).double().mean(0).numpy()
    assert abs(misses(right, world.vote(truth.right(x, y, 2048), 5), 6)) < 4


@pytest.mark.parametrize("S", [1, 2, 9, 20])
def test_an_even_vote_of_a_coin_is_even(S):
    assert world.vote(np.array([0.5]), S) == pytest.approx(0.5)


@pytest.mark.parametrize("purifier, mask", [CASES[1], CASES[3]], ids=str)
def test_every_pixel_of_an_exact_gradient_points_the_way_of_the_best_attack(purifier, mask, sample):
    x, y, ids = (part[:8] for part in sample)
    defence = PARTS.defended(purifier, attends=mask)
    _, gradient = loss_and_gradient(defence, x, y, ids, range(2))
    best = Truth(PARTS, purifier, mask).best_attack(x, y) - x
    assert (gradient.sign() == best.sign()).all()


@pytest.mark.parametrize("norm, eps, step", [("Linf", EPS, 0.007), ("L2", 0.5, 0.1)])
@pytest.mark.parametrize("purifier, mask", [CASES[1], CASES[3]], ids=["uniform", "heterogeneous"])
def test_no_attack_beats_the_best_one_and_good_ones_reach_it(
    purifier, mask, norm, eps, step, sample
):
    x, y, ids = (part[:12] for part in sample)
    truth, defence = Truth(PARTS, purifier, mask), PARTS.defended(purifier, attends=mask)
    pgd = PGD(norm, eps, iterations=12, eot=4, step=step, confirm=0, loss="margin")
    shares = {}
    for attack in (pgd, RandomNoise(norm, eps)):
        found, _ = attack.run(defence, x, y, ids)
        real = x + to_8_bit(found, x, norm, eps) / 255
        shares[type(attack)] = truth.share(x, y, real, norm, eps)
    assert max(shares.values()) < 1.005 and shares[PGD] > 0.9 and abs(shares[RandomNoise]) < 0.1


def test_autoattack_and_square_are_graded_too(sample):
    x, y, ids = (part[:8] for part in sample)
    truth, defence = Truth(PARTS, Uniform(0.2, 1)), PARTS.defended(Uniform(0.2, 1))
    share = lambda attack: truth.share(x, y, attack.run(defence, x, y, ids)[0])
    assert (
        0.99
        < share(CorrectedAutoAttack(iterations=8, eot=2, accept=4, losses="ce+margin"))
        < 1.0001
    )
    assert 0.1 < share(Square(iterations=60, eot=4, confirm=0)) < 0.9


def test_an_evaluation_recovers_the_truth_and_raises_no_flag():
    """From attack to interval, through the code that makes the tables."""
    purifier, attack, images = (
        Uniform(0.1, 2),
        PGD(iterations=6, eot=2, step=0.01, confirm=0),
        PARTS.sample(96, seed=3),
    )
    defence = PARTS.defended(purifier)
    rows = evidence.evaluate(
        Trial("pgd", attack, 8, "world"), defence, attack, images, torch.device("cpu")
    )
    e = flags.Evidence("world", {r["image"]: r for r in rows})
    truth = Truth(PARTS, purifier)
    for column, eps in (("clean", 0.0), ("adversarial", EPS)):
        share = e.outcomes.single(column)
        assert share.low < truth.accuracy("Linf", eps).value < share.high
    assert flags.examine(e) == []
    assert flags.live(Trial("pgd", attack, 3, "world"), defence, attack, images.take(2)) == []


def test_intervals_cover_the_truth():
    """Of many samples of 64 images with 20 purifications each, about 95 % of the intervals hold the
    true accuracy."""
    truth = Truth(PARTS, TWO_LEVELS, RIGHT)
    chance = truth.chance(truth.population(1024, 5) - truth.shift("Linf", EPS), 512)
    rng, hits = np.random.default_rng(0), 0
    for _ in range(100):
        rates = rng.binomial(20, rng.choice(chance, 64)) / 20
        share = stats.mean_rate(rates, resamples=400)
        hits += share.low <= chance.mean() <= share.high
    assert hits >= 88


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: World(PARTS.pattern, 0.3), "images would leave"),
        (lambda: World(PARTS.pattern.float()), "a pattern is float64"),
        (lambda: Mixture(PARTS.pattern[None], 0.1, (0.5, 0.5)), "1 means need as many"),
        (lambda: Truth(PARTS, TWO_LEVELS), "two noise levels need a mask"),
        (lambda: Truth(PARTS, weights=-PARTS.pattern), "opposite sign"),
        (lambda: Truth(PARTS).accuracy("L1", 0.1), "unknown norm 'L1'"),
        (lambda: world.mask_of(PARTS, 1.5), "share of the mask"),
    ],
)
def test_bad_input_is_explained(make, message):
    with pytest.raises(ValueError, match=message):
        make()
