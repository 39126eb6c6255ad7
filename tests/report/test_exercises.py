"""Every exercise has a folded solution, and every solution is executed: its code as a cell of the
chapter, a claim by the tests here that say `solves`.
"""

from __future__ import annotations

import argparse
import math
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from inspect import signature
from itertools import pairwise

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, NoDenoiser
from scipy import stats
from torch import Tensor

from hetpure_core import (
    HetPure,
    Noise,
    Purified,
    Uniform,
    activation_map,
    attention_maps,
    linear_schedule,
    merge,
    min_max,
    p_xs_xt,
    q_xt_x0,
    q_xt_xs,
    random_mask,
    run,
    spatial_softmax,
    tapped,
    threshold_mask,
    trajectory,
    x0_xt,
)
from hetpure_lab import attacks, data, evidence
from hetpure_lab.attacks import PGD, RandomNoise, perturb_randomly
from hetpure_lab.attacks.gradients import logits_of, loss_and_gradient
from hetpure_lab.audit import checks, own, world
from hetpure_lab.common import microbatch, specs
from hetpure_lab.common.measure import measure
from hetpure_lab.common.stats import paired_difference
from hetpure_lab.defences import DEFENCES, Capabilities, assemble, register
from hetpure_lab.defences.diffap import RandomSampling
from hetpure_lab.defences.image_gradient import ImageGradient
from hetpure_lab.evidence import RESULTS, Outcomes, ablations, certify, inside, read, studies
from hetpure_lab.evidence.backlog import add_experiment, experiment_of
from hetpure_lab.networks import benches
from hetpure_lab.report import features, premise

SCHEDULE = linear_schedule()
SOLVED: set[str] = set()


def solves(*labels: str) -> Callable:
    """Say of a test that it checks the claims of these solutions, by their exercises' labels."""

    def mark(test: Callable) -> Callable:
        SOLVED.update(labels)
        return test

    return mark


CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))
BLOCK = re.compile(
    r"^(?P<fence>`{3,4})\{(?P<kind>exercise|solution)\} ?(?P<of>[\w-]*)\n"
    r":label: (?P<label>[\w-]+)\n(?P<folded>:class: dropdown\n)?\n(?P<body>.*?)\n(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)


def text_of(label: str) -> str:
    """The text of an exercise or a solution."""
    (found,) = (b["body"] for path in CHAPTERS for b in blocks(path) if b["label"] == label)
    return found


def blocks(path) -> list[re.Match]:
    """The exercises and solutions of a chapter, in order."""
    cells = nbformat.read(path, as_version=4).cells
    text = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    return list(BLOCK.finditer(text.partition("## Exercises")[2]))


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_every_exercise_is_followed_by_its_folded_solution_and_labels_count(path):
    chapter, found = int(path.name[:2]), blocks(path)
    earlier = [p for p in CHAPTERS if p.name[:2] == path.name[:2] and p < path]
    first = 1 + sum(len(blocks(p)) // 2 for p in earlier)
    assert found and len(found) % 2 == 0
    for n, (exercise, solution) in enumerate(zip(found[::2], found[1::2]), first):
        assert (exercise["kind"], exercise["label"]) == ("exercise", f"ex-{chapter}-{n}")
        assert solution["kind"] == "solution" and solution["folded"]
        assert (solution["of"], solution["label"]) == (exercise["label"], f"sol-{chapter}-{n}")


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_the_code_of_a_solution_is_a_cell_of_its_chapter(path):
    cells = nbformat.read(path, as_version=4).cells
    run = [c.source for c in cells if "solution" in c.metadata.get("tags", ())]
    for block in blocks(path):
        for code in re.findall(r"```python\n(.*?)\n```", block["body"], re.DOTALL):
            assert any(cell.startswith(code) for cell in run), (
                f"no cell of {path.name} runs {code[:40]}"
            )


def test_every_solution_is_executed_by_a_test_or_as_a_cell():
    found = [b for path in CHAPTERS for b in blocks(path)]
    exercises = {b["label"] for b in found if b["kind"] == "exercise"}
    as_cells = {b["of"] for b in found if b["kind"] == "solution" and "```python" in b["body"]}
    assert as_cells | SOLVED == exercises


def keyed(images: Tensor, seed: int = 0) -> Noise:
    """One copy of the noise of images 0, 1, ..."""
    return Noise(seed, range(len(images)), [0] * len(images))


def standard_normal(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- chapter 1 -----------------------------------------------------------------------------------


@solves("ex-1-1")
def test_signal_and_noise_cross_where_abar_is_nearest_to_one_half():
    signal, sigma = SCHEDULE.abar.sqrt(), (1 - SCHEDULE.abar).sqrt()
    t = int((SCHEDULE.abar - 0.5).abs().argmin())
    assert signal[t - 1] > sigma[t - 1] and signal[t + 1] < sigma[t + 1]


@solves("ex-1-2")
@pytest.mark.parametrize("t, s", [(1000, 999), (200, 100), (30, 1)])
def test_eta_ends_where_fresh_noise_has_replaced_the_predicted(t, s):
    abar_t, abar_s = (float(SCHEDULE.abar[i]) for i in (t, s))
    largest = math.sqrt((1 - abar_t) / (1 - abar_t / abar_s))
    assert largest >= 1
    xt, eps, z = (standard_normal((2, 3, 4, 4), seed) for seed in range(3))
    fresh = abar_s**0.5 * x0_xt(xt, t, eps, SCHEDULE) + (1 - abar_s) ** 0.5 * z
    assert torch.allclose(p_xs_xt(xt, t, s, eps, SCHEDULE, largest, z), fresh, atol=1e-6)


@solves("ex-1-3")
def test_steps_with_one_prediction_are_one_step():
    xt, eps = standard_normal((2, 3, 4, 4)), standard_normal((2, 3, 4, 4), 1)
    x = xt
    for t, s in pairwise([300, 170, 60, 0]):
        x = p_xs_xt(x, t, s, eps, SCHEDULE)
    assert torch.allclose(x, p_xs_xt(xt, 300, 0, eps, SCHEDULE))


@solves("ex-1-4", "ex-9-1")
def test_whether_an_image_is_right_depends_on_the_draw(smoothed):
    x, labels, ids = smoothed.batch(64)
    first, again, other = (
        smoothed.defence(x, ids, [copy] * 64).argmax(-1) == labels for copy in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert 0 < (first != other).double().mean() < 0.5  # one image more often right than wrong


# ---- chapter 2 -----------------------------------------------------------------------------------


@solves("ex-2-1")
@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0, 100.0])
def test_no_temperature_lets_a_softmax_attend_two_pixels(temperature):
    maps = torch.randn(8, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    assert (spatial_softmax(maps / temperature) > 0.5).sum((2, 3)).max() <= 1


@solves("ex-2-2")
@pytest.mark.parametrize("p", [1, 2, 5])
def test_a_threshold_of_powers_converts_to_one_of_roots(p):
    roots = 0.3 + torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(1)).double()
    tau = 0.7

    def converted(low, high):
        return ((low**p + tau * (high**p - low**p)) ** (1 / p) - low) / (high - low)

    low, high = roots.amin((2, 3), keepdim=True), roots.amax((2, 3), keepdim=True)
    assert torch.equal(
        threshold_mask(min_max(roots**p), tau), (min_max(roots) > converted(low, high)).double()
    )
    assert math.isclose(converted(0, 1.7), tau ** (1 / p))


@solves("ex-2-4")
def test_a_constant_changes_nothing_for_the_first_power_alone():
    a = torch.rand(2, 6, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    maps = [[min_max(activation_map(x, p)) for x in (a, a + 0.5)] for p in (1, 2)]
    assert torch.allclose(*maps[0]) and not torch.allclose(*maps[1])
    order = [m.flatten(1).argsort(1) for m in maps[1]]
    assert not torch.equal(*order)


# ---- chapter 3 -----------------------------------------------------------------------------------


@solves("ex-3-1", "ex-7-2")
def test_with_all_masked_the_image_enters_at_the_start_alone(denoiser, images):
    settings, noise = HetPure(), keyed(images)
    x, everywhere = 2 * images - 1, torch.ones_like(images[:, :1])
    plan, other = (settings.plan(v, everywhere, denoiser, noise, SCHEDULE) for v in (x, -x))
    start = plan[0][1](x)
    t_l = SCHEDULE.index(settings.t_l)
    assert torch.equal(start, q_xt_x0(x, t_l, noise("start", x), SCHEDULE))
    assert torch.equal(run(start, plan[1:]), run(start, other[1:]))


@solves("ex-3-1", "ex-7-2")
def test_with_none_masked_stage_1_ends_as_the_forward_process_up_by_u_and_back(denoiser, images):
    settings, noise, x = HetPure(), keyed(images), 2 * images - 1
    plan = settings.plan(x, torch.zeros_like(x[:, :1]), denoiser, noise, SCHEDULE)
    stage_1, _ = settings.grid(SCHEDULE)
    (t_s, ended) = list(trajectory(x, plan))[len(stage_1) - 1]
    known = q_xt_x0(x, t_s, noise(f"known {t_s} ", x), SCHEDULE)
    up = q_xt_xs(known, t_s, t_s + settings.U, noise(f"renoise {t_s}", x), SCHEDULE)
    eps = denoiser(up, torch.full((len(x),), t_s + settings.U))
    assert torch.allclose(ended, p_xs_xt(up, t_s + settings.U, t_s, eps, SCHEDULE))


@solves("ex-3-2")
def test_without_resampling_repetition_takes_one_call_a_step():
    settings = HetPure(U=1, reading="multi-step")
    first, second = (len(times) - 1 for times in settings.grid(SCHEDULE))
    assert settings.calls(SCHEDULE) == first + second


@solves("ex-3-3")
def test_after_a_merge_the_outside_of_the_mask_has_forgotten_the_state(denoiser, images):
    x, mask = 2 * images - 1, torch.zeros_like(images[:, :1])
    mask[..., :4] = 1
    # a step of this reading ends with the merge, line 2.3
    plan = HetPure(U=1, reading="multi-step").plan(x, mask, denoiser, keyed(x), SCHEDULE)
    one, other = (plan[1][1](standard_normal(x.shape, seed)) for seed in (0, 1))
    differs = (one != other).any(1, keepdim=True)
    assert torch.equal(differs.double(), mask)


@solves("ex-3-3")
def test_without_a_mask_nothing_remembers_the_state_before_the_last_merge(
    classifier, denoiser, images
):
    """What the network said in stage 1 is thrown away: two networks that differ there agree."""

    def late_only(x, t):
        strong = (t > HetPure().t_s * 1000 + HetPure().U)[:, None, None, None]
        return torch.where(strong, torch.zeros_like(x), denoiser(x, t))

    outside = torch.zeros(len(images), 1, *images.shape[2:], dtype=images.dtype)
    ends = []
    for network in (denoiser, late_only):
        defended = assemble(HetPure(), classifier, network)
        with torch.no_grad():
            ends.append(defended.purify(images, keyed(images), outside))
    assert torch.allclose(*ends)


# ---- chapter 4 -----------------------------------------------------------------------------------


@solves("ex-4-1")
def test_without_the_direct_terms_the_gradient_is_whole_for_all_and_nought_for_none(
    denoiser, images
):
    x, noise, settings = (2 * images - 1).requires_grad_(), keyed(images), HetPure()
    half = torch.zeros_like(images[:, :1])
    half[..., :4] = 1
    kept = {}
    for name, mask in {"all": half * 0 + 1, "half": half, "none": half * 0}.items():
        seen = (x, x.detach())  # what the merges see
        full, chained = (
            torch.autograd.grad(
                run(x, settings.plan(known, mask, denoiser, noise, SCHEDULE)).square().sum(), x
            )[0]
            for known in seen
        )
        assert float(full.norm()) > 0
        kept[name] = float(chained.norm() / full.norm()), float((chained - full).norm())
    assert kept["all"][1] == 0 and kept["none"][0] == 0
    assert 0 < kept["half"][0] and kept["half"][1] > 0


@solves("ex-4-2")
def test_other_noise_harms_the_steps_that_draw_before_a_call(denoiser, images):
    x = 2 * images - 1
    half = torch.zeros_like(images[:, :1])
    half[..., :4] = 1

    def harmed(purifier, mask) -> list[bool]:
        """By step: whether its product with a vector depends on the noise of its own draws."""
        plans = [purifier.plan(x, mask, denoiser, keyed(x, seed), SCHEDULE) for seed in (0, 1)]
        found = []
        for (_, one), (_, other) in zip(*plans):
            state = standard_normal(x.shape, 5).requires_grad_()
            back = [torch.autograd.grad(step(state).sum(), state)[0] for step in (one, other)]
            found.append(not torch.equal(*back))
        return found

    stage_1, stage_2 = (len(times) - 1 for times in HetPure().grid(SCHEDULE))
    assert harmed(HetPure(), half) == [False] + [True] * stage_1 + [False] * stage_2
    assert not any(harmed(Uniform(0.2, 5, "ddpm"), None))  # draws at the end of its steps alone


@solves("ex-4-3")
def test_two_attacks_of_equal_cost_and_their_paired_difference():
    long, short = (PGD(iterations=k, eot=n, confirm=0) for k, n in ((20, 1), (5, 4)))
    assert long.purifications() == short.purifications() and long.step == short.step == 0.007
    assert long.eps <= short.iterations * short.step < 1.2 * long.eps  # just to the boundary
    assert long.iterations * long.step > 2 * (2 * long.eps)  # twice from side to side


@solves("ex-4-4")
def test_rounding_keeps_more_of_an_l2_radius_than_cutting():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(60, 190, (8, 3, 32, 32), generator=generator) / 255
    x_adv = perturb_randomly(images, [str(i) for i in range(8)], "L2", 0.5, 0)
    length = lambda delta: delta.flatten(1).norm(dim=1)
    cut = (255 * (x_adv - images)).trunc() / 255
    rounded = attacks.to_8_bit(x_adv, images, "L2", 0.5) / 255
    levels = 255 * float((x_adv - images).square().mean().sqrt())
    assert 2 < levels < 3  # what 0.5 is per value
    lost = 255 * ((x_adv - images).abs() - cut.abs())[cut != 0].mean()
    assert abs(float(lost) - 0.5) < 0.05
    assert length(cut).max() < 0.9 * 0.5
    assert length(rounded).min() > 0.995 * 0.5 and length(rounded).max() <= 0.5 * (1 + 1e-6)


@solves("ex-4-5")
def test_selection_on_single_looks_reports_what_the_solution_says():
    V = lambda p: stats.binom.sf(10, 20, p) + stats.binom.pmf(10, 20, p) / 2
    p, q, n = 0.93, 0.5, 200_000
    rng = np.random.default_rng(0)
    looked, turned_down = rng.random(n) < p, (rng.random((2, n)) < q).all(0)
    clean = ~looked | turned_down
    votes = rng.binomial(20, np.where(clean, p, q)) + rng.random(n) / 2  # luck decides a tie
    reported = (1 - p) * V(p) + p * (q**2 * V(p) + (1 - q**2) * V(q))
    assert abs((votes > 10.25).mean() - reported) < 4 * 0.5 / n**0.5
    assert V(q) == pytest.approx(0.5) and reported > V(q) + 0.1


# ---- chapter 5 -----------------------------------------------------------------------------------


@solves("ex-5-1")
def test_masks_are_nested_in_tau(classifier, images):
    maps = attention_maps(images, classifier, classifier.taps())
    low, middle, high = (threshold_mask(maps, tau) for tau in (0.3, 0.8, 0.95))
    assert (low >= middle).all() and (middle >= high).all()
    assert low.mean() > middle.mean() > high.mean() > 0


@solves("ex-5-2")
def test_random_noise_costs_ssni_ten_points_and_uniform_noise_of_no_level():
    def costs(pattern: str) -> list[float]:
        seen = [Outcomes.of(read(f)) for f in sorted(RESULTS.glob(f"cifar10-small/{pattern}"))]
        return [o.single("clean").value - o.single("null").value for o in seen]

    ssni, uniform = costs("ssni--pgd--*.jsonl"), costs("uniform-t=*--pgd--*.jsonl")
    assert len(ssni) == 1 and ssni[0] > 0.1
    assert len(uniform) > 4 and max(uniform) < 0.1


@solves("ex-5-2")
def test_weak_purification_leaves_most_of_the_random_noise():
    lab = benches.load("cifar10-small")
    images = data.load_or_sample(lab.dataset, "test", None).take(4)
    x, near = images.floats, perturb_randomly(images.floats, images.ids, "Linf", 8 / 255, 0)
    left = {}
    for t in (0.01, 0.2):
        weak = Purified(lab.classifier, lab.denoiser, Uniform(t, 1), schedule=lab.schedule)
        noise = weak.noise(4, images.ids)
        with torch.no_grad():
            left[t] = float((weak.purify(near, noise) - weak.purify(x, noise)).norm())
    assert left[0.01] > 0.5 * float((near - x).norm()) > left[0.2]


# ---- chapter 6 -----------------------------------------------------------------------------------


@solves("ex-6-1")
def test_at_these_levels_no_pixel_gets_more_noise_than_uniform_noise_gives():
    stage_1, stage_2 = HetPure(t_l=0.2, t_s=0.05).grid(SCHEDULE)
    visited = [*stage_1, *(s + HetPure().U for s in stage_1[1:]), *stage_2]
    assert max(visited) == stage_1[0] == SCHEDULE.index(0.2)


@solves("ex-6-2")
def test_mirrored_digits_are_other_digits_but_for_0_1_8_and_4():
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    neighbours = pytest.importorskip("sklearn.neighbors").KNeighborsClassifier(5)
    neighbours.fit(digits.data[::2], digits.target[::2])
    images, labels = digits.images[1::2], digits.target[1::2]
    says = lambda pictures: neighbours.predict(pictures.reshape(len(pictures), -1))
    assert (says(images) == labels).mean() > 0.95
    kept = says(images[:, :, ::-1]) == labels
    survives = {d: kept[labels == d].mean() for d in range(10)}
    assert min(survives[d] for d in (0, 1, 4, 8)) > 0.6
    assert np.mean([survives[d] for d in (2, 3, 5, 6, 7, 9)]) < 0.1


# ---- chapter 7 -----------------------------------------------------------------------------------


@solves("ex-7-1")
def test_the_clean_column_does_not_know_the_radius_and_the_null_control_does():
    w = world.two_parts()
    images = w.sample(4, 0)
    found = {}
    for radius in (4, 16):
        attack = RandomNoise("Linf", radius / 255)
        trial = own.Trial("noise", attack, 4, "world")
        defence = w.defended(Uniform(0.2, 1))
        found[radius] = evidence.evaluate(trial, defence, attack, images, torch.device("cpu"))
        null = attack.null(images.floats, images.ids, 0) - images.floats
        assert float(null.abs().max()) == pytest.approx(radius / 255, rel=1e-5)
    clean = [[row["clean"] for row in rows] for rows in found.values()]
    assert clean[0] == clean[1]


# ---- chapter 8 -----------------------------------------------------------------------------------


@solves("ex-8-1")
def test_a_difference_of_2_8_standard_errors_is_found_four_times_in_five():
    assert stats.norm.ppf(0.975) + stats.norm.ppf(0.8) == pytest.approx(2.8, abs=0.005)
    rng, n, sd = np.random.default_rng(0), 64, 0.3
    differences = rng.normal(2.8 * sd / n**0.5, sd, (4000, n))
    errors = differences.std(1, ddof=1) / n**0.5
    assert abs((np.abs(differences.mean(1) / errors) > 1.96).mean() - 0.8) < 0.03


@solves("ex-8-2")
def test_the_loop_over_fractions_is_four_experiments_that_can_be_compared():
    (line,) = re.findall(r"`(for f in .*?done)`", text_of("sol-8-2"))
    values, body = re.fullmatch(r"for f in ([\d. ]+); do hetpure run (.*); done", line).groups()
    parser = argparse.ArgumentParser()
    add_experiment(parser)
    grid = {}
    for f in values.split():
        args = parser.parse_args(shlex.split(body.replace("$f", f)))
        grid[f] = experiment_of(args)
        purifier = specs.parse(grid[f].defence, DEFENCES)[1]
        assert (purifier.mask_kind, purifier.fraction) == ("top-fraction", float(f))
        assert args.attack == ablations.ATTACK and args.n_images == ablations.N_IMAGES
    assert len({e.path() for e in grid.values()}) == 4
    known = ablations.records(ablations.experiments("tau"))
    reference = next(iter(known))
    pairs = ablations.against(known, reference)
    assert reference not in pairs.index and set(pairs.index) < set(known)


@solves("ex-8-3")
def test_a_random_mask_knows_the_area_alone(images):
    noise = keyed(images)
    masks = [torch.zeros_like(images[:, :1]) for _ in range(2)]
    masks[0][..., :2, :] = 1
    masks[1][..., :, 3:5] = 1
    assert torch.equal(*(random_mask(m, noise) for m in masks))
    assert random_mask(masks[0], noise).sum() == masks[0].sum()


@solves("ex-8-4")
def test_the_best_of_equal_points_looks_better_than_it_is():
    right = np.random.default_rng(0).random((2000, 12, 32)) < 0.6  # points, images of one truth
    chosen = right[..., :16].mean(-1).argmax(1)
    best, honest = right.mean(-1).max(1), right[np.arange(2000), chosen, 16:].mean(-1)
    assert best.mean() > 0.6 + 0.1 and abs(honest.mean() - 0.6) < 4 * honest.std() / 2000**0.5


# ---- chapter 9 -----------------------------------------------------------------------------------


@solves("ex-9-2")
def test_a_plane_fitted_to_the_paths_shows_the_most_of_them():
    PCA = pytest.importorskip("sklearn.decomposition").PCA
    rng = np.random.default_rng(0)
    background = rng.normal(size=(100, 64))
    paths = rng.normal(size=(4, 20, 64)).cumsum(1)  # without a direction
    spread, straight = {}, {}
    for name, points in {"background": background, "paths": paths.reshape(-1, 64)}.items():
        shown = PCA(2).fit(points).transform(paths.reshape(-1, 64)).reshape(4, 20, 2)
        lengths = np.linalg.norm(np.diff(shown, axis=1), axis=-1).sum(1)
        spread[name] = shown.reshape(-1, 2).var(0).sum()
        straight[name] = (np.linalg.norm(shown[:, -1] - shown[:, 0], axis=-1) / lengths).mean()
    assert spread["paths"] > 2 * spread["background"]
    assert straight["paths"] > 1.2 * straight["background"]


@solves("ex-9-3")
def test_the_purifier_that_does_nothing_is_nearest(classifier, images):
    near = images + 0.01 * standard_normal(images.shape)
    assert float(inside.distance(classifier, images, images).max()) == 0
    assert float(inside.distance(classifier, near, images).min()) > 0


@solves("ex-9-4")
def test_the_order_of_two_purifiers_can_turn_from_layer_to_layer(classifier, images):
    moved = images.roll(2, -1)  # a pooled feature hardly sees it
    lighter = images + 0.2

    def distances(shown: Tensor) -> tuple[float, float]:
        seen = []
        for x in (shown, images):
            with torch.no_grad(), tapped([classifier.block1, classifier.head]) as activations:
                classifier(x)
            seen.append([a.flatten(1) for a in activations])
        return tuple(float((a - b).norm()) for a, b in zip(*seen))

    (early, late), (early_too, late_too) = distances(moved), distances(lighter)
    assert early > early_too and late < late_too


# ---- chapter 10 ----------------------------------------------------------------------------------


def held_by(steps: int, kept: bool, classifier, denoiser, images) -> tuple[int, float]:
    """Calls of the method in so many steps, and the bytes that one gradient holds."""
    settings = HetPure(steps=steps)
    defended = Purified(classifier, denoiser, settings, checkpointing=not kept)
    cost = measure(defended, images[:1], torch.tensor([0]), ["a"])
    return settings.calls(SCHEDULE), cost.held


@solves("ex-10-1")
def test_held_bytes_of_a_long_chain_are_on_the_line_of_short_ones(classifier, denoiser, images):
    short = [held_by(steps, True, classifier, denoiser, images) for steps in (5, 10, 20)]
    slope, intercept = np.polyfit(*zip(*short), 1)
    calls, held = held_by(100, True, classifier, denoiser, images)
    assert held == pytest.approx(slope * calls + intercept, rel=0.03)
    signature(studies.gradient).bind(None, "paper", 10, 100, False, None, None, None)


@solves("ex-10-2")
def test_gradients_of_purifications_add_up(smoothed):
    x, labels, ids = smoothed.batch(2)
    _, together = loss_and_gradient(smoothed.defence, x, labels, ids, range(4))
    apart = [loss_and_gradient(smoothed.defence, x, labels, ids, [c])[1] for c in range(4)]
    assert torch.allclose(together, sum(apart) / 4, atol=1e-12)
    assert microbatch.rows(torch.device("cpu")) >= 1


@solves("ex-10-3")
@pytest.mark.parametrize("steps", [5, 10, 20, 50])
def test_at_u_2_the_single_step_is_as_cheap_as_repetition(steps):
    calls = lambda U, reading: HetPure(U=U, steps=steps, reading=reading).calls(SCHEDULE)
    assert calls(2, "paper") == calls(2, "multi-step")
    assert calls(1, "paper") > calls(1, "multi-step")
    assert calls(3, "paper") < calls(3, "multi-step")
    grids = [HetPure(steps=steps, reading=r).grid(SCHEDULE) for r in ("released", "paper")]
    n_released, n_paper = (sum(len(times) - 1 for times in grid) for grid in grids)
    assert calls(10, "released") == n_released <= calls(1, "multi-step") and n_released < n_paper


@solves("ex-10-4")
def test_two_steps_fit_and_a_recomputed_call_holds_an_image(classifier, denoiser, images):
    fit = 24 // 5
    calls = [HetPure(steps=steps).calls(SCHEDULE) for steps in (2, 3)]
    assert calls == [3, 5] and calls[0] <= fit < calls[1]
    few, many = (held_by(steps, False, classifier, denoiser, images) for steps in (5, 10))
    per_call = (many[1] - few[1]) / (many[0] - few[0])
    one = images[:1].numel() * images.element_size()
    assert 0.5 * one < per_call < 2 * one


# ---- chapter 11 ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Blur:
    """Gaussian blur, and no call of the denoiser."""

    def mask(self, images, classifier, taps, noise) -> None:
        """None."""

    def plan(self, x_adv, mask, eps, noise, schedule):
        line = torch.tensor([1.0, 2.0, 1.0]).to(x_adv) / 4
        kernel = (line[:, None] * line).expand(3, 1, 3, 3)
        return [(0, lambda x: F.conv2d(F.pad(x, (1, 1, 1, 1), "replicate"), kernel, groups=3))]

    def calls(self, schedule) -> int:
        return 0


@solves("ex-11-1")
def test_a_blur_is_a_purifier_and_features_do_not_call_it_random(classifier, images):
    register("blur-of-an-exercise", Capabilities(randomised=False))(Blur)
    try:
        row = features.row("blur-of-an-exercise")
    finally:
        DEFENCES.pop("blur-of-an-exercise")
    assert (row["calls"], row["random"], row["mask"]) == (0, False, False)
    defended = assemble(Blur(), classifier, NoDenoiser())
    flat = torch.full_like(images, 0.3)
    assert torch.allclose(defended.purify(flat, keyed(flat)), flat)
    assert defended.purify(images, keyed(images)).std() < images.std()


@solves("ex-11-2")
def test_one_loop_and_all_of_them_are_scored_on_the_same_images_and_copies(
    classifier, denoiser, images
):
    calls, right = {}, {}
    for spec in ("gradual:levels=125,steps=9", "gradual"):
        purifier = specs.parse(spec, DEFENCES)[1]
        calls[spec] = purifier.calls(SCHEDULE)
        defended = assemble(purifier, classifier, denoiser)
        said = logits_of(defended, images, ["a", "b", "c", "d"], range(3)).argmax(-1)
        right[spec] = (said == 0).double().mean(0).numpy()
    assert list(calls.values()) == [9, 34]
    assert paired_difference(*right.values()).n == len(images)


@solves("ex-11-3")
def test_guidance_that_cancels_the_estimate_is_no_defence(classifier, denoiser, images):
    settings = RandomSampling(t=0.1, steps=1)
    cancelling = float(SCHEDULE.abar[SCHEDULE.index(0.1)]) ** -0.5
    defended = assemble(replace(settings, guidance=cancelling), classifier, denoiser)
    x, noise = images.clone().requires_grad_(), keyed(images)
    assert torch.allclose(defended.purify(x, noise), x, atol=1e-5)
    through = torch.autograd.grad(defended.purify(x, noise).sum(), x)[0]
    assert torch.allclose(through, torch.ones_like(x), atol=1e-5)
    plain = assemble(settings, classifier, denoiser).purify(images, noise)
    assert not torch.allclose(plain, images, atol=1e-2)


@solves("ex-11-4")
def test_the_image_gradient_takes_the_area_of_attention_and_a_share_does_not(classifier, images):
    looked_at = (images, classifier, classifier.taps(), keyed(images))
    area = lambda purifier: purifier.mask(*looked_at).sum((1, 2, 3))
    attention = area(HetPure(tau=0.6))
    assert torch.equal(area(ImageGradient(tau=0.6)), attention)
    share = area(HetPure(mask_kind="top-fraction", fraction=0.25))
    assert len(set(attention.tolist())) > 1 and len(set(share.tolist())) == 1


# ---- chapter 12 ----------------------------------------------------------------------------------


def audited(function: Callable[[Tensor], Tensor]) -> dict[str, str]:
    """The verdicts on a purifier in the small world, by check."""
    w = world.two_parts()
    case = own.own(function, w.bench(), w.sample(6, 0), iterations=4, eot=1, K=4, quiet=True)
    return {check.name: verdict.state for check, verdict in checks.checklist(case)}


@solves("ex-12-1")
def test_a_straight_through_round_is_inexact_instead_of_nought():
    def coarse(images: Tensor) -> Tensor:
        noisy = images + 0.05 * torch.randn_like(images)
        return ((noisy * 8).round() / 8).clamp(0, 1)

    through = lambda images: images + (coarse(images) - images).detach()
    hidden, shown = audited(coarse), audited(through)
    assert hidden["exact gradient"] == shown["exact gradient"] == "failed"
    assert hidden["records"] == "failed" != shown["records"]
    bench, images = world.two_parts().bench(), world.two_parts().sample(2, 0)
    found = []
    for function, gradient in ((through, "exact"), (coarse, "bpda")):
        defence = Purified(bench.classifier, own.Called(function), own.OneCall())
        attack = PGD(iterations=2, eot=2, confirm=0, gradient=gradient)
        found.append(attack.run(defence, images.floats, images.labels, images.ids, 0)[0])
    assert torch.equal(*found) and not torch.equal(found[0], images.floats)


@solves("ex-12-2")
def test_state_that_survives_a_call_is_noticed():
    calls = []

    def more_and_more(images: Tensor) -> Tensor:
        calls.append(1)
        return images + 0.001 * len(calls) * torch.randn_like(images)

    assert audited(more_and_more)["fresh noise"] == "failed"
    assert audited(lambda x: x + 0.05 * torch.randn_like(x))["fresh noise"] == "passed"


@solves("ex-12-3")
def test_how_many_images_a_check_needs():
    wanted = lambda quantiles: (quantiles * 0.3 / checks.TOLERANCE) ** 2
    assert wanted(1.96) == pytest.approx(140, abs=5)
    assert wanted(1.96 + 0.84) == pytest.approx(280, abs=5)
    rng = np.random.default_rng(0)
    for n, share in ((140, 0.5), (280, 0.8)):
        upper = rng.normal(0, 0.3, (4000, n)).mean(1) + 1.96 * 0.3 / n**0.5
        assert abs((upper < checks.TOLERANCE).mean() - share) < 0.04


@solves("ex-12-4")
def test_the_worst_of_seven_coins_seems_to_lose_fifteen_points():
    at_least = stats.binom.sf(np.arange(20), 20, 0.5) ** 7  # that all seven have more than k
    worst = at_least.sum() / 20
    assert worst == pytest.approx(0.5 - 1.35 * 0.5 / 20**0.5, abs=0.01)
    assert 0.5 - worst == pytest.approx(0.15, abs=0.01)


@solves("ex-12-5")
def test_a_batch_and_its_reverse_score_alike(smoothed):
    def judge(defence, x: Tensor, ids: list[str]) -> checks.Verdict:
        forth, back = (logits_of(defence, x[o], [ids[i] for i in o], range(3)) for o in orders)
        same = torch.equal(forth, back.flip(1))
        return checks.Verdict("passed" if same else "failed")

    x, _, ids = smoothed.batch(6)
    x = (x + 0.1 * torch.rand(6, 1, 1, 1)).clamp(0, 1)
    orders = [list(range(6)), list(range(6))[::-1]]
    assert judge(smoothed.defence, x, ids).state == "passed"
    by_place = lambda x, ids, copies: torch.arange(len(x) * 2.0).reshape(len(x), 2)
    assert judge(by_place, x, ids).state == "failed"


# ---- chapter 13 ----------------------------------------------------------------------------------

EPS = 8 / 255
TWO_LEVELS = HetPure(t_l=0.4, t_s=0.05, steps=6)


@solves("ex-13-1")
def test_the_right_mask_stops_to_help_where_the_attack_stops_to_overturn_the_texture():
    texture = world.mask_of(world.two_parts(), 1.0, EPS)
    gained, looks = {}, {}
    for weak in (0.045, 0.06, 2 * EPS, 0.07):
        w = world.two_parts(weak=weak)
        masked = world.Truth(w, TWO_LEVELS, texture)
        bare = world.Truth(w).accuracy("Linf", EPS).value
        gained[weak] = masked.voted("Linf", EPS, images=256).value - bare
        looks[weak] = masked.accuracy("Linf", EPS, 2**11, scrambles=2).value - bare
    alone = world.Truth(w := world.two_parts(weak=2 * EPS), weights=w.bayes * texture)
    assert alone.accuracy("Linf", EPS).value == pytest.approx(0.5)
    assert alone.accuracy().value > 0.9
    assert gained[0.045] > gained[0.06] > 0 > gained[0.07] and abs(gained[2 * EPS]) < 0.05
    assert looks[0.045] > 0.05 > 0 > looks[0.06]  # a single look also pays for the noise


@solves("ex-13-2")
def test_the_vote_of_a_wrong_mask_loses_more_than_its_single_look():
    w = world.two_parts()
    wrong = world.Truth(w, TWO_LEVELS, world.mask_of(w, 0.0, EPS))
    look, vote = wrong.accuracy("Linf", EPS, 2**12).value, wrong.voted("Linf", EPS).value
    assert vote < look - 0.1 and look < 0.5


@solves("ex-13-3")
def test_with_three_means_the_posterior_mean_has_more_than_one_number():
    p, level = world.two_parts().pattern, (0.6, 0.8)
    mean, third = 0.3 * p / p.norm(), 0.3 * p.flip(-1, 0) / p.norm()
    third = third - (third * mean).sum() / mean.square().sum() * mean  # at right angles
    two = world.Mixture(torch.stack([-mean, mean]), 0.15, (0.5, 0.5))
    three = world.Mixture(torch.stack([-mean, mean, third]), 0.15, (0.3, 0.3, 0.4))
    x = standard_normal((1, *p.shape))
    seen = lambda mixture, x: float((mixture.posterior_mean(x, level) * mean).sum())
    shift = 3 * third / third.norm()  # changes no distance to the border of the first two
    assert seen(two, x) == pytest.approx(seen(two, x + shift))
    assert seen(three, x) != pytest.approx(seen(three, x + shift), rel=0.01)


@solves("ex-13-3")
def test_purification_moves_an_image_across_a_border_of_three_and_tweedie_holds():
    p = world.two_parts().pattern
    line = world.Mixture(torch.stack([-p, 0 * p, p]), 0.15, (1 / 3,) * 3)
    x0 = 0.55 * p[None]  # just on the side of the third
    t = SCHEDULE.index(0.5)
    a, b = SCHEDULE.signal_and_noise(t, x0)
    xt = (a * x0).requires_grad_()
    eps = world.ExactDenoiser(line, SCHEDULE)(xt, torch.tensor([t]))
    purified = x0_xt(xt, t, eps, SCHEDULE)
    assert line.posterior(x0).argmax() == 2 and line.posterior(purified.detach()).argmax() == 1
    density = line.log_joint(xt, (a, b)).logsumexp(1).sum()
    tweedie = (xt + b**2 * torch.autograd.grad(density, xt)[0]) / a
    assert torch.allclose(purified, tweedie)


# ---- chapter 14 ----------------------------------------------------------------------------------


@solves("ex-14-1")
def test_three_calls_each_with_a_mask_of_its_own(images):
    command = re.search(r"`hetpure run (.*?)`", text_of("sol-14-1"), re.DOTALL)[1]
    parser = argparse.ArgumentParser()
    add_experiment(parser)
    experiment = experiment_of(parser.parse_args(shlex.split(command)))
    purifier = specs.parse(experiment.defence, DEFENCES)[1]
    assert purifier.calls(SCHEDULE) == purifier.loops == 3
    first = purifier.mask(images, None, [], keyed(images))
    masks = [purifier.redrawn(first, keyed(images, loop)) for loop in (1, 2)]
    assert not any(torch.equal(first, m) for m in masks) and not torch.equal(*masks)
    assert all(torch.equal(m.sum((1, 2, 3)), first.sum((1, 2, 3))) for m in masks)
    setting = premise.Setting(experiment.bench, experiment.attack)
    assert premise.rows(setting, {"half": "noise-map", "three": experiment.defence})


# ---- chapter 15 ----------------------------------------------------------------------------------


@solves("ex-15-1")
def test_the_radius_of_votes_that_agree_grows_like_the_root_of_a_logarithm():
    alpha, sigma = 0.001, 1.0
    bound = [certify.at_least(n, n, alpha) for n in (500, 1000, 10_000)]
    assert bound == pytest.approx([alpha ** (1 / n) for n in (500, 1000, 10_000)])
    radii = [sigma * stats.norm.ppf(p) for p in bound]
    assert 1 < radii[1] / radii[0] < 1.15 and 1 < radii[2] / radii[1] < 1.35
    ratios = [
        -stats.norm.ppf(-math.expm1(math.log(alpha) / n)) / math.sqrt(2 * math.log(n))
        for n in (1e3, 1e6, 1e12, 1e24, 1e48)
    ]
    assert ratios == sorted(ratios) and 0.9 < ratios[-1] < 1


@solves("ex-15-2")
def test_a_method_that_sees_one_noisy_image_does_not_tell_two_images_apart(classifier, images):
    settings, t_l, t_s = HetPure(), SCHEDULE.index(0.2), SCHEDULE.index(0.05)

    def seen(x: Tensor, weak: Tensor, mask_of_noisy: bool) -> tuple[Tensor, Tensor]:
        """The mask, and the state at t_l: the rest of the noise on top inside, Eq 6 outside."""
        noisy, noise = q_xt_x0(2 * x - 1, t_s, weak, SCHEDULE), keyed(x)
        looked_at = ((noisy + 1) / 2).clamp(0, 1) if mask_of_noisy else x
        mask = settings.mask(looked_at, classifier, classifier.taps(), noise)
        inside, outside = (
            q_xt_xs(noisy, t_s, t_l, noise(draw, x), SCHEDULE) for draw in ("inside", "outside")
        )
        return mask, merge(mask, inside, outside)

    other, weak = images.flip(-1), keyed(images)("weak", images)
    signal, sigma = SCHEDULE.signal_and_noise(t_s, images)
    same = weak + signal / sigma * 2 * (images - other)  # it takes the one where the other is
    for a, b in zip(seen(images, weak, True), seen(other, same, True)):
        assert torch.allclose(a, b)
    assert not torch.equal(seen(images, weak, False)[0], seen(other, same, False)[0])
