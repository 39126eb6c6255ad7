"""Attacks: budgets are kept, gradients are what they say, the bare classifier falls, and nothing depends on the batch."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from hetpure_core import HetPure, Purified, Uniform
from hetpure_lab import attacks, benches, data, microbatch
from hetpure_lab.attacks import PGD, Undefended


@pytest.fixture(scope="module")
def bench():
    return benches.load("cifar10-small")


@pytest.fixture(scope="module")
def images():
    return data.embedded_sample(data.DATASETS["cifar10"])


def small(bench, purifier=None, **options):
    return Purified(bench.classifier, bench.denoiser, purifier or HetPure(steps=2, U=3), schedule=bench.schedule, **options)


def test_undefended_network_falls(bench, images):
    x, y = images.floats, images.labels
    defence = Undefended(bench.classifier)
    clean = (defence(x).argmax(1) == y).float().mean()
    x_adv, _ = PGD(iterations=20, eot=1).run(defence, x, y, images.ids)
    attacked = (defence(x_adv).argmax(1) == y).float().mean()
    assert clean > 0.5 and attacked <= 0.05


@pytest.mark.parametrize("norm, eps", [("Linf", 8 / 255), ("L2", 0.5)])
@pytest.mark.parametrize("random_start", [False, True])
def test_iterates_stay_in_the_ball_and_in_the_image_range(bench, images, norm, eps, random_start):
    x, y = images.floats[:6], images.labels[:6]
    attack = PGD(norm=norm, eps=eps, iterations=3, eot=2, step=0.2, random_start=random_start, confirm=0)
    x_adv, spent = attack.run(small(bench), x, y, images.ids[:6])
    delta = (x_adv - x).flatten(1)
    size = delta.abs().amax(1) if norm == "Linf" else delta.norm(dim=1)
    assert (size <= eps + 1e-6).all() and (size > 0.5 * eps).all()
    assert x_adv.min() >= 0 and x_adv.max() <= 1 and spent.tolist() == [3] * 6


@pytest.mark.parametrize("norm, eps", [("Linf", 8 / 255), ("L2", 0.5)])
def test_eight_bit_images_stay_in_the_ball(images, norm, eps):
    x = images.floats
    x_adv = PGD(norm=norm, eps=eps).project(x + torch.randn(x.shape, generator=torch.Generator().manual_seed(0)), x)
    delta = attacks.to_8_bit(x_adv, x, norm, eps).float() / 255
    size = delta.flatten(1).abs().amax(1) if norm == "Linf" else delta.flatten(1).norm(dim=1)
    pixels = images.pixels.short() + attacks.to_8_bit(x_adv, x, norm, eps)
    assert (size <= eps + 1e-6).all() and (size > 0.8 * eps).all()
    assert pixels.min() >= 0 and pixels.max() <= 255


@pytest.mark.parametrize("norm, eps", [("Linf", 8 / 255), ("L2", 0.5)])
def test_null_control_has_the_attack_norm(images, norm, eps):
    x = torch.full_like(images.floats, 0.5)
    delta = attacks.perturb_randomly(x, images.ids, norm, eps, "null") - x
    size = delta.flatten(1).abs().amax(1) if norm == "Linf" else delta.flatten(1).norm(dim=1)
    assert torch.allclose(size, torch.full_like(size, eps), atol=1e-6)


def test_eot_gradient_is_the_mean_over_copies(bench, images):
    x, y, ids, defence = images.floats[:3], images.labels[:3], images.ids[:3], small(bench)
    loss, gradient = attacks.loss_and_gradient(defence, x, y, ids, range(4))
    each = [attacks.loss_and_gradient(defence, x, y, ids, [c]) for c in range(4)]
    mean = torch.stack([g for _, g in each]).mean(0)
    assert (gradient - mean).norm() < 1e-4 * mean.norm()
    assert torch.allclose(loss, torch.stack([v for v, _ in each]).mean(0), rtol=1e-4)


def test_result_does_not_depend_on_batch_or_chunks(bench, images, monkeypatch):
    x, y, ids, defence = images.floats[:4], images.labels[:4], images.ids[:4], small(bench, Uniform(0.1, steps=2))
    attack = PGD(iterations=2, eot=3, confirm=0)
    together, _ = attack.run(defence, x, y, ids)
    monkeypatch.setattr(microbatch, "rows", lambda device: 5)
    alone = torch.cat([attack.run(defence, x[i : i + 1], y[i : i + 1], ids[i : i + 1])[0] for i in range(4)])
    assert (together - alone).abs().max() < 1e-6 or ((together - alone).abs() > 1e-6).float().mean() < 0.002  # sign(0) ties only


def test_bpda_is_the_classifiers_gradient_at_the_purified_image(bench, images):
    x, y, ids, defence = images.floats[:3], images.labels[:3], images.ids[:3], small(bench)
    _, gradient = attacks.loss_and_gradient(attacks.seen_by_the_attack(defence, "bpda"), x, y, ids, [5])
    purified = defence.purify(x, defence.noise(3, ids, [5] * 3)).detach().requires_grad_()
    expected = torch.autograd.grad(torch.nn.functional.cross_entropy(bench.classifier(purified), y, reduction="sum"), purified)[0]
    assert (gradient - expected).norm() < 1e-5 * expected.norm()


def test_surrogates_run_what_they_say(bench):
    method, uniform = small(bench, HetPure()), small(bench, Uniform())
    released = attacks.seen_by_the_attack(method, "surrogate").purifier
    masked = attacks.seen_by_the_attack(method, "surrogate-masked").purifier
    assert released.calls(bench.schedule) == 2 and len(released.grid(bench.schedule)[0]) == 2
    assert masked.reading == "paper" and len(masked.grid(bench.schedule)[0]) == 3 and masked.steps < method.purifier.steps
    assert [attacks.seen_by_the_attack(uniform, g).purifier.steps for g in ("surrogate", "surrogate-masked", "exact")] == [2, 5, 10]


def test_attack_and_scoring_noise_differ(bench, images):
    defence = small(bench)
    ids = images.ids[:2]
    a, b = attacks.reseeded(defence, "attack 0"), attacks.reseeded(defence, "score 0")
    assert not torch.equal(a(images.floats[:2], ids, [0, 0]), b(images.floats[:2], ids, [0, 0]))
    assert a.purifier == defence.purifier and a.denoiser is defence.denoiser


def test_confirmed_failures_stop_early(bench, images):
    x, y, ids, defence = images.floats, images.labels, images.ids, Undefended(bench.classifier)
    done = []
    x_adv, spent = PGD(iterations=20, eot=1, confirm=1).run(defence, x, y, ids, tick=done.append)
    assert (defence(x_adv).argmax(1) != y).all() and spent.min() == 5 and sum(done) == 20 * len(x)
    _, full = PGD(iterations=20, eot=1, confirm=0).run(defence, x, y, ids)
    assert (full == 20).all()


def test_keep_best_is_never_worse_by_its_own_loss(bench, images):
    x, y, ids, defence = images.floats[:6], images.labels[:6], images.ids[:6], Undefended(bench.classifier)
    attack = PGD(iterations=6, eot=1, step=0.03, eps=0.03, keep="best", confirm=0)
    best, _ = attack.run(defence, x, y, ids)
    first, _ = attacks.loss_and_gradient(defence, x, y, ids, [0])
    kept, _ = attacks.loss_and_gradient(defence, best, y, ids, [0])
    assert (kept >= first).all() and (kept > first).any()


@pytest.mark.parametrize(
    "name, value", [("norm", "L1"), ("gradient", "none"), ("keep", "first"), ("l2_step", "free"), ("eot", 0), ("eps", -1.0), ("step", 0.0)]
)
def test_bad_settings_are_refused(name, value):
    with pytest.raises(ValueError, match=name):
        PGD(**{name: value})


def test_paper_preset_is_the_papers():
    preset = attacks.PRESETS["paper"]
    assert (preset.iterations, preset.eot, preset.step, preset.keep, preset.random_start) == (200, 20, 0.007, "last", False)
    assert dataclasses.replace(preset, confirm=16) != preset and preset.confirm == 0
