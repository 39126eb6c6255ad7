"""Rival purifiers: limits where one must equal another, moments on Gaussian data, exact gradients,
and what the interface promises.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, fields

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hetpure_core
from hetpure_core import HetPure, Noise, Purified, Uniform, linear_schedule, run
from hetpure_lab import attacks, defences, evidence
from hetpure_lab.common import names, specs, stats
from hetpure_lab.defences import DEFENCES, METHODS, RIVALS, assemble
from hetpure_lab.defences.adp import ADP
from hetpure_lab.defences.contrastive import Contrastive, contrast
from hetpure_lab.defences.densepure import DensePure
from hetpure_lab.defences.diffap import RandomSampling
from hetpure_lab.defences.equal_energy import EqualEnergy
from hetpure_lab.defences.freqpure import FreqPure, with_low_frequencies
from hetpure_lab.defences.gdmp import GDMP
from hetpure_lab.defences.gradual import Gradual
from hetpure_lab.defences.image_gradient import ImageGradient
from hetpure_lab.defences.langevin import Langevin
from hetpure_lab.defences.likelihood import Likelihood
from hetpure_lab.defences.lorid import LoRID, low_rank
from hetpure_lab.defences.mani import Mani, rings
from hetpure_lab.defences.mimic import MimicDiffusion
from hetpure_lab.defences.pursamere import SharpnessAware
from hetpure_lab.defences.reverse_sde import ProbabilityFlow, ReverseSDE
from hetpure_lab.defences.sampling import Scene
from hetpure_lab.defences.scoreopt import ScoreOpt
from hetpure_lab.defences.ssni import SSNI
from hetpure_lab.defences.taro import Taro
from hetpure_lab.paper import printed
from hetpure_lab.report import features, figures, plots, tables

SCHEDULE = linear_schedule()
FEWER = {  # short chains that still visit every branch
    "gradual": {"levels": (30, 50), "steps": (2, 3)},
    "gdmp": {"steps": 3, "loops": 2, "scale": 1e3},
    "mimic": {"steps": 6},
    "lorid": {"steps": 2, "loops": 2},
    "densepure": {"steps": 2, "votes": 2},
    "langevin": {"length": 7, "stride": 3},
    "freqpure": {"levels": (20, 50), "steps": 2, "cut": 1},
    "ssni": {"steps": 3, "probes": 2},
    "mani": {"steps": 3, "bands": 3, "cut": 1},
    "hetpure": {"steps": 5},
    "equal-energy": {"steps": 5},
    "image-gradient": {"steps": 5},
}
# The rows of the fair table, whose evidence the queue has in full. A purifier that is added later
# needs none of it: it joins this list with its lines in the queue and its row in chapter 11.
TABLED = (
    "uniform hetpure equal-energy image-gradient sde ode gradual gdmp mimic contrastive lorid "
    "densepure adp langevin freqpure diffap ssni scoreopt pursamere at me-net pixeldefend atop"
).split()
KINDS = METHODS | RIVALS
STEPS = {
    slug: {"steps": 3} for slug, kind in KINDS.items() if "steps" in {f.name for f in fields(kind)}
}
EVERY = {slug: kind(**FEWER.get(slug, STEPS.get(slug, {}))) for slug, kind in KINDS.items()}
every_purifier = pytest.mark.parametrize("purifier", EVERY.values(), ids=EVERY)


class GaussianData(nn.Module):
    """The exact noise predictor of pixels that are independent N(mean, variance) in the [-1, 1]
    scale.
    """

    mean, variance = 0.2, 0.09

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        signal, sigma = SCHEDULE.signal_and_noise(t, x)
        return sigma * (x - signal * self.mean) / (signal**2 * self.variance + sigma**2)


EPS = GaussianData()


def noise(n: int, seed: int = 0) -> Noise:
    return Noise(seed, range(n), [0] * n)


def purified(purifier, x: Tensor, eps=EPS, mask: Tensor | None = None) -> Tensor:
    """The result in the [-1, 1] scale."""
    return run(x, purifier.plan(x, mask, eps, noise(len(x)), SCHEDULE))


@pytest.fixture
def x(images) -> Tensor:
    return 2 * images - 1


# ---- limits: one purifier is another -------------------------------------------------------------


@pytest.mark.parametrize(
    ("purifier", "other"),
    [
        (Gradual((50,), (4,)), Uniform(0.05, 4, "ddpm")),
        (LoRID(0.05, 4, loops=1, share=1.0), Uniform(0.05, 4, "ddpm")),
        (LoRID(0.05, 4, loops=3, share=1.0), Gradual((50, 50, 50), (4, 4, 4))),
        (GDMP(0.05, 4, loops=2, scale=0), Gradual((50, 50), (4, 4))),
        (RandomSampling(0.14, 1), Uniform(0.14, 1)),
        (SSNI(0.2, 5, width=1e9), Uniform(0.1, 5)),
        (Contrastive(0.1, 5, scale=0), ReverseSDE(0.1, 5)),
        (DensePure(0.14, 4, votes=1), Uniform(0.14, 4, "ddpm")),
        (Mani(0.05, 4, gamma=0.0), FreqPure((50,), 4)),
    ],
    ids=lambda p: type(p).__name__,
)
def test_limits_equal_another_purifier(purifier, other, x, denoiser, classifier):
    defended = assemble(purifier, classifier, denoiser)
    torch.testing.assert_close(
        purified(defended.purifier, x, denoiser), purified(other, x, denoiser), rtol=1e-9, atol=1e-9
    )


def test_one_step_is_one_shot_denoising(x, denoiser):
    t = SCHEDULE.index(0.14)
    signal, sigma = SCHEDULE.signal_and_noise(t, x)
    noisy = signal * x + sigma * noise(4)("start", x)
    torch.testing.assert_close(
        purified(Uniform(0.14, 1), x, denoiser),
        (noisy - sigma * denoiser(noisy, torch.full((4,), t))) / signal,
    )


@pytest.mark.parametrize(("value", "level"), [(1.0, 0.2), (0.0, 0.05)])
def test_equal_energy_of_a_constant_mask_is_uniform_noise_of_that_level(value, level, x, denoiser):
    control = EqualEnergy(0.2, 0.05)
    mask = torch.full((4, 1, 8, 8), value, dtype=x.dtype)
    expected = purified(Uniform(level, control.calls(SCHEDULE)), x, denoiser)
    torch.testing.assert_close(purified(control, x, denoiser, mask), expected, rtol=1e-9, atol=1e-9)


def test_equal_energy_adds_as_much_noise_as_the_method(x):
    """Against the energy that Eq 5 puts into the image, to the resolution of one time index."""
    mask = torch.zeros(4, 1, 8, 8, dtype=x.dtype)
    for i, share in enumerate((8, 16, 32, 60)):
        mask[i].view(-1)[:share] = 1
    control = EqualEnergy(0.2, 0.05)
    strong, weak = (1 - SCHEDULE.abar[SCHEDULE.index(t)] for t in (0.2, 0.05))
    energy = (mask * strong + (1 - mask) * weak).mean((1, 2, 3))
    (_, start), *_ = control.plan(x, mask, EPS, noise(4), SCHEDULE)
    levels = start.args[0]
    assert (
        (1 - SCHEDULE.abar[levels] - energy).abs() <= SCHEDULE.abar.diff().abs().max()
    ).all() and levels.diff().gt(0).all()


PUBLISHED_CALLS = {
    "sde": 100,
    "ode": 100,
    "gradual": 470,
    "gdmp": 144,
    "mimic": 100,
    "contrastive": 100,
    "langevin": 1500,
    "freqpure": 50,
}


def test_published_settings_make_the_published_number_of_calls():
    chains = {slug: defences.published(slug) for slug in DEFENCES}
    assert {slug: tables.cost(chain) for slug, chain in chains.items() if chain} == PUBLISHED_CALLS
    assert all(tables.cost(slug) <= 40 for slug in TABLED)
    assert [p.surrogate().calls(SCHEDULE) for p in (Gradual(), FreqPure())] == [7, 1]


# ---- moments and closed forms on Gaussian data ---------------------------------------------------


@pytest.mark.parametrize(
    "purifier",
    [ReverseSDE(0.1, 100), Uniform(0.1, 100, "ddpm"), DensePure(0.1, 100)],
    ids=lambda p: type(p).__name__,
)
def test_sampling_draws_from_the_posterior_given_the_noisy_image(purifier):
    """x_0 given x, over noise: mean and variance follow from the Gaussian posterior of x_0 given
    x_t.
    """
    x = torch.full((64, 3, 8, 8), 0.8, dtype=torch.float64)
    out, abar = purified(purifier, x), float(SCHEDULE.abar[100])
    v, sigma2 = EPS.variance, 1 - abar
    gain = math.sqrt(abar) * v / (abar * v + sigma2)
    mean = EPS.mean + gain * math.sqrt(abar) * (0.8 - EPS.mean)
    variance = v * sigma2 / (abar * v + sigma2) + gain**2 * sigma2
    assert abs(out.mean() - mean) < 5 * math.sqrt(variance / out.numel()) + 2e-3
    assert abs(out.var() / variance - 1) < 0.06


def test_probability_flow_is_the_map_between_the_gaussians(x):
    t, abar = 100, float(SCHEDULE.abar[100])
    noisy = math.sqrt(abar) * x + math.sqrt(1 - abar) * noise(4)("start", x)
    scale = math.sqrt(EPS.variance / (abar * EPS.variance + 1 - abar))
    expected = EPS.mean + scale * (noisy - math.sqrt(abar) * EPS.mean)
    errors = [
        (purified(ProbabilityFlow(0.1, n), x) - expected).abs().max().item() for n in (t // 4, t)
    ]
    assert errors[1] < 0.02 and errors[1] < errors[0] / 2


def test_langevin_settles_on_the_smoothed_data_with_eulers_variance():
    walk, x = (
        Langevin(0.03, 0.1, length=150, stride=1),
        torch.full((64, 3, 8, 8), 0.9, dtype=torch.float64),
    )
    smooth = EPS.variance + 1 / float(SCHEDULE.abar[30]) - 1
    expected = smooth / (1 - walk.eta**2 / smooth / 4)
    out = purified(walk, x)
    assert abs(out.mean() - EPS.mean) < 0.02 and abs(out.var() / expected - 1) < 0.06


def test_adp_contracts_by_kappa_where_the_curvature_is_constant(x):
    adp = ADP(0.14, steps=4, kappa=0.3)
    start = x + math.sqrt(1 / float(SCHEDULE.abar[140]) - 1) * noise(4)("start", x)
    torch.testing.assert_close(
        purified(adp, x), EPS.mean + 0.7**4 * (start - EPS.mean), rtol=1e-5, atol=1e-5
    )


def test_adp_rests_where_the_step_would_be_tiny(x):
    adp = ADP(0.14, steps=4, kappa=1e-3)
    start = x + math.sqrt(1 / float(SCHEDULE.abar[140]) - 1) * noise(4)("start", x)
    assert torch.equal(purified(adp, x), start)


@pytest.mark.parametrize("radius", [0.0, 1.0])
def test_sharpness_aware_descent_contracts_radially(radius, x):
    sigma2 = 1 / float(SCHEDULE.abar[50]) - 1
    k2 = (sigma2 / (EPS.variance + sigma2)) ** 2
    away, expected = x - EPS.mean, x - EPS.mean
    for _ in range(2):
        expected = expected * (
            1 - 0.5 * k2 * (1 + radius / expected.square().sum((1, 2, 3), keepdim=True).sqrt())
        )
    out = purified(SharpnessAware(0.05, 2, rate=0.5, radius=radius), x) - EPS.mean
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)
    assert (out.abs() < away.abs()).all()


def test_first_step_of_adam_has_the_length_of_the_rate(x):
    """And goes down: towards the mean, on average over the noise."""
    move = purified(ScoreOpt(0.14, 1, rate=0.05), x) - x
    torch.testing.assert_close(move.abs(), torch.full_like(x, 0.05), rtol=1e-4, atol=0)
    assert ((move * (EPS.mean - x)).sum((1, 2, 3)) > 0).all()


def test_likelihood_without_a_ball_and_with_one_level_is_scoreopt(x, denoiser):
    """Its loss is that of ScoreOpt over the level squared, and Adam does not see the scale."""
    free = Likelihood(0.14, 0.14, steps=4, rate=0.1, eta=10.0)
    other = purified(ScoreOpt(0.14, steps=4, rate=0.1), x, denoiser)
    torch.testing.assert_close(purified(free, x, denoiser), other, rtol=1e-5, atol=1e-6)


def test_likelihood_stays_in_its_ball_and_goes_where_images_are_likely(x):
    near, far = (purified(Likelihood(rate=r, eta=0.02), x) - x for r in (0.02, 0.5))
    assert near.abs().max() <= 0.04 + 1e-12 and far.abs().amax() == pytest.approx(0.04)
    assert (((EPS.mean - x) * near).sum((1, 2, 3)) > 0).all()


def test_likelihood_draws_a_level_for_every_image_and_step(x):
    scene = Scene(x.repeat(16, 1, 1, 1), EPS, noise(64), SCHEDULE)
    first, second = (Likelihood().level(scene, k) for k in (1, 2))
    assert first.min() >= 115 and first.max() <= 165 and len(first.unique()) > 16
    assert not torch.equal(first, second)


@pytest.mark.parametrize("guidance", [0.0, 0.5])
def test_taro_moves_by_the_rate_towards_what_two_experts_expect(guidance, x):
    """On Gaussian pixels an expert's expectation has a closed form: a pull to the mean, the
    stronger the more noise.
    """
    taro, k = Taro(0.05, 0.2, steps=4, rate=0.3, guidance=guidance), 1
    scene, target = Scene(x, EPS, noise(4), SCHEDULE), 0
    for name, t, weight in (("fine", 50, 1 - guidance * 3 / 4), ("coarse", 200, guidance * 3 / 4)):
        s2 = 1 / float(SCHEDULE.abar[t]) - 1
        noisy = x + math.sqrt(s2) * noise(4)(f"{name} {k}", x)
        mean = (EPS.variance * noisy + s2 * EPS.mean) / (EPS.variance + s2)
        target = target + weight * mean
    expected = x + 0.3 * (target - x)
    torch.testing.assert_close(taro.step(scene, k, x), expected, rtol=1e-5, atol=1e-6)


def test_manis_noise_has_the_energy_of_white_noise_and_most_of_it_where_the_image_is_weak(x):
    """An image of low frequency gets noise of high frequency."""
    smooth = F.avg_pool2d(F.pad(x, (2, 2, 2, 2), "replicate"), 5, 1)
    weights = Mani(bands=4, gamma=0.5).weights(smooth)
    torch.testing.assert_close(
        weights.square().mean((1, 2, 3)), torch.ones(4, dtype=x.dtype), rtol=1e-9, atol=0
    )
    ring = rings(8, 8, 4)
    each = torch.stack([weights[:, 0, ring == b].mean(1) for b in range(4)], 1)
    assert (each.diff(dim=1) > 0).all() and (weights[:, 0, ring == 1].std(1) < 1e-12).all()
    scene = Scene(x, EPS, noise(4), SCHEDULE)
    flat = Mani(gamma=0.0).start(scene, 100, x)
    torch.testing.assert_close(flat, scene.start(100, x), rtol=1e-6, atol=1e-6)


def test_random_sampling_forgets_the_predicted_noise(x):
    """Given the estimate, every step is a fresh diffusion of it."""
    t, s = 100, 50
    (_, start), (_, step), *_ = RandomSampling(0.1, 2).plan(x, None, EPS, noise(4), SCHEDULE)
    noisy = start(x)
    signal, sigma = SCHEDULE.signal_and_noise(t, x)
    x0 = (noisy - sigma * EPS(noisy, torch.full((4,), t))) / signal
    signal, sigma = SCHEDULE.signal_and_noise(s, x)
    torch.testing.assert_close(step(noisy), signal * x0 + sigma * noise(4)("reverse 100 50 ", x))


def test_full_guidance_returns_the_input(x):
    strong = RandomSampling(0.1, 1, guidance=1 / math.sqrt(float(SCHEDULE.abar[100])))
    torch.testing.assert_close(purified(strong, x), x)


@pytest.mark.parametrize(
    ("weak", "strong"),
    [(GDMP(scale=0), GDMP(scale=3e3)), (MimicDiffusion(rho=0), MimicDiffusion())],
    ids=["gdmp", "mimic"],
)
def test_guidance_brings_the_result_closer_to_the_input(weak, strong, x):
    near, far = ((purified(p, x) - x).square().mean((1, 2, 3)) for p in (strong, weak))
    assert (near < far).all()


def test_one_guided_step_of_gdmp_is_the_published_strength_times_the_posterior_variance(x):
    """Wang et al.: minus sigma^2 s grad MSE(x_t, x_ref), s = sqrt(1 - abar) / (m sqrt(abar)), m =
    ptb 2 / 255 / 3 / scale.

    Their sigma^2 is beta_t and their MSE a mean over the batch; here the variance of the posterior
    and the MSE of one image.
    """
    t, s, abar = 20, 16, SCHEDULE.abar.double()
    variance = (1 - abar[s]) / (1 - abar[t]) * (1 - abar[t] / abar[s])
    strength = ((1 - abar[t]) / abar[t]).sqrt() / (8 * 2 / 255 / 3 / 6e4)
    state = x.flip(0).requires_grad_()
    scene, unguided = Scene(x, EPS, noise(4), SCHEDULE), GDMP(scale=0)
    reference = abar[t].sqrt() * x + (1 - abar[t]).sqrt() * noise(4)("reference 20", x)
    slope = torch.autograd.grad((state - reference).square().mean((1, 2, 3)).sum(), state)[0]
    expected = unguided.step(scene, t, s, state) - variance * strength * slope
    torch.testing.assert_close(GDMP().step(scene, t, s, state), expected, rtol=1e-5, atol=1e-5)


def test_one_guided_step_makes_the_classifiers_view_agree_with_the_last(x, classifier):
    """Contrastive guidance lowers the contrastive loss of every image, by the step's own
    gradient.
    """
    scene, view = (
        Scene(x, EPS, noise(4), SCHEDULE),
        lambda y: F.normalize(classifier((y + 1) / 2), dim=1),
    )
    plain, guided_ = (
        Contrastive(scale=scale).guided_step(scene, classifier, 50, 45, x) for scale in (0.0, 1.0)
    )
    losses = [contrast(view(y), view(x)) for y in (plain, guided_)]
    assert (losses[1] < losses[0]).all()


def test_contrastive_guidance_without_its_classifier_is_refused(classifier, denoiser, images):
    with pytest.raises(ValueError, match="build it with defences.assemble"):
        Purified(classifier, denoiser, Contrastive())(images)


# ---- what the input still knows ------------------------------------------------------------------


def test_low_rank_of_one_channel_is_the_truncated_svd(x):
    matrix = x[:, :1]
    u, s, v = torch.linalg.svd(matrix)
    expected = u[..., :6] * s[..., None, :6] @ v[..., :6, :]
    torch.testing.assert_close(low_rank(matrix, 0.75), expected)


def test_low_rank_has_its_exact_gradient_even_where_eigenvalues_coincide(x):
    weights = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(
        lambda v: (weights[:1] * low_rank(v, 0.5)).sum(), x[:1].clone().requires_grad_()
    )
    flat = torch.full_like(x, 0.3).requires_grad_()
    assert torch.autograd.grad(low_rank(flat, 0.5).sum(), flat)[0].isfinite().all()


def test_all_frequencies_without_phase_tolerance_are_the_reference(x):
    other = x.flip(0)
    torch.testing.assert_close(with_low_frequencies(x, other, cut=4, delta=0.0), other)
    torch.testing.assert_close(with_low_frequencies(x, x, cut=4, delta=0.3), x)


def test_low_frequencies_come_from_the_reference_and_the_rest_stays(x):
    other, k = x.flip(0), torch.fft.fftfreq(8, 1 / 8).abs()
    mixed = torch.fft.fft2(with_low_frequencies(x, other, cut=2, delta=0.3))
    ours, theirs = torch.fft.fft2(x), torch.fft.fft2(other)
    high = (k[:, None] > 2) | (k[None] > 2)
    torch.testing.assert_close(mixed[..., high], ours[..., high])
    low = ~high
    low[0, 0] = False  # a mean of the other sign turns by pi, and no real image can turn by less
    torch.testing.assert_close(mixed[..., low].abs(), theirs[..., low].abs())
    turn = torch.angle(mixed * theirs.conj())[..., low]
    assert turn.abs().max() < 0.3 + 1e-9 and turn.abs().max() > 0.29


def test_the_square_of_low_frequencies_holds_the_disc_of_the_release():
    """On images of CIFAR-10's size at the default cut: 49 frequencies here, the 29 of the release
    among them.
    """
    mine, other = torch.randn(
        2, 1, 1, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    changed = with_low_frequencies(mine, other, FreqPure().cut, 0.0) - mine
    square = torch.fft.fft2(changed)[0, 0].abs() > 1e-9
    k = torch.fft.fftfreq(32, 1 / 32)
    disc = (k[:, None] ** 2 + k[None] ** 2).sqrt() <= FreqPure().cut
    assert (int(square.sum()), int(disc.sum())) == (49, 29) and (square | ~disc).all()


def test_image_gradient_mask_has_the_area_of_the_attention_mask_and_sits_on_edges(classifier):
    images = torch.full((2, 3, 16, 16), 0.2, dtype=torch.float64)
    images[0, :, :, 8:], images[1, :, 8:] = 0.9, 0.9
    control, method = ImageGradient(tau=0.7), HetPure(tau=0.7)
    masks = [p.mask(images, classifier, classifier.taps(), noise(2)) for p in (control, method)]
    assert torch.equal(*(m.sum((1, 2, 3)) for m in masks))
    band = [masks[0][0, 0, :, 5:11], masks[0][1, 0, 5:11]]
    assert all(b.sum() >= min(m.sum(), 64) for b, m in zip(band, masks[0]))


def test_mimic_starts_without_the_input_and_its_published_guidance_has_no_gradient(
    x, classifier, denoiser
):
    _, first = next(
        iter(hetpure_core.trajectory(x, MimicDiffusion().plan(x, None, EPS, noise(4), SCHEDULE)))
    )
    assert torch.equal(first, noise(4)("start", x))
    for smooth, silent in ((0.0, True), (0.05, False)):
        y = x.clone().requires_grad_()
        out = purified(MimicDiffusion(steps=6, smooth=smooth), y, denoiser)
        assert (
            torch.autograd.grad(out.square().sum(), y, allow_unused=True)[0]
            .abs()
            .max()
            .eq(0)
            .item()
            == silent
        )


def test_densepure_votes_share_the_noisy_image_and_nothing_else(x, denoiser):
    pure = DensePure(0.14, 2, votes=2)
    plan = pure.plan(
        x[:1].repeat(4, 1, 1, 1), None, denoiser, Noise(0, ["a"] * 4, range(4)), SCHEDULE
    )
    (_, start), *_, (_, end) = hetpure_core.trajectory(x[:1].repeat(4, 1, 1, 1), plan)
    assert (
        torch.equal(start[0], start[1])
        and torch.equal(start[2], start[3])
        and not torch.equal(start[1], start[2])
    )
    assert not torch.equal(end[0], end[1])


def test_ssni_gives_more_noise_to_a_noisier_image(x):
    noisy = x + 0.3 * noise(4, seed=9)("extra", x)
    norms = [SSNI().score_norm(Scene(v, EPS, noise(4), SCHEDULE)) for v in (x, noisy)]
    assert (norms[1] > norms[0]).all()
    ssni = SSNI(centre=float(torch.stack(norms).mean()), width=float((norms[1] - norms[0]).mean()))
    (_, quiet), (_, loud) = (ssni.plan(v, None, EPS, noise(4), SCHEDULE)[0] for v in (x, noisy))
    assert (loud.args[0] > quiet.args[0]).all()


def test_contrast_is_smallest_where_view_and_anchor_agree():
    anchor = F.normalize(
        torch.tensor([[3.0, 1.0, 0.5], [0.2, 0.1, 2.0]], dtype=torch.float64), dim=1
    )
    assert (contrast(anchor, anchor) < contrast(anchor.flip(0), anchor)).all()
    positive = torch.ones(2, dtype=torch.float64).exp()
    negatives = anchor.exp().sum(1) - anchor.amax(1).exp()
    torch.testing.assert_close(contrast(anchor, anchor), -(positive / (positive + negatives)).log())


# ---- what every registered purifier promises -----------------------------------------------------


def loss(defended: Purified, images: Tensor) -> Tensor:
    """The cross-entropy of versions of one image, all under the same noise (n,)."""
    return F.cross_entropy(
        defended(images, ["an image"] * len(images)),
        torch.full((len(images),), 2),
        reduction="none",
    )


def gradient(defended: Purified, image: Tensor) -> Tensor:
    image = image.clone().requires_grad_()
    return torch.autograd.grad(loss(defended, image).sum(), image)[0]


@every_purifier
def test_gradient_is_that_of_finite_differences(purifier, classifier, denoiser, images):
    """Through guidance too, whose own gradient is differentiated again."""
    defended, image, h = assemble(purifier, classifier, denoiser), images[:1, :, :6, :6], 1e-5
    directions = torch.randn(
        4, *image.shape[1:], dtype=image.dtype, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        numeric = (
            loss(defended, image + h * directions) - loss(defended, image - h * directions)
        ) / (2 * h)
    predicted = (gradient(defended, image) * directions).sum((1, 2, 3))
    assert numeric.abs().max() > 1e-6
    torch.testing.assert_close(predicted, numeric, rtol=1e-5, atol=1e-8)


@every_purifier
def test_recomputed_segments_change_nothing(purifier, classifier, denoiser, images, monkeypatch):
    monkeypatch.setattr(hetpure_core, "FLAT_UP_TO", 0)
    kept, recomputed = (
        gradient(assemble(purifier, classifier, denoiser, checkpointing=c), images[:1])
        for c in (False, True)
    )
    torch.testing.assert_close(kept, recomputed, rtol=1e-12, atol=1e-14)


@every_purifier
def test_a_row_alone_equals_the_row_in_a_batch(purifier, classifier, denoiser, images):
    defended, ids = assemble(purifier, classifier, denoiser), list("abcd")
    y = images.clone().requires_grad_()
    together = defended(y, ids)
    slope = torch.autograd.grad(together.square().sum(), y)[0]
    for i in (0, 3):
        row = images[i : i + 1].clone().requires_grad_()
        alone = defended(row, ids[i : i + 1])
        torch.testing.assert_close(alone, together[i : i + 1], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(
            torch.autograd.grad(alone.square().sum(), row)[0],
            slope[i : i + 1],
            rtol=1e-7,
            atol=1e-9,
        )


@every_purifier
def test_results_are_the_same_with_and_without_recording_a_gradient(
    purifier, classifier, denoiser, images
):
    defended = assemble(purifier, classifier, denoiser)
    with torch.no_grad():
        silent = defended(images, range(4))
    assert not silent.requires_grad
    torch.testing.assert_close(
        silent, defended(images.clone().requires_grad_(), range(4)).detach(), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("slug", METHODS | RIVALS)
def test_calls_are_the_denoiser_calls_per_image_at_the_defaults(slug, classifier, denoiser, images):
    rows = []
    denoiser.register_forward_pre_hook(lambda _m, inputs: rows.append(len(inputs[0])))
    defended = assemble(DEFENCES[slug](), classifier, denoiser, checkpointing=False)
    with torch.no_grad():
        defended(images[:2], range(2))
    assert sum(rows) == 2 * defended.votes * defended.purifier.calls(SCHEDULE)


@every_purifier
def test_spec_round_trip(purifier):
    slug = next(s for s, p in EVERY.items() if p is purifier)
    for settings in (purifier, DEFENCES[slug]()):
        text = specs.write({"name": slug} | asdict(settings), DEFENCES)
        assert specs.parse(text, DEFENCES) == (slug, settings)
        as_json = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(settings).items()}
        assert specs.write({"name": slug} | as_json, DEFENCES) == text


def test_surrogates_are_the_published_ones_or_refused(classifier, denoiser):
    seen = attacks.seen_by_the_attack(
        assemble(Gradual(), classifier, denoiser), "surrogate"
    ).purifier
    assert seen == Gradual((30, 50, 125), (1, 1, 5))
    with pytest.raises(ValueError, match="ReverseSDE has no surrogate"):
        attacks.seen_by_the_attack(assemble(ReverseSDE(), classifier, denoiser), "surrogate")


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (ReverseSDE, {"t": 0.0}, "noise level|fraction"),
        (Gradual, {"levels": (30,)}, "as many entries"),
        (Gradual, {"levels": (0,), "steps": (1,)}, "fraction"),
        (LoRID, {"share": 0.0}, "share"),
        (LoRID, {"loops": 0}, "loops"),
        (Langevin, {"stride": 0}, "stride"),
        (DensePure, {"votes": 0}, "votes"),
        (FreqPure, {"delta": -1.0}, "delta"),
        (SSNI, {"width": 0.0}, "width"),
        (GDMP, {"ptb": 0.0}, "ptb"),
        (MimicDiffusion, {"rho": -1.0}, "rho"),
        (SharpnessAware, {"radius": -1.0}, "radius"),
        (ADP, {"kappa": -0.1}, "kappa"),
        (Taro, {"coarse": 0.05}, "coarse"),
        (Taro, {"guidance": -0.1}, "guidance"),
        (Mani, {"bands": 0}, "bands"),
        (Likelihood, {"low": 0.2}, "low must not be above high"),
        (Likelihood, {"eta": -0.1}, "eta"),
    ],
)
def test_bad_settings_are_refused(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        kind(**settings)


# ---- tables and features of all rows -------------------------------------------------------------


def test_the_paper_tables_name_specs_as_records_do():
    named = {claim.ours for table in printed.TABLES.values() for claim in table.rows if claim.ours}
    assert (
        named == {specs.normal(spec, DEFENCES) for spec in named}
        and {"gradual", "gdmp:t=0.036", "langevin:t=0.03"} <= named
    )


def test_cost_counts_the_votes_that_a_purifier_prescribes():
    costs = {
        "none": 0,
        "uniform:t=0.1": 10,
        "densepure:steps=3,votes=7": 21,
        "gradual": 34,
        "at": 0,
        "me-net": 0,
        "atop": 1,
    }
    assert {spec: tables.cost(spec) for spec in costs} == costs


def test_the_front_is_what_no_cheaper_or_better_point_beats():
    points = {
        "free": (0, 1.0),
        "cheap": (5, 40.0),
        "dear": (20, 60.0),
        "beaten": (20, 50.0),
        "same": (30, 60.0),
    }
    assert tables.pareto(points) == ["free", "cheap", "dear"]


def test_conclusions_follow_from_the_verdicts():
    pairs = pd.DataFrame(
        {"defence": ["a", "b", "c", "d"], "verdict": ["lower", "inconclusive", "lower", "higher"]}
    )
    pairs["beside"] = ["", "at the floor: cannot decide", "clean accuracy differs by 9", ""]
    pairs["p (vote, McNemar, Holm)"] = [0.04, 1, 0.06, 0.07]
    said = [re.sub("<[^>]*>", "", sentence) for sentence in tables.conclusions(pairs)]
    assert said == [
        "**More accurate under attack than the method**: 1 of 4. At equal clean accuracy: d.",
        "**Less accurate under attack than the method**: 2 of 4. At equal clean accuracy: a.",
        "**Not told apart from the method**: 0 of 4.",
        "**Too little clean accuracy to be judged**: 1 of 4.",
        "**Told apart by their votes, after Holm's correction**: 1 of 4.",
    ]
    assert "No record" in tables.conclusions(pd.DataFrame())[0]


def test_features_are_found_by_running():
    found = features.features(
        ["uniform", "equal-energy", "mimic", "contrastive", "scoreopt", "pursamere", "gradual"]
    ).set_index("spec")
    assert found.index[~found["random"]].tolist() == ["pursamere"]
    assert found.index[found["level per image"]].tolist() == ["equal-energy"]
    assert found.index[found["looks back"]].tolist() == ["mimic"]
    assert found["differentiates"].to_dict() == dict.fromkeys(found.index, "") | {
        "contrastive": "classifier",
        "scoreopt": "denoiser",
        "pursamere": "denoiser",
    }
    assert (
        found.index[found["stand-in here"]].tolist() == ["uniform", "equal-energy", "gradual"]
        and not found["trained"].any()
    )


def test_a_stand_in_is_what_an_attack_is_offered_and_not_what_authors_used():
    """The releases of MimicDiffusion, DiffAP and ScoreOpt attack through another defence, which is
    no setting of theirs here.
    """
    kinds = {
        slug: features.row(slug)["stand-in here"]
        for slug in ("hetpure", "freqpure", "ode", "mimic", "diffap", "scoreopt")
    }
    assert [slug for slug, offered in kinds.items() if offered] == ["hetpure", "freqpure"]


@pytest.mark.parametrize(
    "slug",
    [
        "hetpure",
        "sde",
        "gdmp",
        "densepure",
        "adp",
        "langevin",
        "ssni",
        "freqpure",
        "mimic",
        "pursamere",
    ],
)
def test_a_purifier_says_whether_it_is_randomised(slug, classifier, denoiser, images):
    """What evidence may take for a sign of a fault, a purifier without noise does by design: the
    same answer every time.
    """
    defended = assemble(EVERY[slug], classifier, denoiser)
    with torch.no_grad():
        first, again = (
            defended.purify(images, defended.noise(4, range(4), [c] * 4))
            for c in (0, defended.votes)
        )
    assert defences.capabilities(slug).randomised is not torch.equal(first, again)


def test_trained_rows_say_what_was_trained_and_what_is_random():
    found = features.features(["at", "me-net", "pixeldefend", "atop"]).set_index("spec")
    assert found.index[found["random"]].tolist() == ["me-net", "atop"] and found[
        "calls"
    ].tolist() == [0, 0, 0, 1]
    assert {slug: defences.capabilities(slug).randomised for slug in found.index} == found[
        "random"
    ].to_dict()
    assert found["trained"].tolist() == ["pgd-at-linf", "me-net", "pixelcnn", "atop"]


def test_every_row_of_the_table_is_planned_and_full_chains_are_those_of_the_papers():
    rows = tables.planned("cifar10-small") | tables.planned("cifar10-small", attack="bpda")
    assert {specs.normal(slug, DEFENCES) for slug in TABLED if slug != "uniform"} <= set(rows)
    assert {
        specs.normal(f"{kind}:t={t}", DEFENCES)
        for kind in ("sde", "ode", "uniform")
        for t in (0.1, 0.2, 0.3, 0.4)
    } <= set(rows)
    assert {defences.published(slug) for slug in PUBLISHED_CALLS} <= set(tables.LONGER)
    assert set(tables.LONGER) | set(tables.LONGER.values()) <= set(rows)


CONTROLS = [f"hetpure:mask_kind={kind}" for kind in ("random", "inverted", "top-fraction")]
SAMPLERS = ["uniform:t=0.1,sampler=ddpm", "uniform:t=0.14,steps=1"]


@pytest.mark.parametrize("attack", ["pgd", "bpda", "autoattack-corrected"])
def test_every_row_and_control_is_queued_on_64_images_under_every_attack(attack):
    # its gradient is the straight one; it has no purifier to pass by
    same = {"pgd": "pixeldefend", "bpda": "at"}.get(attack)
    rows = {
        specs.normal(spec, DEFENCES)
        for spec in [*TABLED, *CONTROLS, *SAMPLERS]
        if spec not in ("uniform", same)
    }
    planned = tables.planned("cifar10-small", attack=attack)
    assert {
        name
        for name in rows
        if name not in planned or int(planned[name].split("--n-images ")[1].split()[0]) < 64
    } == set()


@pytest.mark.parametrize(
    ("attack", "defence", "within"),
    [
        ("pgd", "hetpure", True),
        ("pgd:eps=0.0157", "hetpure", True),
        ("pgd:norm=L2,eps=0.5,step=0.05", "hetpure", True),
        ("pgd:eot=1,confirm=1", "none", True),
        ("pgd:eot=1,confirm=1", "hetpure", False),
        ("pgd:frozen=all", "hetpure", False),
        ("pgd:gradient=surrogate", "hetpure", False),
        ("pgd:norm=L2,eps=0.5", "hetpure", False),
        ("square", "hetpure", False),
        ("pgd:random_start=1,keep=best,loss=margin,restarts=2", "hetpure", False),
        ("bpda:iterations=20,eot=8", "hetpure", True),
        ("bpda", "hetpure", False),
        ("autoattack-corrected:iterations=20,eot=8,accept=16", "hetpure", True),
    ],
)
def test_only_attacks_of_the_common_budget_stand_in_the_fair_table(attack, defence, within):
    assert tables.within_budget({"attack": attack, "defence": defence}) is within


def test_every_setting_of_the_tables_stands_on_the_page_of_its_defence(root):
    rows = {**tables.planned("cifar10-small"), **tables.planned("cifar10-small", "L2")}
    trained = {name for name in rows if name.partition(":")[0] == "at"}
    for spec in (trained | set(TABLED) | set(SAMPLERS)) - {"hetpure"}:
        name, _, settings = spec.partition(":")
        page = root / "book/rivals" / f"{name}.md"
        assert page.exists() and settings in page.read_text(), spec


def record(results, defence, attack, correct, n=8):
    """A file of `n` records of `defence` under `attack`, in which the first `correct` images
    survive.
    """
    slug, settings = specs.parse(defence, DEFENCES)
    config = {"bench": "cifar10-small", "split": "test", "K": 2, "seed": 0, "weights": {}}
    config |= {"defence": {"name": slug} | (asdict(settings) if settings else {})}
    config |= {
        "attack": (
            {"name": attack.partition(":")[0]} | asdict(specs.parse(attack, attacks.ATTACKS)[1])
        )
    }
    column = lambda right: {"labels": [7 if right else 1] * 2, "soft": 7 if right else 1}
    rows = [
        {"image": f"i{k}", "label": 7, "config": config, "clean": column(1), "null": column(1)}
        for k in range(n)
    ]
    name = f"{defence}--{attack}--0.jsonl".replace(":", "-").replace("/", "-")
    evidence.append(
        results / "cifar10-small" / name,
        [r | {"adversarial": column(k < correct)} for k, r in enumerate(rows)],
    )


def test_the_fair_table_shows_records_or_the_command_and_ignores_larger_records_of_another_budget(
    tmp_path,
):
    record(tmp_path, "hetpure", "pgd", 4)
    record(tmp_path, "hetpure", "pgd:frozen=all", 0, n=12)
    record(tmp_path, "uniform:t=0.1", "bpda:iterations=20,eot=8", 6)
    record(tmp_path, "hetpure:tau=0.3", "pgd:iterations=10,eot=4", 8)
    found = tables.fair("cifar10-small", results=tmp_path).set_index("defence")
    assert found.loc["hetpure", "PGD"].startswith("50.0") and found.loc["hetpure", "n"] == 8
    assert (
        found.loc["uniform:t=0.1", "BPDA"].startswith("75.0")
        and found.loc["uniform:t=0.1", "PGD"] == ""
    )
    assert found.loc["gradual", "record"] == "--defence gradual --attack pgd --n-images 64"
    assert "<code>--defence gradual --attack pgd" in tables.show(found.reset_index()).to_html()
    assert (
        tables.command("gradual", "cifar10-small")
        == f"hetpure run {found.loc['gradual', 'record']}"
    )
    assert found["calls"].is_monotonic_increasing and "hetpure:tau=0.3" not in found.index


def test_rows_are_paired_under_the_methods_own_attack_and_corrected_for_their_number(tmp_path):
    record(tmp_path, "hetpure", "pgd", 0)
    record(tmp_path, "gradual", "pgd", 8)
    record(tmp_path, "sde", "pgd", 1)
    record(tmp_path, "ode", "pgd:iterations=40,eot=16", 8)
    pairs = tables.against_the_method("cifar10-small", results=tmp_path).set_index("defence")
    assert list(pairs.index) == ["sde:t=0.1", "gradual"]
    assert (
        pairs.loc["gradual", "p (vote, McNemar, Holm)"] == 4 * 0.5**8
        and pairs.loc["sde:t=0.1", "p (vote, McNemar, Holm)"] == 1
    )
    assert list(pairs["verdict"]) == ["inconclusive", "higher"]
    least = stats.smallest_detectable(8, 1, alpha=0.05 / 2)  # at the strictest level of two rows
    assert list(pairs["detectable"]) == [tables.UNDETECTABLE, f"{100 * least:.0f} points"]
    assert tables.against_the_method("cifar10-small", results=tmp_path / "none").empty


def test_the_interval_of_one_row_among_many_is_no_verdict(tmp_path):
    """Six images all one way: an interval away from 0, but not after a correction for two rows."""
    record(tmp_path, "hetpure", "pgd", 0, n=6)
    record(tmp_path, "gradual", "pgd", 6, n=6)
    record(tmp_path, "sde", "pgd", 0, n=6)
    pairs = tables.against_the_method("cifar10-small", results=tmp_path).set_index("defence")
    assert (
        str(pairs.loc["gradual", "difference"]).startswith("100.0 [100.0")
        and pairs.loc["gradual", "verdict"] == "inconclusive"
    )
    assert pairs.loc["gradual", "detectable"] == tables.UNDETECTABLE  # all six would not do


@pytest.mark.parametrize(
    ("rival", "method"), [("sde", "Nie et al."), ("contrastive", "Bai et al.")]
)
def test_a_page_shows_the_level_that_the_papers_table_is_about(rival, method, tmp_path):
    record(tmp_path, f"{rival}:t=0.075", "pgd:norm=L2,eps=0.5,step=0.05", 4)
    page = tables.rival_row(rival, method, "cifar10-small", tmp_path).set_index("attack")
    assert page.loc["PGD+EOT, L2", "measured [95 %]"].startswith("50.0")
    assert page.loc["PGD+EOT, Linf", "measured [95 %]"] == "not measured yet"


def test_every_attack_has_a_line_and_every_baseline_a_column(tmp_path):
    record(tmp_path, "hetpure", "pgd", 1)
    record(tmp_path, "hetpure", "transfer", 4)
    record(tmp_path, "uniform:t=0.1", "pgd", 2)
    record(tmp_path, "gradual", "pgd", 8)
    found = tables.every_attack("cifar10-small", results=tmp_path).set_index("attack")
    assert list(found.columns) == ["hetpure", "uniform:t=0.1"] and list(found.index) == [
        "pgd",
        "transfer",
    ]
    assert (
        found.loc["transfer", "hetpure"].startswith("50.0")
        and found.loc["transfer", "uniform:t=0.1"] == ""
    )


def test_a_published_row_stands_before_its_small_stand_in(tmp_path):
    claim = next(c for c in printed.TABLES["Table 1"].rows if c.published and c.ours)
    record(tmp_path, claim.ours, "pgd", 2)
    line = (
        tables.beside_the_paper("Table 1", "cifar10-small", "Linf", tmp_path)
        .set_index("method")
        .loc[claim.method]
    )
    assert (
        line["defence here"] == claim.ours
        and line["here: PGD+EOT"].startswith("25.0")
        and line["here: PGD+EOT"].endswith("] (8)")
    )
    record(tmp_path, claim.published, "pgd", 6)
    line = (
        tables.beside_the_paper("Table 1", "cifar10-small", "Linf", tmp_path)
        .set_index("method")
        .loc[claim.method]
    )
    assert line["defence here"] == claim.published and line["here: PGD+EOT"].startswith("75.0")


def test_every_value_beside_the_papers_has_its_own_number_of_images(tmp_path):
    record(tmp_path, "hetpure", "pgd", 4)
    record(tmp_path, "hetpure", "autoattack-corrected:iterations=20,eot=8,accept=16", 4, n=16)
    line = (
        tables.beside_the_paper("Table 1", "cifar10-small", "Linf", tmp_path)
        .set_index("method")
        .loc["the method"]
    )
    assert [
        line[f"here: {c}"].rpartition(" ")[2] for c in ("standard", "PGD+EOT", "AutoAttack")
    ] == ["(8)", "(8)", "(16)"]


def test_the_strides_effect_is_paired_on_the_images_that_both_chains_have_under_each_attack(
    tmp_path,
):
    record(tmp_path, "sde", "pgd", 8)
    record(tmp_path, "sde:steps=100", "pgd", 0, n=4)
    record(tmp_path, "langevin", "bpda:iterations=20,eot=8", 2)
    record(tmp_path, "langevin:stride=1", "bpda:iterations=20,eot=8", 4, n=4)
    found = tables.strides("cifar10-small", tmp_path).set_index(["longer", "attack"])
    assert found.loc["sde:t=0.1,steps=100", "PGD"]["n"] == 4
    assert found.loc["sde:t=0.1,steps=100", "PGD"]["longer minus strided"].value == -1
    assert found.loc["langevin:t=0.03,stride=1", "BPDA"]["n"] == 4
    assert found.loc["gdmp:t=0.036,steps=36", "PGD"]["record"].startswith("--defence gdmp")
    # an exact gradient is asked of every chain
    assert set(found.xs("PGD", level="attack").index) == set(tables.LONGER)


def test_diffpures_grid_has_every_sampler_at_every_level(tmp_path):
    record(tmp_path, "uniform:t=0.2,sampler=ddpm", "pgd", 2)
    grid = tables.diffpure("cifar10-small", results=tmp_path).set_index("sampler")
    assert (
        grid.shape == (4, 5)
        and (grid == "not measured yet").sum().sum() == 15
        and grid["calls"].tolist() == [20, 20, 10, 10]
    )
    assert (
        grid.loc["DDPM", "t* = 0.2"].startswith("100.0")
        and "/ 25.0" in grid.loc["DDPM", "t* = 0.2"]
    )


def test_the_pareto_plot_shows_every_row_at_its_cost_and_marks_the_front():
    accuracy = {
        "none": 0.0,
        "uniform:t=0.14,steps=1": 0.2,
        "adp": 0.1,
        "gdmp": 0.15,
        "hetpure": 0.3,
        "gradual": 0.4,
        "sde": 0.05,
    }
    accuracy["sde:t=0.1,steps=100"] = 0.25
    rows = [
        {
            "defence": name,
            "bench": "b",
            "file": name,
            "n": 32,
            "adversarial_single": {"value": a, "low": a / 2, "high": a + 0.1},
        }
        for name, a in accuracy.items()
    ]
    figure, axis = plots.plt.subplots()
    figures.pareto_plot(axis, rows)
    accuracy = dict(sorted(accuracy.items(), key=lambda item: -item[1]))  # as they are drawn
    points = [c.lines[0] for c in axis.containers]
    assert [float(p.get_xdata()[0]) for p in points] == pytest.approx(
        [tables.cost(name) for name in accuracy], rel=0.06
    )
    assert [p.get_color() for p in points] == [plots.colour(name) for name in accuracy]
    families = dict.fromkeys(name.partition(":")[0] for name in accuracy)
    assert [text.get_text() for text in axis.get_legend().get_texts()] == [
        figures.family(name) for name in families
    ]
    assert [
        name for name, p in zip(accuracy, points) if p.get_markerfacecolor() != p.get_color()
    ] == ["sde:t=0.1,steps=100"]
    front = ["gradual", "hetpure", "uniform:t=0.14,steps=1", "none"]
    assert [name for name, p in zip(accuracy, points) if p.get_marker() == "D"] == front
    assert [text.get_text() for text in axis.texts] == [names.defence(name) for name in front]
    assert axis.get_xscale() == "symlog" and axis.get_xlim()[0] < 0 < axis.get_xlim()[1]
    plots.plt.close(figure)
