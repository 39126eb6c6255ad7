"""Attacks: budgets are kept, gradients are what they say, the bare classifier falls, and nothing
depends on the batch.
"""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from hetpure_core import HetPure, Noise, Purified, Uniform
from hetpure_lab import attacks, data
from hetpure_lab.attacks import (
    ATTACKS,
    PGD,
    PRESETS,
    MaskPGD,
    RandomNoise,
    Transfer,
    Undefended,
    gradients,
    threat,
)
from hetpure_lab.attacks.gradients import DRAWS, LOSSES, Frozen, MaskAware
from hetpure_lab.common import microbatch, specs
from hetpure_lab.defences import DEFENCES, assemble, behind, me_net
from hetpure_lab.evidence import RESULTS, Experiment
from hetpure_lab.networks import benches

FEW_STEPS = {
    "langevin": {"length": 4, "stride": 2},
    "ssni": {"steps": 3, "probes": 2},
    "lorid": {"steps": 2, "loops": 2},
}


@pytest.fixture(scope="module")
def bench():
    return benches.load("cifar10-small")


@pytest.fixture(scope="module")
def images():
    return data.embedded_sample(data.DATASETS["cifar10"])


def small(bench, purifier=None, **options):
    return Purified(
        bench.classifier,
        bench.denoiser,
        purifier or HetPure(steps=2, U=3),
        schedule=bench.schedule,
        **options,
    )


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
    attack = PGD(
        norm=norm, eps=eps, iterations=3, eot=2, step=0.2, random_start=random_start, confirm=0
    )
    x_adv, spent = attack.run(small(bench), x, y, images.ids[:6])
    delta = (x_adv - x).flatten(1)
    size = delta.abs().amax(1) if norm == "Linf" else delta.norm(dim=1)
    assert (size <= eps + 1e-6).all() and (size > 0.5 * eps).all()
    assert x_adv.min() >= 0 and x_adv.max() <= 1 and spent.tolist() == [3] * 6


@pytest.mark.parametrize("norm, eps", [("Linf", 8 / 255), ("L2", 0.5)])
def test_eight_bit_images_stay_in_the_ball(images, norm, eps):
    x = images.floats
    x_adv = PGD(norm=norm, eps=eps).project(
        x + torch.randn(x.shape, generator=torch.Generator().manual_seed(0)), x
    )
    delta = attacks.to_8_bit(x_adv, x, norm, eps).float() / 255
    size = delta.flatten(1).abs().amax(1) if norm == "Linf" else delta.flatten(1).norm(dim=1)
    pixels = images.pixels.short() + attacks.to_8_bit(x_adv, x, norm, eps)
    assert (size <= eps + 1e-6).all() and (size > 0.98 * eps).all()
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


@pytest.mark.parametrize(
    "mask_kind, found", [("attention", 3), ("top-fraction", 3), ("inverted", 3), ("random", 6)]
)
def test_a_mask_that_depends_on_the_image_alone_is_found_once_per_image(
    tiny, batch, mask_kind, found, monkeypatch
):
    """And gives the gradient that it gives when every copy finds it again."""
    (x, y, ids), counted, inner = batch, [], HetPure.mask
    defence = gradients.with_purifier(tiny, dataclasses.replace(tiny.purifier, mask_kind=mask_kind))
    again = [attacks.loss_and_gradient(defence, x, y, ids, [c]) for c in range(2)]
    monkeypatch.setattr(
        HetPure,
        "mask",
        lambda self, images, *rest: counted.append(len(images)) or inner(self, images, *rest),
    )
    value, gradient = attacks.loss_and_gradient(defence, x, y, ids, range(2))
    assert sum(counted) == found
    assert torch.allclose(value, sum(v for v, _ in again) / 2) and torch.allclose(
        gradient, sum(g for _, g in again) / 2
    )


def test_result_does_not_depend_on_batch_or_chunks(bench, images, monkeypatch):
    x, y, ids, defence = (
        images.floats[:4],
        images.labels[:4],
        images.ids[:4],
        small(bench, Uniform(0.1, steps=2)),
    )
    attack = PGD(iterations=2, eot=3, confirm=0)
    together, _ = attack.run(defence, x, y, ids)
    monkeypatch.setattr(microbatch, "rows", lambda device: 5)
    alone = torch.cat(
        [attack.run(defence, x[i : i + 1], y[i : i + 1], ids[i : i + 1])[0] for i in range(4)]
    )
    # sign(0) ties only
    assert (together - alone).abs().max() < 1e-6 or (
        (together - alone).abs() > 1e-6
    ).float().mean() < 0.002


def test_bpda_is_the_classifiers_gradient_at_the_purified_image(bench, images):
    x, y, ids, defence = images.floats[:3], images.labels[:3], images.ids[:3], small(bench)
    _, gradient = attacks.loss_and_gradient(
        attacks.seen_by_the_attack(defence, "bpda"), x, y, ids, [5]
    )
    purified = defence.purify(x, defence.noise(3, ids, [5] * 3)).detach().requires_grad_()
    expected = torch.autograd.grad(
        torch.nn.functional.cross_entropy(bench.classifier(purified), y, reduction="sum"), purified
    )[0]
    assert (gradient - expected).norm() < 1e-5 * expected.norm()


def test_surrogates_run_what_they_say(bench):
    method, uniform = small(bench, HetPure()), small(bench, Uniform())
    released = attacks.seen_by_the_attack(method, "surrogate").purifier
    masked = attacks.seen_by_the_attack(method, "surrogate-masked").purifier
    assert released.calls(bench.schedule) == 2 and len(released.grid(bench.schedule)[0]) == 2
    assert (
        masked.reading == "paper"
        and len(masked.grid(bench.schedule)[0]) == 3
        and masked.steps < method.purifier.steps
    )
    assert [
        attacks.seen_by_the_attack(uniform, g).purifier.steps
        for g in ("surrogate", "surrogate-masked", "exact")
    ] == [2, 5, 10]


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
    x, y, ids, defence = (
        images.floats[:6],
        images.labels[:6],
        images.ids[:6],
        Undefended(bench.classifier),
    )
    attack = PGD(iterations=6, eot=1, step=0.03, eps=0.03, keep="best", confirm=0)
    best, _ = attack.run(defence, x, y, ids)
    first, _ = attacks.loss_and_gradient(defence, x, y, ids, [0])
    kept, _ = attacks.loss_and_gradient(defence, best, y, ids, [0])
    assert (kept >= first).all() and (kept > first).any()


# ---- every attack --------------------------------------------------------------------------------

SMALL = (
    "pgd:iterations=4,eot=2,confirm=2,confirm_every=2",
    "pgd:iterations=2,eot=2,random_start=1,restarts=2,keep=best,loss=margin",
    "pgd:iterations=2,eot=2,frozen=start+known,gradient=mask-soft",
    "pgd:iterations=4,eot=2,momentum=0.5,schedule=cosine,loss=hinge",
    "bpda:iterations=2,eot=2",
    "pgd-mask:iterations=2,eot=2,keep=best",
    "autoattack:iterations=2,eot=2",
    "autoattack-corrected:iterations=5,eot=2,accept=3",
    "square:iterations=6,eot=2,refresh=3,confirm=2",
    "transfer:iterations=4",
    "per-step:iterations=2,eot=2,keep=best",
    "growing:iterations=2,eot=2,stages=2,confirm=2",
    "low-frequency:iterations=2,eot=2,random_start=1,keep=best",
    "spatial:grid=3+2+1,eot=2",
    "spatial:search=gradient,iterations=3,eot=2",
    "spatial:search=random,iterations=3,eot=2",
    "noise",
)
# what stands in a file of its own, because it needs two benches
ELSEWHERE = {"transfer-from"}
BALLS = [(text, norm) for text in SMALL for norm in ATTACKS[text.partition(":")[0]].choices["norm"]]


def with_norm(text, norm):
    """The attack that `text` names, in a ball in which 8 by 8 pixels can move as far as in the
    other.
    """
    eps = {"Linf": 0.1, "L2": 0.5}.get(norm, 1.0)
    return dataclasses.replace(specs.parse(text, ATTACKS)[1], norm=norm, eps=eps)


def one_by_one(attack, defence, x, y, ids):
    return torch.cat(
        [attack.run(defence, x[i : i + 1], y[i : i + 1], ids[i : i + 1])[0] for i in range(len(x))]
    )


@pytest.fixture
def tiny(classifier, denoiser):
    """The method on tiny networks; only the packaged library needs float32."""
    return Purified(classifier, denoiser, HetPure(0.3, 0.1, tau=0.5, U=2, steps=3))


@pytest.fixture
def batch():
    """Three 8 by 8 images in float64, their labels and ids."""
    x = 0.2 + 0.6 * torch.rand(
        3, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(7)
    )
    return x, torch.tensor([0, 3, 1]), ["a", "b", "c"]


def test_small_settings_cover_every_attack():
    assert {text.partition(":")[0] for text in SMALL} | ELSEWHERE == set(ATTACKS)


@pytest.mark.parametrize(("text", "norm"), BALLS)
def test_any_attack_stays_in_the_ball_and_gives_an_image_alone_what_it_gives_in_a_batch(
    tiny, batch, text, norm
):
    (x, y, ids), attack, ticks = batch, with_norm(text, norm), []
    if text.startswith("autoattack:"):
        tiny, x = tiny.float(), x.float()
    together, spent = attack.run(tiny, x, y, ids, tick=ticks.append)
    assert torch.allclose(together, one_by_one(attack, tiny, x, y, ids), atol=1e-9)
    if norm in threat.NORMS:
        assert threat.length(together - x, norm).max() <= attack.eps * (1 + 1e-6)
    assert together.min() >= 0 and together.max() <= 1
    assert sum(ticks) == attack.steps * len(x) and (spent <= attack.steps).all()
    again, _ = attack.run(tiny, x, y, ids)
    other, _ = attack.run(tiny, x, y, ids, seed=1)
    # the packaged AutoAttack hands these images back clean, nothing is random in the bare network,
    # and of a few transformations the worst is the same under other noise
    assert torch.equal(again, together) and (
        text.startswith(("transfer", "autoattack:", "spatial:grid"))
        or not torch.equal(other, together)
    )


@pytest.mark.parametrize("text", SMALL)
def test_any_attack_keeps_to_the_purifications_it_announces(tiny, batch, text, monkeypatch):
    (x, y, ids), counted = batch, [0, 0]
    attack = with_norm(text, dict(BALLS[::-1])[text])
    if text.startswith("autoattack:"):
        tiny, x = tiny.float(), x.float()
    purify = Purified.purify

    def counting(self, images, *rest):
        counted[images.requires_grad] += len(images)
        return purify(self, images, *rest)

    monkeypatch.setattr(Purified, "purify", counting)
    attack.run(tiny, x, y, ids)
    without, with_gradient = attack.purifications()
    assert counted[1] <= with_gradient * len(x) and sum(counted) <= (without + with_gradient) * len(
        x
    )
    if attack.gradient == "exact" and text.startswith("pgd:iterations=2"):
        assert counted[1] == with_gradient * len(x)  # nothing is confirmed within two iterations


@pytest.mark.parametrize("text", SMALL)
def test_any_attack_refuses_an_unknown_norm_and_gradient(text):
    attack = specs.parse(text, ATTACKS)[1]
    for name in ("norm", "gradient"):
        with pytest.raises(ValueError, match=f"unknown {name} 'free'; known: "):
            dataclasses.replace(attack, **{name: "free"})


@pytest.mark.parametrize(
    "text",
    """pgd:gradient=none pgd:keep=first pgd:l2_step=free pgd:eot=0 pgd:eps=-1 pgd:step=0
    pgd:loss=l2 pgd:restarts=2 pgd:momentum=1 pgd:schedule=steps pgd:precision=fp8
    pgd:frozen=end pgd-mask:steer=up square:p=0 square:gradient=exact autoattack:version=plus
    autoattack:version=standard
    autoattack-corrected:losses=ce+l2
    autoattack-corrected:accept=0
    per-step:weight=-1 per-step:gradient=bpda low-frequency:share=0
    growing:stages=0 growing:momentum=0.5 growing:via=2 spatial:grid=3+3
    spatial:degrees=200
    spatial:search=hill spatial:norm=L2""".split(),
)
def test_bad_settings_are_refused_by_name(text):
    name = text.partition(":")[2].partition("=")[0]
    with pytest.raises(
        ValueError,
        match="loss" if name == "losses" else "random_start" if name == "restarts" else name,
    ):
        specs.parse(text, ATTACKS)


def test_new_settings_leave_the_names_of_old_records_alone():
    for path in sorted((RESULTS / "cifar10-small").glob("*.jsonl")):
        config = json.loads(path.read_text().split("\n")[0])["config"]
        assert all(
            hasattr(ATTACKS[config["attack"]["name"]], name)
            for name in config["attack"]
            if name != "name"
        )
    assert (
        specs.write({"name": "pgd"} | dataclasses.asdict(PGD(eot=1, confirm=1)), ATTACKS)
        == "pgd:eot=1,confirm=1"
    )
    path = Experiment("none", "pgd:eot=1,confirm=1").path()
    assert path.exists() or not list(path.parent.glob("none--pgd-eot=1-confirm=1--*")), (
        "the key of this experiment has changed"
    )


# ---- PGD's choices -------------------------------------------------------------------------------


def test_presets_are_what_they_say():
    paper, strong, thrifty = PRESETS["paper"], PRESETS["strong"], PRESETS["thrifty"]
    assert 10 * thrifty.iterations * thrifty.eot <= paper.iterations * paper.eot
    assert (paper.iterations, paper.eot, paper.step, paper.keep, paper.random_start) == (
        200,
        20,
        0.007,
        "last",
        False,
    )
    assert (paper.loss, paper.restarts, paper.confirm, PRESETS["paper-l2"].l2_step) == (
        "ce",
        1,
        0,
        "sign",
    )
    assert (strong.random_start, strong.keep, strong.loss, strong.restarts) == (
        True,
        "best",
        "margin",
        2,
    )
    assert (
        PRESETS["strong-l2"].l2_step == "normalised"
        and PRESETS["strong-l2"].step * 10 > PRESETS["strong-l2"].eps
    )


def test_losses_are_their_formulas_and_rise_above_zero_exactly_where_the_label_is_lost():
    logits = torch.tensor(
        [[3.0, 1.0, 0.5, -1.0], [0.0, 2.0, 5.0, 4.0]], dtype=torch.float64
    ).expand(6, 2, 4)
    labels = torch.tensor([0, 1])
    value = {loss: gradients.loss_values(logits, labels, loss) for loss in LOSSES}
    assert value["margin"].tolist() == [[-2, 3]] * 6
    assert torch.allclose(value["dlr"], torch.tensor([-2 / 2.5, 3 / 3]).double().expand(6, 2))
    assert torch.allclose(value["ce"], -logits.log_softmax(-1)[..., [0, 1], [0, 1]])
    assert value["hinge"].tolist() == [[-2, 1]] * 6  # what is lost by more than 1 counts as lost
    assert torch.allclose(value["wrong"], 1 - logits.softmax(-1)[..., [0, 1], [0, 1]])


def test_losses_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="unknown loss 'l2'; known: ce, margin, dlr"):
        gradients.loss_values(torch.zeros(1, 4), torch.zeros(1, dtype=torch.long), "l2")
    with pytest.raises(ValueError, match="at least 3 classes, not 2"):
        gradients.loss_values(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long), "dlr")


def test_of_several_restarts_the_one_with_the_highest_loss_on_other_noise_is_kept(tiny, batch):
    x, y, ids = batch
    attack = PGD(eps=0.3, step=0.02, iterations=1, eot=2, random_start=True, restarts=4, confirm=0)
    found, spent = attack.run(tiny, x, y, ids)
    runs = [
        attack.climb(tiny, x, y, ids, tag, threat.no_tick)[0]
        for tag in ("0", "0 restart 1", "0 restart 2", "0 restart 3")
    ]
    judge = gradients.reseeded(tiny, "judge 0")
    values = torch.stack([gradients.mean_loss(judge, run, y, ids, range(2)) for run in runs])
    assert (
        torch.equal(gradients.mean_loss(judge, found, y, ids, range(2)), values.amax(0))
        and spent.tolist() == [4] * 3
    )
    assert len(set(values.argmax(0).tolist())) > 1


def test_a_confirmed_failure_is_returned_even_where_an_earlier_iterate_had_the_higher_loss(
    smoothed,
):
    x, y, ids = smoothed.batch(8)
    attack = PGD(
        norm=smoothed.norm,
        eps=20 * smoothed.eps,
        step=10 * smoothed.eps,
        iterations=7,
        eot=1,
        keep="best",
        confirm=1,
    )
    attack = dataclasses.replace(attack, confirm_every=6)
    last, _ = dataclasses.replace(attack, keep="last").run(smoothed.defence, x, y, ids)
    best, spent = attack.run(smoothed.defence, x, y, ids)
    assert (spent == 6).all() and torch.equal(best, last)


@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_pgd_finds_the_worst_point_of_a_defence_known_in_closed_form(smoothed, loss):
    x, y, ids = smoothed.batch(3)
    attack = PGD(
        norm=smoothed.norm,
        eps=smoothed.eps,
        step=smoothed.eps / 2,
        iterations=4,
        eot=2,
        confirm=0,
        loss=loss,
    )
    found, _ = attack.run(smoothed.defence, x, y, ids)
    assert torch.allclose(smoothed.accuracy(x), torch.tensor(smoothed.clean), atol=1e-4)
    assert torch.allclose(smoothed.accuracy(found), torch.tensor(smoothed.attacked), atol=1e-4)


def test_steps_follow_the_schedule_and_the_running_mean_of_gradients(tiny, batch, monkeypatch):
    """On gradients that are given: the direction is the sign of their mean, the step half a
    cosine.
    """
    (x, y, ids), given = batch, [1.0, -0.4, -0.4]
    monkeypatch.setattr(
        PGD,
        "loss_and_gradient",
        lambda self, attacked, x, images, labels, ids, copies: (
            torch.zeros(len(x), dtype=x.dtype),
            torch.full_like(x, given[copies[0] // self.eot]),
        ),
    )
    settings = {"eps": 1.0, "step": 0.02, "iterations": 3, "eot": 1, "confirm": 0}
    plain, _ = PGD(**settings).run(tiny, x, y, ids)
    assert torch.allclose(plain, x + 0.02 * (1 - 1 - 1))
    # each gradient counts with mean absolute value 1: 0.2, then 0.16 - 0.2, then -0.032 - 0.2
    slow, _ = PGD(**settings, momentum=0.8, schedule="cosine").run(tiny, x, y, ids)
    assert torch.allclose(slow, x + 0.02 * (1 - 0.75 - 0.25))


def test_half_precision_is_for_gradients_only(tiny, batch, monkeypatch):
    """Gradients see a denoiser in bfloat16, confirmations the defence as it is."""
    (x, y, ids), seen = batch, {"gradient": set(), "without": set()}
    purify = Purified.purify

    def watched(self, images, *rest):
        kind = "gradient" if images.requires_grad else "without"
        seen[kind].add(type(self.denoiser).__name__)
        return purify(self, images, *rest)

    monkeypatch.setattr(Purified, "purify", watched)
    own = type(tiny.denoiser).__name__
    PGD(iterations=4, eot=1, confirm=1, confirm_every=2, precision="bf16").run(tiny, x, y, ids)
    assert seen == {"gradient": {"Bfloat16"}, "without": {own}}
    assert type(tiny.denoiser).__name__ == own
    with pytest.raises(ValueError, match="precision=bf16 is about a denoiser, and Undefended has"):
        PGD(precision="bf16").run(Undefended(tiny.classifier), x, y, ids)


def test_a_gradient_in_half_precision_is_close_to_the_exact_one(bench, images):
    x, y, ids, defence = images.floats[:4], images.labels[:4], images.ids[:4], small(bench)
    half = gradients.in_precision(defence, "bf16")
    (_, exact), (_, rough) = (
        attacks.loss_and_gradient(d, x, y, ids, range(2)) for d in (defence, half)
    )
    cosine = torch.nn.functional.cosine_similarity(exact.flatten(1), rough.flatten(1))
    assert rough.dtype == torch.float32 and not torch.equal(exact, rough) and cosine.min() > 0.9


def test_transfer_is_an_attack_on_the_bare_network_and_noise_is_none(tiny, batch):
    x, y, ids = batch
    moved, _ = Transfer(iterations=3).run(tiny, x, y, ids)
    bare, _ = PGD(iterations=3, eot=1, confirm=0).run(Undefended(tiny.classifier), x, y, ids)
    assert torch.equal(moved, bare)
    noise, spent = RandomNoise(eps=0.05).run(tiny, x, y, ids)
    assert torch.allclose((noise - x).abs(), torch.full_like(x, 0.05)) and not spent.any()


# ---- masks with a derivative ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["attention", "top-fraction", "inverted"])
@pytest.mark.parametrize("reading", ["paper", "released"])
def test_the_smooth_mask_tends_to_the_mask(tiny, batch, kind, reading):
    purifier = HetPure(0.3, 0.1, tau=0.5, steps=10, mask_kind=kind, reading=reading, fraction=0.3)
    defence, x = gradients.with_purifier(tiny, purifier), batch[0]
    mask = defence.mask(x, defence.noise(3, batch[2]))
    soft = gradients.smooth_mask(defence, x, temperature=1e-7)
    away = (soft - 0.5).abs() > 1e-3  # a pixel exactly at the threshold stays at one half
    assert away.float().mean() > 0.95 and torch.allclose(soft[away], mask[away], atol=1e-6)


def test_straight_through_masks_leave_the_output_and_add_to_the_gradient(tiny, batch):
    x, y, ids = batch
    through = gradients.seen_by_the_attack(tiny, "mask-straight-through")
    assert torch.allclose(through(x, ids, [0] * 3), tiny(x, ids, [0] * 3), atol=1e-12)
    exact, more = (gradients.loss_and_gradient(d, x, y, ids, [0])[1] for d in (tiny, through))
    assert (exact - more).norm() > 1e-3 * exact.norm()


def test_the_gradient_through_a_soft_mask_is_that_of_finite_differences(tiny, batch):
    x, y, ids = batch
    soft = gradients.seen_by_the_attack(tiny, "mask-soft")
    value = lambda z: gradients.mean_loss(soft, z, y, ids, [0])
    _, g = gradients.loss_and_gradient(soft, x, y, ids, [0])
    v = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    quotient = (value(x + 1e-6 * v) - value(x - 1e-6 * v)) / 2e-6
    assert torch.allclose(quotient, (g * v).sum((1, 2, 3)), rtol=1e-5, atol=1e-7)


def test_a_purifier_without_attention_has_no_gradient_through_its_mask(tiny):
    for purifier in (Uniform(0.1, steps=2), HetPure(0.3, 0.1, steps=3, mask_kind="random")):
        defence = gradients.with_purifier(tiny, purifier)
        assert gradients.seen_by_the_attack(defence, "mask-soft") is defence
        with pytest.raises(ValueError, match="no mask that depends on the image"):
            gradients.smooth_mask(defence, torch.rand(1, 3, 8, 8, dtype=torch.float64))
    assert isinstance(gradients.seen_by_the_attack(tiny, "mask-soft"), MaskAware)


@pytest.mark.parametrize("steer, grows", [("grow", True), ("shrink", False)])
def test_steering_moves_the_mask_where_it_should(tiny, batch, steer, grows):
    x, y, ids = batch
    attack = MaskPGD(eps=0.1, iterations=4, eot=1, confirm=0, steer=steer, weight=100.0, step=0.03)
    found, _ = attack.run(tiny, x, y, ids)
    area = lambda z: gradients.smooth_mask(tiny, z).mean()
    assert (area(found) > area(x)) == grows and (area(found) - area(x)).abs() > 0.02


def test_steering_for_change_flips_more_of_the_mask_than_the_loss_alone(tiny, batch):
    x, y, ids = batch
    settings = {"eps": 0.1, "iterations": 4, "eot": 1, "confirm": 0, "step": 0.03}
    mask = lambda z: tiny.mask(z, tiny.noise(3, ids))
    flipped = [
        (mask(attack.run(tiny, x, y, ids)[0]) != mask(x)).double().mean()
        for attack in (MaskPGD(**settings, weight=100.0), PGD(**settings))
    ]
    assert flipped[0] > flipped[1]


@pytest.mark.parametrize("steer", ["change", "shrink"])
def test_steering_goes_through_the_networks_in_chunks_and_does_not_depend_on_their_size(
    tiny, batch, steer, monkeypatch
):
    (x, y, ids), seen, inner = batch, [], gradients.smooth_mask
    near, attack = (x + 0.02).clamp(0, 1), MaskPGD(steer=steer, weight=3.0)
    whole = (
        *attack.loss_and_gradient(tiny, near, x, y, ids, [0]),
        attack.value(tiny, near, x, y, ids, [0]),
    )
    monkeypatch.setattr(microbatch, "rows", lambda device: 2)
    monkeypatch.setattr(
        "hetpure_lab.attacks.pgd.smooth_mask",
        lambda defence, images: seen.append(len(images)) or inner(defence, images),
    )
    parts = (
        *attack.loss_and_gradient(tiny, near, x, y, ids, [0]),
        attack.value(tiny, near, x, y, ids, [0]),
    )
    assert max(seen) == 2 and sum(seen) == (4 if steer == "change" else 2) * len(x) and len(x) > 2
    for a, b in zip(whole, parts):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


# ---- frozen noise --------------------------------------------------------------------------------


@pytest.mark.parametrize("frozen", ["start", "known", "renoise", "reverse"])
def test_frozen_draws_are_the_same_in_every_copy_and_under_every_seed_and_others_are_not(
    tiny, batch, frozen
):
    noises = [
        Frozen(gradients.reseeded(tiny, s), frozen).hold(Noise(s, ["a"], [c]))
        for s, c in ((0, 0), (0, 1))
    ]
    held = gradients.reseeded(Frozen(tiny, frozen), "other")
    noises.append(held.hold(held.noise(1, ["a"], [5])))
    for draw in ("start", "start weak", "known 20 ", "renoise 20", "reverse 30 20 "):
        a, *others = (noise(draw, batch[0][:1]) for noise in noises)
        assert all(torch.equal(a, b) == (draw.split()[0] == frozen) for b in others)


def test_with_all_noise_frozen_the_attack_sees_what_will_score_it(tiny, batch):
    x, y, ids = batch
    attack = PGD(eps=0.05, iterations=3, eot=1, confirm=0, frozen="all", keep="best")
    defence = attack.faces(tiny)
    assert (
        attack.faces(defence) is defence
        and attack.faces(Undefended(tiny.classifier)).classifier is tiny.classifier
    )
    logits = gradients.logits_of(gradients.reseeded(defence, "score"), x, ids, range(3))
    assert torch.equal(logits[0], logits[1]) and torch.equal(logits[0], logits[2])
    assert not torch.equal(tiny(x, ids, [0] * 3), tiny(x, ids, [1] * 3))
    found, _ = attack.run(tiny, x, y, ids)
    scored = [
        gradients.mean_loss(gradients.reseeded(defence, "score"), z, y, ids, range(2))
        for z in (found, x)
    ]
    assert (scored[0] > scored[1]).all()


def test_freezing_draws_one_at_a_time_takes_away_randomness_one_at_a_time(tiny, batch):
    x, _, ids = batch
    spread = {}
    for frozen in ("start", "known", "renoise", "start+known+renoise", "all"):
        spread[frozen] = float(
            gradients.logits_of(Frozen(tiny, frozen), x, ids, range(40)).std(0).mean()
        )
    free = float(gradients.logits_of(tiny, x, ids, range(40)).std(0).mean())
    assert all(0 < spread[frozen] < 1.1 * free for frozen in ("start", "known", "renoise"))
    assert spread["start+known+renoise"] == spread["all"] == 0 and set(DRAWS) > {
        "start",
        "known",
        "renoise",
    }


@pytest.mark.parametrize("spec", ["gdmp", "langevin", "scoreopt", "ssni", "lorid"])
def test_all_is_all_that_any_purifier_draws_and_loops_stay_independent(spec, tiny, batch):
    x, _, ids = batch
    slug, purifier = specs.parse(spec, DEFENCES)
    rival = assemble(
        type(purifier)(**FEW_STEPS.get(slug, {"steps": 3})), tiny.classifier, tiny.denoiser
    )
    logits = gradients.logits_of(Frozen(rival, "all"), x, ids, range(3))
    assert torch.equal(logits[0], logits[1]) and torch.equal(logits[0], logits[2])
    held = Frozen(tiny, "all").hold(Noise(0, ids, [0] * len(ids)))
    assert not torch.equal(held("start", x), dataclasses.replace(held, seed="0 loop 1")("start", x))


def test_only_a_purifiers_noise_can_be_frozen(tiny):
    defended = behind.Behind(tiny.classifier, me_net.MENet())
    with pytest.raises(ValueError, match="not that of Behind"):
        PGD(frozen="all").faces(defended)


@pytest.mark.parametrize("gradient", ["bpda", "mask-soft", "mask-straight-through"])
def test_stand_ins_vote_as_the_defence_does(gradient, tiny, batch):
    """With several votes a stand-in forwards what the defence answers, which is not one
    purification's answer.
    """
    x, _, ids = batch
    voting = gradients.with_purifier(tiny, tiny.purifier)
    voting.votes = 4
    attacked = gradients.seen_by_the_attack(voting, gradient)
    one = gradients.seen_by_the_attack(tiny, gradient)
    if gradient != "mask-soft":
        torch.testing.assert_close(attacked(x, ids), voting(x, ids))
    assert not torch.allclose(attacked(x, ids), one(x, ids))
    assert not torch.equal(attacked(x), attacked(x))  # without ids every call draws fresh noise


def test_differences_that_cannot_be_stored_are_refused():
    x = torch.zeros(1, 3, 2, 2)
    with pytest.raises(ValueError, match="at most 127/255 can be stored, not 255/255"):
        threat.to_8_bit(x + 1, x, "Linf", 1)
    assert threat.to_8_bit(x + 127 / 255, x, "L2", 10).eq(127).all()


# ---- how good a gradient is ----------------------------------------------------------------------


def test_agreement_recovers_a_known_angle_from_noise():
    generator = torch.Generator().manual_seed(0)
    n, S, d = 20, 64, 200
    draw = lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=generator)
    g, across = draw(n, 1, d), draw(n, 1, d)
    h = 0.6 * g + 0.8 * across  # nearly orthogonal in 200 dimensions
    truth = torch.nn.functional.cosine_similarity(g[:, 0], h[:, 0])
    found = gradients.agreement(g + 4 * draw(n, S, d), h + 4 * draw(n, S, d))
    assert (found.corrected - truth).abs().mean() < 0.05 and abs(
        found.pooled - float(truth.mean())
    ) < 0.02
    # |h|^2 is about d, the noise 16 d
    assert (found.cosine < truth).all() and (found.snr * 16 - 1).abs().mean() < 0.1


def test_summands_average_to_the_gradient_and_agree_with_themselves(tiny, batch):
    x, y, ids = batch
    parts = gradients.summands(tiny, x, y, ids, range(6))
    _, gradient = gradients.loss_and_gradient(tiny, x, y, ids, range(6))
    assert torch.allclose(parts.mean(1), gradient.flatten(1), atol=1e-12)
    assert torch.allclose(gradients.agreement(parts, parts).cosine, torch.ones(3).double())
