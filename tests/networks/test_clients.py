"""Other people's attacks on the defended module as it is, and ours beside them: AutoAttack, its
parts, and Foolbox.

Where the answer is known in closed form (`conftest.Smoothed`), everybody is compared with it.
"""

from __future__ import annotations

import foolbox
import pyautoattack
import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack
from pyautoattack.square import SquareAttack

from hetpure_core import HetPure, Purified
from hetpure_lab import data
from hetpure_lab.attacks import ATTACKS, PGD, Undefended, autoattack, gradients
from hetpure_lab.attacks.autoattack import AutoAttack, CorrectedAutoAttack, FreshDraws, Square
from hetpure_lab.common import specs, stats
from hetpure_lab.networks import benches


@pytest.fixture
def single(classifier):
    """The tiny classifier in float32, as libraries want it, without a purifier."""
    return Undefended(classifier.float())


def estimate(smoothed, x, ids, K=20):
    """Accuracy on fresh purifications with its interval."""
    logits = gradients.logits_of(gradients.reseeded(smoothed.defence, "score"), x, ids, range(K))
    return stats.mean_rate((logits.argmax(-1) == 0).double().mean(0).numpy())


# ---- AutoAttack: what the packaged selection reports, and what is true ---------------------------


def test_packaged_autoattack_inflates_accuracy_by_what_its_rule_predicts(smoothed):
    n, p, q = 300, smoothed.clean, smoothed.attacked
    x, y, ids = smoothed.batch(n)
    library = AutoAttack(norm=smoothed.norm, eps=smoothed.eps, iterations=6, eot=2).library(
        smoothed.defence, x.device, 0, 4
    )
    found, _ = library.run_standard_evaluation(x, y, batch_size=n)
    # One look decides whether an image is attacked (p), each of two attacks takes another (p), and
    # one look accepts (1 - q).
    accepted, stays = p * (1 - q), p * q + (1 - p) * p
    attacked = p * accepted * (1 + stays)
    share = (found != x).flatten(1).any(1).double().mean()
    assert abs(share - attacked) < 4 * (attacked * (1 - attacked) / n) ** 0.5
    reported, predicted = float(smoothed.accuracy(found).mean()), attacked * q + (1 - attacked) * p
    assert abs(reported - predicted) < 0.03 and reported > q + 0.1
    low, high = estimate(smoothed, found, ids).low, estimate(smoothed, found, ids).high
    assert low > q + 0.05 and low < predicted + 0.02 and high > predicted - 0.02


def test_corrected_autoattack_reports_the_truth(smoothed):
    x, y, ids = smoothed.batch(80)
    attack = CorrectedAutoAttack(
        norm=smoothed.norm, eps=smoothed.eps, iterations=8, eot=4, accept=10
    )
    found, spent = attack.run(smoothed.defence, x, y, ids)
    assert (found != x).flatten(1).any(1).all() and (spent == 16).float().mean() > 0.9
    assert torch.allclose(smoothed.accuracy(found), torch.tensor(smoothed.attacked), atol=2e-3)
    interval = estimate(smoothed, found, ids)
    assert interval.low <= smoothed.attacked <= interval.high


def test_corrected_autoattack_keeps_the_candidate_that_fewer_purifications_get_right(
    smoothed, monkeypatch
):
    x, y, ids = smoothed.batch(12)
    worst = 1 - x
    candidates = {"ce": x.clone(), "dlr": worst}
    climb = lambda self, defence, images, labels, ids, loss, *_: (
        candidates[loss][: len(labels)],
        torch.ones(len(labels)).long(),
    )
    monkeypatch.setattr(CorrectedAutoAttack, "climb", climb)
    for losses in ("ce+dlr", "dlr+ce"):
        found, _ = CorrectedAutoAttack(norm=smoothed.norm, losses=losses).run(
            smoothed.defence, x, y, ids
        )
        assert torch.equal(found, worst)


@pytest.mark.parametrize("norm, eps", [("Linf", 0.01), ("L2", 0.05)])
@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_apgd_without_noise_is_the_packaged_apgd(single, images, norm, eps, loss):
    x, start = images.float(), images.float() + eps / 20
    y = single(x).argmax(1)
    packaged = APGDAttack(single, n_iter=100, norm=norm, eps=eps, loss=loss, seed=0, device="cpu")
    packaged.init_hyperparam(x)
    expected, _, value, _ = packaged.attack_single_run(x, y, x_init=start)
    ours, spent = CorrectedAutoAttack(norm=norm, eps=eps, eot=1).climb(
        single, x, y, range(4), loss, "", start=start
    )
    assert (single(ours).argmax(1) == y).all() and (spent == 100).all()  # no image is set aside
    assert torch.allclose(
        gradients.mean_loss(single, ours, y, range(4), [0], loss), value, atol=1e-5
    )
    assert (ours - expected).abs().max() < 1e-3


def test_packaged_apgd_and_ours_find_the_known_worst_case_before_anything_is_selected(smoothed):
    """The whole difference between the library and us is its selection: what its search ends at is
    as good as what ours does.
    """
    x, y, ids = smoothed.batch(40)
    settings = {
        "n_iter": 8,
        "norm": smoothed.norm,
        "eps": smoothed.eps,
        "eot_iter": 4,
        "seed": 0,
        "device": "cpu",
    }
    packaged = APGDAttack(smoothed.defence, loss="ce", **settings)
    packaged.init_hyperparam(x)
    theirs = packaged.attack_single_run(x, y)[0]
    ours, _ = CorrectedAutoAttack(
        norm=smoothed.norm, eps=smoothed.eps, iterations=8, eot=4, losses="ce"
    ).run(smoothed.defence, x, y, ids)
    for found in (theirs, ours):
        interval = estimate(smoothed, found, ids)
        assert interval.low <= smoothed.attacked <= interval.high


def test_apgd_checkpoints_are_the_papers():
    assert autoattack.checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]


def test_the_attack_called_autoattack_is_the_library_unchanged(smoothed):
    x, y, ids = smoothed.batch(2)
    attack = AutoAttack(norm=smoothed.norm, eps=smoothed.eps, iterations=4, eot=2)
    state = torch.random.get_rng_state()
    found, spent = attack.run(smoothed.defence, x, y, ids, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    for i in range(2):
        module = FreshDraws(gradients.reseeded(smoothed.defence, "attack 3"), ids[i])
        key = next(
            autoattack.Noise("autoattack 3", [ids[i]], [0]).generators("seed")
        ).initial_seed()
        with torch.no_grad():
            module(x[i : i + 1])
        direct = pyautoattack.AutoAttack(
            module, norm=smoothed.norm, eps=smoothed.eps, version="rand", seed=key
        )
        direct.apgd.n_iter = 4
        direct.apgd.n_iter_2 = direct.apgd.n_iter_min = direct.apgd.size_decr = 1
        direct.apgd.eot_iter = 2
        again, _ = direct.run_standard_evaluation(x[i : i + 1], y[i : i + 1])
        assert torch.equal(again, found[i : i + 1]) and spent[i] == module.gradients // 2


def test_standard_autoattack_breaks_a_deterministic_network(smoothed):
    x, y, ids = smoothed.batch(1)
    attack = specs.parse(
        f"autoattack:version=standard,eot=1,norm={smoothed.norm},eps={8 * smoothed.eps}", ATTACKS
    )[1]
    bare = Undefended(smoothed.defence.classifier)
    found, _ = attack.run(bare, x, y, ids)
    assert bare(x).argmax(1) == y and bare(found).argmax(1) != y


# ---- Square --------------------------------------------------------------------------------------


@pytest.mark.parametrize("h, w", [(1, 3), (2, 3), (2, 5), (3, 6), (5, 11)])
def test_pyramids_are_the_packaged_ones(h, w):
    packaged = SquareAttack(None, norm="L2", device="cpu").eta_rectangles(h, w)
    assert torch.allclose(autoattack.pyramid(h, w).float(), packaged, atol=1e-6)


def test_the_side_of_the_square_follows_the_packaged_schedule():
    attack, packaged = Square(iterations=700), SquareAttack(None, n_queries=700, p_init=0.8)
    for k in range(0, 700, 13):
        assert attack.side(k, 32, 32) == max(1, round((packaged.p_selection(k) * 32 * 32) ** 0.5))


def test_square_gains_without_gradients_but_less_than_the_worst_case(smoothed):
    x, y, ids = smoothed.batch(5)
    found, _ = Square(norm=smoothed.norm, eps=smoothed.eps, iterations=100, eot=4).run(
        smoothed.defence, x, y, ids
    )
    left = smoothed.accuracy(found).mean()
    assert (
        smoothed.attacked - 1e-4
        <= left
        < smoothed.clean - 0.2 * (smoothed.clean - smoothed.attacked)
    )


# ---- Foolbox -------------------------------------------------------------------------------------


def foolbox_pgd(defence, x, y, norm, eps, step, iterations, eot):
    """Foolbox's PGD on the defended module, its logits averaged over `eot` calls."""
    model = foolbox.models.ExpectationOverTransformationWrapper(
        foolbox.PyTorchModel(defence.eval(), bounds=(0, 1), device="cpu"), eot
    )
    kind = {"Linf": foolbox.attacks.LinfPGD, "L2": foolbox.attacks.L2PGD}[norm]
    return kind(abs_stepsize=step, steps=iterations, random_start=False).run(
        model, x, y, epsilon=eps
    )


def test_foolbox_and_ours_find_the_known_worst_case(smoothed):
    x, y, ids = smoothed.batch(100)
    eps, step = smoothed.eps, smoothed.eps / 3
    theirs = foolbox_pgd(smoothed.defence, x, y, smoothed.norm, eps, step, 4, 3)
    ours, _ = PGD(norm=smoothed.norm, eps=eps, step=step, iterations=4, eot=3, confirm=0).run(
        smoothed.defence, x, y, ids
    )
    for found in (theirs, ours):
        interval = estimate(smoothed, found, ids)
        assert interval.low <= smoothed.attacked <= interval.high


def test_foolbox_and_ours_leave_the_same_accuracy_on_real_networks():
    bench, sample = benches.load("cifar10-small"), data.embedded_sample(data.DATASETS["cifar10"])
    x, y, ids = sample.floats[:8], sample.labels[:8], sample.ids[:8]
    defence = Purified(bench.classifier, bench.denoiser, HetPure(steps=2), schedule=bench.schedule)
    theirs = foolbox_pgd(defence, x, y, "Linf", 8 / 255, 0.01, 4, 2)
    ours, _ = PGD(step=0.01, iterations=4, eot=2, confirm=0).run(defence, x, y, ids)
    score = lambda z: (
        (
            gradients.logits_of(gradients.reseeded(defence, "score"), z, ids, range(6)).argmax(-1)
            == y
        )
        .double()
        .mean(0)
    )
    clean, left, right = score(x), score(theirs), score(ours)
    difference = stats.paired_difference(left.numpy(), right.numpy())
    assert (
        difference.low <= 0 <= difference.high
        and max(left.mean(), right.mean()) < clean.mean() - 0.2
    )
