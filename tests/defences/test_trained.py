"""Trained rivals: the attacks inside training, matrix estimation, the likelihood model, their
limits, and training that resumes.
"""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from hetpure_core import Noise, Purified, Uniform, linear_schedule
from hetpure_lab import attacks, data, defences
from hetpure_lab.attacks import PGD, Undefended
from hetpure_lab.defences import behind, me_net, pixeldefend
from hetpure_lab.defences.atop import AToP
from hetpure_lab.defences.behind import Behind
from hetpure_lab.defences.me_net import MENet
from hetpure_lab.defences.pixeldefend import Mixture, PixelDefend
from hetpure_lab.networks import benches
from hetpure_lab.networks.small import PixelCNN
from hetpure_lab.training import train
from hetpure_lab.training.train import DefenceRecipe, Recipe


def noise_for(n, seed=0):
    return Noise(seed, [f"image {i}" for i in range(n)], [0] * n)


@pytest.fixture
def labels():
    return torch.tensor([0, 1, 2, 3])


# ---- adversarial training ------------------------------------------------------------------------


def test_fgsm_rs_is_the_step_computed_by_hand(classifier, images, labels):
    recipe = DefenceRecipe("by hand", "", "adversarial", {}, (8,), 4, 0.1)
    start = attacks.perturb_randomly(
        images, [f"3 {i}" for i in range(4)], "Linf", 8 / 255, "by hand 0", corner=False
    )
    x = start.clone().requires_grad_()
    F.cross_entropy(classifier(x), labels, reduction="sum").backward()
    expected = (
        images + (start + 10 / 255 * x.grad.sign() - images).clamp(-8 / 255, 8 / 255)
    ).clamp(0, 1)
    x_adv = train.attacked(classifier, images, labels, recipe, step=3)
    assert torch.allclose(x_adv, expected) and (start - images).abs().amax() > 7 / 255
    assert not torch.equal(x_adv, train.attacked(classifier, images, labels, recipe, step=4))


@pytest.mark.parametrize("norm, eps", [("Linf", 8 / 255), ("L2", 0.5)])
def test_inner_attack_stays_in_the_ball_and_more_steps_find_a_higher_loss(
    classifier, images, labels, norm, eps
):
    recipe = DefenceRecipe(
        "inner", "", "adversarial", {}, (8,), 4, 0.1, norm=norm, eps=eps, step=0.25, inner=0
    )
    losses = []
    for inner in (0, 1, 10):
        x_adv = train.attacked(
            classifier, images, labels, dataclasses.replace(recipe, inner=inner), step=0
        )
        length = (x_adv - images).flatten(1).norm(dim=1, p=math.inf if norm == "Linf" else 2)
        assert (length <= eps * (1 + 1e-9)).all() and x_adv.amin() >= 0 and x_adv.amax() <= 1
        losses.append(F.cross_entropy(classifier(x_adv), labels).item())
    assert losses[0] < losses[1] < losses[2]


def test_the_checkpoint_of_highest_robust_accuracy_is_kept():
    log = [
        {"step": 1, "pgd10": 0.3},
        {"step": 2, "pgd10": 0.4},
        {"step": 3, "pgd10": 0.4},
        {"step": 4, "pgd10": 0.0},
    ]
    overfitted = DefenceRecipe("at", "", "adversarial", {}, (8,), 4, 0.1)
    assert train.kept_entry(overfitted, log)["step"] == 2
    assert train.kept_entry(Recipe("plain", "", "classify", {}, (8,), 4, 0.1), log)["step"] == 4


# ---- ME-Net --------------------------------------------------------------------------------------


def low_rank_images(n=2, rank=2, size=16):
    generator = torch.Generator().manual_seed(4)
    left, right = (
        torch.rand(n, *shape, dtype=torch.float64, generator=generator)
        for shape in ((size, rank), (rank, 3 * size))
    )
    X = left @ right / rank  # channels side by side: 16 x 48 of that rank, in [0, 1]
    return X.reshape(n, size, 3, size).transpose(1, 2)


def test_soft_impute_recovers_a_low_rank_matrix_from_enough_entries():
    X = low_rank_images().transpose(1, 2).flatten(2)
    seen = behind.bernoulli(torch.tensor(0.8), noise_for(2), "seen", X)
    errors = [(me_net.soft_impute(seen * X, seen, n, low=1e-9) - X).abs().amax() for n in (5, 400)]
    assert 0.1 < (1 - seen).sum(-1).sum(-1).min() / X[0].numel() < 0.3
    assert errors[1] < 1e-4 < errors[0]


def test_usvt_is_exact_when_everything_is_seen_and_the_rank_suffices():
    X = low_rank_images().transpose(1, 2).flatten(2)
    assert torch.allclose(me_net.usvt(X, torch.ones_like(X), kept=2 / 16), X)
    assert not torch.allclose(me_net.usvt(X, torch.ones_like(X), kept=1 / 16), X, atol=1e-2)


@pytest.mark.parametrize("f", [me_net.keep_largest(2), me_net.shrink(0.8)])
@pytest.mark.parametrize("shape", [(2, 4, 7), (2, 4, 4)])
def test_spectral_functions_have_exact_gradients(f, shape):
    A = torch.randn(
        *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5)
    ).requires_grad_()
    assert gradcheck(lambda A: me_net.SpectralFunction.apply(A, f), A)


def test_spectral_gradient_is_finite_where_that_of_the_decomposition_is_not():
    A = torch.eye(4, 6, dtype=torch.float64).requires_grad_()
    G = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    (gradient,) = torch.autograd.grad(
        me_net.SpectralFunction.apply(A, me_net.keep_largest(4)), A, G
    )
    assert torch.allclose(gradient, G)  # all values kept: the identity


@pytest.mark.parametrize("settings", [MENet(), MENet(method="soft-impute", iterations=4)])
def test_me_net_treats_a_row_as_it_would_alone_and_draws_by_key(images, settings):
    noise, alone = noise_for(4), Noise(0, ["image 2"], [0])
    together = settings.purify(images, noise)
    assert torch.allclose(settings.purify(images[2:3], alone), together[2:3])
    assert not torch.allclose(settings.purify(images, noise_for(4, seed=1)), together)
    assert together.amin() >= 0 and together.amax() <= 1


def test_me_net_with_everything_seen_and_kept_is_the_identity(images):
    assert torch.allclose(
        MENet(rate=1.0, kept=1.0, spread=0.0).purify(images, noise_for(4)), images
    )


def test_me_net_masks_at_the_rate_it_says():
    like = torch.zeros(4, 32, 96, dtype=torch.float64)
    rates = torch.tensor([0.2, 0.5, 0.5, 0.9]).reshape(4, 1, 1)
    seen = behind.bernoulli(rates, noise_for(4), "seen", like).mean((1, 2))
    assert (
        (seen - rates[:, 0, 0]).abs() < 4 * (rates * (1 - rates) / like[0].numel()).sqrt()[:, 0, 0]
    ).all()


@pytest.mark.parametrize(
    "settings", [{"rate": 1.0}, {"kept": 0.0}, {"method": "svd"}, {"iterations": 0}]
)
def test_me_net_refuses_impossible_settings(settings):
    with pytest.raises(ValueError, match=str(next(iter(settings.values())))):
        MENet(**settings)


# ---- PixelDefend ---------------------------------------------------------------------------------


@pytest.fixture
def pixelcnn():
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = PixelCNN(width=8, radius=2, layers=1, mixtures=2).double()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return model.requires_grad_(False)


@pytest.fixture
def levels():
    return torch.randint(0, 256, (2, 3, 5, 5), generator=torch.Generator().manual_seed(8)).double()


def test_the_likelihood_model_is_causal(pixelcnn, levels):
    x = levels.clone().requires_grad_()
    parameters = pixelcnn(x)
    for i, j in ((0, 0), (2, 3), (4, 4)):
        (gradient,) = torch.autograd.grad(parameters[:, :, i, j].sum(), x, retain_graph=True)
        before = torch.arange(25).reshape(5, 5) < 5 * i + j
        assert (gradient[:, :, ~before] == 0).all()
        assert not before.any() or (gradient[:, :, before] != 0).any()


def test_channels_are_conditioned_on_earlier_ones_only(pixelcnn, levels):
    mixture = Mixture.of(pixelcnn(levels))
    for c in range(3):
        x = levels.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(mixture.mean(c, x).sum() + 0 * x.sum(), x)
        assert (gradient[:, c:] == 0).all() and (gradient[:, :c] != 0).all()


def test_each_channel_is_a_distribution_over_256_levels(pixelcnn, levels):
    mixture, candidates = Mixture.of(pixelcnn(levels)), torch.arange(256.0, dtype=torch.float64)
    for c in range(3):
        mass = pixeldefend.log_mass(
            candidates, mixture.mean(c, levels)[..., None], mixture.log_scales[:, c, ..., None]
        )
        assert torch.allclose(mass.exp().sum(-1), torch.ones(1, dtype=torch.float64))


def test_looking_at_one_pixel_equals_the_whole_image(pixelcnn, levels):
    whole, padded, r = pixelcnn(levels), pixelcnn.pad(levels), pixelcnn.radius
    for i, j in ((0, 0), (1, 4), (3, 2)):
        assert torch.allclose(
            pixelcnn.look(padded[:, :, i : i + r + 1, j : j + 2 * r + 1])[..., 0, 0],
            whole[:, :, i, j],
        )


def test_an_uninformed_model_costs_no_more_than_its_entropy():
    parameters = torch.zeros(1, 10, 4, 4, dtype=torch.float64)
    parameters[:, 4:7] = 3.0  # flat over the levels
    bits = pixeldefend.bits_per_dimension(
        parameters, torch.full((1, 3, 4, 4), 128.0, dtype=torch.float64)
    )
    s = math.exp(3.0)
    assert bits == pytest.approx(
        -math.log2(2 * torch.sigmoid(torch.tensor(1 / 255 / s, dtype=torch.float64)) - 1), abs=1e-4
    )


def test_every_purified_pixel_is_at_least_as_likely_as_the_given_one(pixelcnn, levels):
    out = pixeldefend.purify_greedily(pixelcnn, levels, eps=16)
    assert (
        (out - levels).abs().amax() == 16
        and out.amin() >= 0
        and out.amax() <= 255
        and torch.equal(out, out.round())
    )
    mixture = Mixture.of(pixelcnn(out))  # every conditional in the purified context
    red = lambda x: (
        mixture.weights
        + pixeldefend.log_mass(x[:, 0, None], mixture.mean(0, x), mixture.log_scales[:, 0])
    ).logsumexp(1)
    assert (red(out) >= red(levels) - 1e-9).all() and (red(out) > red(levels) + 1e-3).any()


def test_purification_never_lowers_the_likelihood_when_pixels_are_independent(pixelcnn, levels):
    for parameter in (pixelcnn.conv.weight, *pixelcnn.layers.parameters()):
        parameter.zero_()
    pixelcnn.head.bias[-3 * 2 :] = 0  # and channels: no slopes
    pixelcnn.head.weight[-3 * 2 :] = 0
    likelihood = lambda x: Mixture.of(pixelcnn(x)).log_likelihood(x)
    found = [likelihood(pixeldefend.purify_greedily(pixelcnn, levels, eps)) for eps in (0, 4, 16)]
    assert torch.allclose(found[0], likelihood(levels))
    assert found[0].sum() < found[1].sum() < found[2].sum()


def test_pixeldefend_without_a_ball_rounds_and_with_one_passes_the_gradient_straight(
    pixelcnn, classifier, images
):
    x = images[:2, :, :4, :4].clone().requires_grad_()
    assert torch.allclose(
        PixelDefend(eps=0).purify(x, noise_for(2), pixelcnn), (x * 255).round() / 255
    )
    defence = Behind(classifier, PixelDefend(), pixelcnn)
    (through,) = torch.autograd.grad(defence(x, ["a", "b"])[:, 0].sum(), x)
    purified = defence.purify(x, noise_for(2)).detach().requires_grad_()
    (at_purified,) = torch.autograd.grad(classifier(purified)[:, 0].sum(), purified)
    assert torch.allclose(through, at_purified) and (purified - x).abs().amax() > 8 / 255


# ---- AToP ----------------------------------------------------------------------------------------


def test_atop_with_nothing_missing_is_one_shot_denoising(denoiser, classifier, images):
    noise = noise_for(4)
    expected = Purified(classifier, denoiser, Uniform(t=0.15, steps=1)).purify(images, noise)
    assert torch.allclose(AToP(missing=0.0).purify(images, noise, denoiser), expected)


def test_atop_blanks_the_share_of_blocks_it_says(images):
    x = AToP(missing=0.25, patch=2).transform(2 * images - 1, noise_for(4), linear_schedule())
    blocks = (x == 0).all(1).unfold(1, 2, 2).unfold(2, 2, 2).flatten(3)
    assert (blocks.all(-1) == blocks.any(-1)).all()
    assert (blocks.all(-1).sum((1, 2)) == 4).all() and not torch.equal(blocks[0], blocks[1])


def test_nothing_of_a_blanked_block_reaches_the_classifier(denoiser, images):
    x = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(AToP().purify(x, noise_for(4), denoiser).sum(), x)
    assert (gradient == 0).all(1).sum((1, 2)).tolist() == [16] * 4


@pytest.mark.parametrize("settings", [{"t": 0.0}, {"missing": 1.0}, {"patch": 0}])
def test_atop_refuses_impossible_settings(settings):
    with pytest.raises(ValueError, match=str(next(iter(settings.values())))):
        AToP(**settings)


# ---- as defences ---------------------------------------------------------------------------------


@pytest.mark.parametrize("settings, network", [(MENet(), None), (AToP(), "denoiser")])
def test_exact_gradients_of_trained_defences_are_those_of_finite_differences(
    settings, network, classifier, images, request
):
    defence = Behind(classifier, settings, network and request.getfixturevalue(network))
    assert gradcheck(
        lambda x: defence(x, ["a"]), images[:1, :, :4, :4].clone().requires_grad_(), fast_mode=True
    )


@pytest.mark.parametrize("gradient", ["exact", "bpda"])
def test_trained_defences_are_attacked_on_noise_that_does_not_score_them(
    gradient, denoiser, classifier, images, labels
):
    defence = Behind(classifier, AToP(), denoiser)
    attack = PGD(iterations=3, eot=2, confirm=0, gradient=gradient)
    defence, images = defence.float(), images.float()
    x_adv, _ = attack.run(defence, images, labels, list("abcd"))
    loss = lambda x: F.cross_entropy(
        attacks.logits_of(defence, x, list("abcd"), range(8)).mean(0), labels
    )
    assert loss(x_adv) > loss(images) and (x_adv - images).abs().amax() <= 8 / 255 + 1e-9
    other = attacks.reseeded(defence, "other")
    assert other.classifier is defence.classifier and not torch.equal(
        other(images, list("abcd")), defence(images, list("abcd"))
    )


def test_a_surrogate_of_a_trained_defence_is_refused(denoiser, classifier):
    with pytest.raises(
        ValueError, match="'surrogate' is for diffusion purifiers; AToP has: exact, bpda"
    ):
        attacks.seen_by_the_attack(Behind(classifier, AToP(), denoiser), "surrogate")


@pytest.mark.parametrize("text", ["at", "at:model=pgd-at-l2", "me-net", "pixeldefend", "atop"])
def test_every_trained_defence_has_a_recipe_for_its_weights(text):
    names = defences.networks(text, "cifar10-small")
    assert set(names) <= set(train.RECIPES) and len(names) in (1, 2)


def test_a_published_network_is_named_by_its_threat_for_the_images_of_any_bench():
    for bench in ("cifar10-paper", "cifar10-small"):
        assert defences.networks("at:model=L2/Sehwag2021Proxy", bench) == [
            "robustbench/cifar10/L2/Sehwag2021Proxy"
        ]
    assert defences.networks("at:model=Linf/Wong2020Fast", "imagenet-paper") == [
        "robustbench/imagenet/Linf/Wong2020Fast"
    ]
    with pytest.raises(ValueError, match="no networks for 'svhn'"):
        defences.networks("at:model=Linf/Wong2020Fast", "svhn-paper")
    with pytest.raises(ValueError, match="threats: Linf, L2"):
        defences.networks("at:model=corruptions/Standard", "cifar10-paper")


def test_a_defence_without_weights_says_how_to_train_them():
    with pytest.raises(benches.BenchError, match="hetpure train cifar10-small-never-trained"):
        defences.build("at:model=never-trained", benches.load("cifar10-small"))


# ---- training ------------------------------------------------------------------------------------


@pytest.fixture
def tiny(monkeypatch):
    """A training of seconds on the embedded sample."""
    sample = data.embedded_sample(data.DATASETS["cifar10"])
    monkeypatch.setattr(train, "N_VALIDATION", 4)
    monkeypatch.setattr(train.lab_data, "load", lambda *_, **__: sample)

    def make(name):
        return dataclasses.replace(
            train.RECIPES[name], shares={"cifar10/lossless": 1.0}, cycles=(12,), batch=4, bf16=False
        )

    return make


NAMES = [
    "cifar10-small-fast-at-linf",
    "cifar10-small-me-net",
    "cifar10-small-pixelcnn",
    "cifar10-small-atop",
]


@pytest.mark.parametrize("name", NAMES)
def test_interrupted_training_of_a_rival_continues_as_if_nothing_happened(
    tiny, name, tmp_path, monkeypatch
):
    recipe, calls = tiny(name), []
    whole, log = train.train(recipe, every=1, progress=False, runs=tmp_path / "whole")
    loss, metrics = train.TASKS[recipe.task]

    def failing(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return loss(*args)

    monkeypatch.setitem(train.TASKS, recipe.task, (failing, metrics))
    with pytest.raises(KeyboardInterrupt):
        train.train(recipe, every=1, progress=False, runs=tmp_path / "parts")
    resumed, log_2 = train.train(recipe, every=1, progress=False, runs=tmp_path / "parts")
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.state_dict().values(), resumed.state_dict().values())
    )
    assert [entry["loss"] for entry in log] == [entry["loss"] for entry in log_2]


def test_training_starts_from_the_weights_the_recipe_names_and_the_card_says_so(tiny, tmp_path):
    # the first step's rate is 0
    recipe = dataclasses.replace(tiny("cifar10-small-fast-at-linf"), cycles=(4,), warmup=0.5)
    net, log = train.train(recipe, progress=False, runs=tmp_path)
    start = benches.load_network(recipe.start)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), start.parameters()))
    train.export(recipe, net, log, None, tmp_path)
    card = benches.card(recipe.name, tmp_path)
    assert (
        card["made from"] == {recipe.start: benches.card(recipe.start)["sha256"]}
        and card["kept"]["pgd10"] == log[0]["pgd10"]
    )


def test_the_network_kept_is_that_of_the_best_entry(tiny, tmp_path, monkeypatch):
    recipe, seen = tiny("cifar10-small-fast-at-linf"), []

    def metrics(net, validation, recipe):
        seen.append(train.copied(net))
        return {"pgd10": [0.1, 0.5, 0.2][len(seen) - 1]}

    monkeypatch.setitem(train.TASKS, recipe.task, (train.adversarial_loss, metrics))
    net, _ = train.train(recipe, every=1, progress=False, runs=tmp_path)
    last, _ = train.last_checkpoint(recipe, tmp_path)
    for found in (net, last):
        assert all(torch.equal(a, b) for a, b in zip(found.state_dict().values(), seen[1].values()))
    assert not torch.equal(seen[1]["fc.weight"], seen[2]["fc.weight"])


def test_bare_adversarially_trained_classifiers_ignore_the_seed(classifier, images):
    defence = Undefended(classifier)
    assert torch.equal(attacks.reseeded(defence, 1)(images), defence(images))
