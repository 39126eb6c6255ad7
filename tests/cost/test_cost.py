"""The planner: counts against published ones and against real runs, the arithmetic of cells and
tables, and the protocols behind them.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import re
import shlex
from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import set_checkpoint_early_stop
from torch.utils.flop_counter import FlopCounterMode

import hetpure_core
from hetpure_core import HetPure, Purified, Uniform, linear_schedule
from hetpure_lab import attacks, defences, evidence
from hetpure_lab.attacks import ATTACKS, PGD
from hetpure_lab.attacks.gradients import GRADIENTS
from hetpure_lab.common import microbatch, specs
from hetpure_lab.common.measure import LiveBytes
from hetpure_lab.cost import arithmetic, planner
from hetpure_lab.cost.planner import Costs, Rates, Work, costs, count, gradient_flops
from hetpure_lab.defences import adversarial_training, atop, behind, pixeldefend
from hetpure_lab.defences.adp import ADP
from hetpure_lab.defences.contrastive import Contrastive
from hetpure_lab.defences.densepure import DensePure
from hetpure_lab.defences.gdmp import GDMP
from hetpure_lab.defences.gradual import Gradual
from hetpure_lab.defences.mimic import MimicDiffusion
from hetpure_lab.defences.pursamere import SharpnessAware
from hetpure_lab.defences.scoreopt import ScoreOpt
from hetpure_lab.defences.ssni import SSNI
from hetpure_lab.evidence import backlog
from hetpure_lab.networks import benches, precision
from hetpure_lab.networks.small import build
from hetpure_lab.paper import printed, protocols
from hetpure_lab.paper.budgets import BUDGETS
from hetpure_lab.paper.protocols import PROTOCOLS

SCHEDULE = linear_schedule()

# GFLOP per forward pass, counted by others on the public implementations; the difference is in how
# they write upsampling and attention.
PUBLISHED = {
    "cifar10-paper": (10.5, 42.4),
    "cifar10-paper-released": (10.5, 37.1),
    "cifar10-paper-wrn70": (77.5, 42.4),
    "imagenet-paper": (8.2, 2240),
}


@pytest.mark.parametrize("bench", PUBLISHED)
def test_networks_cost_what_others_counted(bench):
    c = costs(bench)
    assert (c.classifier.forward / 1e9, c.denoiser.forward / 1e9) == pytest.approx(
        PUBLISHED[bench], rel=0.02
    )
    # to the input only: no gradients of weights
    assert c.denoiser.backward == pytest.approx(c.denoiser.forward, rel=0.03)


@pytest.mark.parametrize(
    "bench, exaflop",
    [("cifar10-paper-released", 3.1), ("cifar10-paper", 3.5), ("cifar10-paper-wrn70", 4.0)],
)
def test_one_cell_of_table_1_costs_what_the_survey_says(bench, exaflop):
    """512 images, 200 iterations, 20 copies, 20 denoiser calls and the mask, all activations
    kept.
    """
    assert 512 * 200 * 20 * gradient_flops(
        costs(bench), 20, masked=True, checkpointing=False
    ) / 1e18 == pytest.approx(exaflop, abs=0.06)


def test_checkpointing_costs_one_more_forward_pass_per_call():
    c = costs("cifar10-paper")
    assert (
        gradient_flops(c, 20, True) - gradient_flops(c, 20, True, checkpointing=False)
        == 20 * c.denoiser.forward
    )
    assert 512 * 200 * 20 * gradient_flops(c, 20, False) / 1e18 == pytest.approx(5.3, abs=0.1)


def test_the_randomised_autoattack_takes_the_gradients_that_others_counted():
    assert protocols.table(1).attack("AutoAttack").purifications()[1] == 4040


def tiny(classifier, denoiser) -> Costs:
    return Costs(count(classifier, 8), count(denoiser, 8, torch.full((1,), 100)), 8)


@pytest.fixture
def networks(classifier, denoiser):
    return classifier.float(), denoiser.float()


@pytest.mark.parametrize(
    "purifier", [Uniform(0.1, 3), HetPure(steps=4), HetPure(reading="released"), Uniform(0.1, 30)]
)
def test_counted_flops_are_those_of_a_real_run(networks, purifier):
    defended, x = Purified(*networks, purifier), torch.rand(2, 3, 8, 8, requires_grad=True)
    c, calls = tiny(*networks), purifier.calls(SCHEDULE)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        defended(x, range(2))
    work = planner.predictions(c, purifier, 2, SCHEDULE)
    assert counter.get_total_flops() == work.forward and work.calls == 2 * calls
    with FlopCounterMode(display=False) as counter, set_checkpoint_early_stop(False):
        defended(x, range(2)).sum().backward()
    assert counter.get_total_flops() == planner.gradients(c, purifier, 2, SCHEDULE).gradient


class NoModules(contextlib.nullcontext):
    """In place of the counter's own tracker of modules, which cannot follow
    `torch.autograd.grad`.
    """

    parents = ("Global",)


def flops_of_one_step(defence, x, copies: int) -> int:
    """Of a gradient over `copies` of every image, as an attack takes it."""
    labels, counter = torch.zeros(len(x), dtype=torch.long), FlopCounterMode(display=False)
    counter.mod_tracker = NoModules()
    with counter, set_checkpoint_early_stop(False):
        attacks.loss_and_gradient(defence, x, labels, range(len(x)), range(copies))
    return counter.get_total_flops()


@pytest.mark.parametrize(
    "purifier", [Uniform(0.1, 3), HetPure(steps=4), HetPure(steps=4, mask_kind="random")]
)
def test_a_mask_that_copies_share_is_counted_once_per_image(networks, purifier):
    """2 images with 5 copies have 2 masks, unless each copy draws its own."""
    defended, c = Purified(*networks, purifier), tiny(*networks)
    assert (
        flops_of_one_step(defended, torch.rand(2, 3, 8, 8), 5)
        == planner.gradients(c, purifier, 10, SCHEDULE, together=5).gradient
    )
    attack = PGD(iterations=1, eot=5, confirm=0)
    assert planner.attack_work(c, purifier, attack, 2, SCHEDULE) == planner.gradients(
        c, purifier, 10, SCHEDULE, together=5
    )
    with FlopCounterMode(display=False) as counter:
        attacks.logits_of(defended, torch.rand(2, 3, 8, 8), range(2), range(6))
    assert (
        counter.get_total_flops()
        == planner.predictions(c, purifier, 12, SCHEDULE, together=6).forward
    )


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("purifier", [HetPure(steps=4), Uniform(0.1, 4)])
def test_every_gradient_costs_what_a_real_one_does(networks, purifier, gradient):
    """But for the classifier's head, which has no part in the derivative of a mask."""
    seen = attacks.seen_by_the_attack(Purified(*networks, purifier), gradient)
    counted = planner.gradients(tiny(*networks), purifier, 6, SCHEDULE, gradient, together=3)
    assert flops_of_one_step(seen, torch.rand(2, 3, 8, 8), 3) == pytest.approx(
        counted.gradient, rel=1e-3
    )
    assert (counted.calls == 0) is (gradient == "undefended")


def test_an_unknown_gradient_has_no_price():
    with pytest.raises(ValueError, match="unknown gradient 'none'"):
        planner.gradients(costs("cifar10-small"), HetPure(), 1, SCHEDULE, "none")


def test_every_restart_is_charged():
    c, attack = costs("cifar10-small"), PGD(iterations=5, eot=2, random_start=True, confirm=0)
    once, twice = (
        planner.attack_work(c, HetPure(), replace(attack, restarts=n), 3, SCHEDULE) for n in (1, 2)
    )
    assert twice.gradient == 2 * once.gradient


def test_memory_per_row_is_near_that_of_a_real_run(networks):
    purifier, peaks = Uniform(0.1, 10), []
    for rows in (8, 16):
        x = torch.rand(rows, 3, 8, 8, requires_grad=True)
        with LiveBytes() as meter:
            Purified(*networks, purifier)(x, range(rows)).sum().backward()
        peaks.append(meter.peak)
    row = (peaks[1] - peaks[0]) / 8
    assert 0.7 * row < tiny(*networks).row_bytes(purifier) < 1.6 * row


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize(
    "purifier",
    [Contrastive(steps=3), ScoreOpt(steps=4), SharpnessAware(), DensePure(votes=2, steps=4)],
    ids=lambda p: type(p).__name__,
)
def test_memory_is_also_that_of_guidance_and_votes(purifier, checkpointing):
    classifier, denoiser = build("wrn_16_2"), build("unet_64_64")
    defended = defences.assemble(purifier, classifier, denoiser, checkpointing=checkpointing)
    c = Costs(count(classifier, 32), count(denoiser, 32, torch.full((1,), 100)), 32, checkpointing)
    assert c.row_bytes(purifier) == pytest.approx(
        microbatch._bytes_of_gradient(defended, torch.rand(1, 3, 32, 32)), rel=0.25
    )


def test_a_surrogate_and_bpda_cost_less_than_the_exact_gradient():
    c, method = costs("cifar10-small"), HetPure()
    flops = [
        planner.gradients(c, method, 1, SCHEDULE, kind).flops
        for kind in ("bpda", "surrogate", "surrogate-masked", "exact")
    ]
    assert (
        max(flops[:3]) < flops[3] and flops[0] > planner.predictions(c, method, 1, SCHEDULE).flops
    )


def test_an_undefended_classifier_has_no_denoiser_calls():
    work = planner.cell_work(
        costs("cifar10-small"), None, PGD(iterations=3, eot=2, confirm=0), 5, 20, SCHEDULE
    )
    c = costs("cifar10-small").classifier
    assert work == Work(0, 3 * 5 * 2 * c.forward // 2, 5 * 3 * 2 * (c.forward + c.backward))


def test_iterations_that_were_saved_are_not_charged():
    c, attack = costs("cifar10-small"), PGD(iterations=20, eot=8)
    full, half = (
        planner.attack_work(c, HetPure(), attack, 10, SCHEDULE, spent=spent)
        for spent in (None, [10] * 10)
    )
    assert 2 * half.gradient == full.gradient and half.forward < full.forward


@pytest.mark.parametrize("more", [{}, {"restarts": 2, "random_start": True, "keep": "best"}])
@pytest.mark.parametrize("early", [True, False])
def test_predictions_that_confirm_failures_are_counted_one_by_one(early, more, networks, images):
    """On images that the classifier gets wrong, which are set aside at the first look, and on
    images that it never does.
    """
    defended, images = Purified(*networks, Uniform(0.01, 2), checkpointing=False), images.float()
    attack = PGD(iterations=7, eot=1, eps=1e-9, confirm=6, confirm_every=2, **more)
    with torch.no_grad():
        right = networks[0](images).argmax(1)
    with evidence.Calls(defended) as calls:
        _, spent = attack.run(defended, images, (right + 1) % 5 if early else right, list(range(4)))
    work = planner.attack_work(
        tiny(*networks), defended.purifier, attack, 4, SCHEDULE, spent=spent.tolist()
    )
    assert spent.tolist() == [2 if early else 7 * attack.restarts] * 4 and calls.rows == work.calls


def test_a_table_is_the_sum_of_its_cells_and_runs():
    found = planner.plan("cifar10-paper", BUDGETS["paper"], 1)
    assert found["flops"] == sum(c["flops"] for c in found["cells"]) and found["calls"] == sum(
        c["calls"] for c in found["cells"]
    )
    assert found["hours"] == pytest.approx(sum(c["hours"] for c in found["cells"]))
    lines = protocols.queue(protocols.under(BUDGETS["paper"], "cifar10-paper", 1))
    assert {(c["row"], c["column"]) for c in found["cells"]} == {
        (line.row, line.column) for line in lines
    }
    assert sum(c["runs"] for c in found["cells"]) == len(lines)
    one = planner.plan("cifar10-paper", BUDGETS["paper"])
    cell = next(c for c in found["cells"] if (c["row"], c["column"]) == ("the method", "PGD+EOT"))
    assert one["flops"] * cell["runs"] == cell["flops"] and cell["runs"] == 3
    assert one["hours_on"]["A100"] > one["hours_on"]["H100"] == pytest.approx(one["hours"])


def test_a_smaller_budget_cuts_autoattack_too():
    cells = planner.plan("cifar10-paper", BUDGETS["smoke"], 1)["cells"]
    pgd, auto = (
        next(c for c in cells if (c["row"], c["column"]) == ("the method", column))
        for column in ("PGD+EOT", "AutoAttack")
    )
    assert auto["iterations"] == pgd["iterations"] == 2 and auto["calls"] < 4 * pgd["calls"]


def test_a_smaller_budget_costs_less_on_every_paper_bench():
    for bench in ("cifar10-paper", "svhn-paper", "imagenet-paper"):
        smoke, paper = (planner.plan(bench, BUDGETS[b]) for b in ("smoke", "paper"))
        assert 0 < smoke["flops"] < paper["flops"] / 100


def test_a_planned_microbatch_fills_half_of_the_free_memory_and_no_more():
    c, method = costs("cifar10-paper"), HetPure()
    for machine, kept in (("RTX 4090", False), ("H200", True)):
        fit, rows = planner.fitted(c, method, machine)
        room = (planner.MACHINES[machine].memory - c.weights) / 2
        assert fit.checkpointing is not kept and rows * fit.row_bytes(method) <= room < (
            rows + 1
        ) * fit.row_bytes(method)


def test_the_planner_chooses_rows_and_recomputation_as_a_run_does(networks, monkeypatch):
    """Counted bytes decide as measured ones do, with much, with some and with little memory."""
    defended, c = Purified(*networks, Uniform(0.1, 10)), tiny(*networks)
    monkeypatch.setattr(microbatch, "_rows", {})
    for room in (10**8, 3 * 10**6, 3 * 10**5):
        monkeypatch.setattr(microbatch, "CPU_BUDGET", room)
        microbatch.fit(defended, torch.rand(1, 3, 8, 8))
        fit, rows = c.on(room, defended.purifier, "cpu")
        assert fit.checkpointing is defended.checkpointing
        assert rows == pytest.approx(microbatch.rows(torch.device("cpu")), rel=0.6)


def test_a_machine_without_room_for_one_image_is_named(monkeypatch):
    small = planner.Machine("card", 1e12, 0.5, 4e9, "made up")
    monkeypatch.setitem(planner.MACHINES, "card", small)
    with pytest.raises(ValueError, match="one image needs 7.. GB of memory, card has 4"):
        planner.plan("imagenet-paper", BUDGETS["smoke"], machine="card")
    assert "card: too little memory" in planner.summary(
        planner.plan("imagenet-paper", BUDGETS["smoke"])
    )
    assert (
        "one image needs"
        in planner.outlook("imagenet-paper", BUDGETS["smoke"]).loc["card", "activations"]
    )


def test_keeping_activations_costs_memory_and_saves_a_forward_pass_per_call():
    c = costs("cifar10-paper")
    kept = replace(c, checkpointing=False)
    flops = [planner.gradients(x, Uniform(0.1), 1, SCHEDULE).gradient for x in (c, kept)]
    assert flops[0] - flops[1] == Uniform(0.1).calls(SCHEDULE) * c.denoiser.forward
    assert kept.row_bytes(Uniform(0.1, 20)) > 15 * c.row_bytes(Uniform(0.1, 20))


def test_the_command_prints_its_keys(capsys):
    planner.main("--bench cifar10-paper --budget paper --table 1 --json".split())
    found = json.loads(capsys.readouterr().out)
    assert all(found[key] > 0 for key in ("flops", "calls", "bytes", "hours"))
    with pytest.raises(ValueError, match="unknown machine 'abacus'"):
        planner.main("--bench cifar10-paper --on abacus".split())


def test_calibration_divides_counted_work_by_measured_seconds(monkeypatch):
    monkeypatch.setattr(planner, "fastest", lambda work, *_: 2.0)
    bench = benches.load("cifar10-small")
    monkeypatch.setattr(microbatch, "_rows", {})
    rates, c = planner.calibrate(bench, rows=4), costs("cifar10-small")
    c = c.on(microbatch.CPU_BUDGET, bench.method, "cpu")[0]
    for work in (planner.predictions, planner.gradients):
        assert rates.seconds(work(c, bench.method, 4, SCHEDULE)) == pytest.approx(2.0)


def test_records_are_compared_with_the_prediction_for_what_they_spent(monkeypatch, tmp_path):
    config = evidence.Experiment("uniform:t=0.1", "pgd:iterations=4,eot=2").config
    same = {"config": config, "seconds": 9.0, "cpu_seconds": 3.0, "device": "cpu"}
    records = {str(i): same | {"iterations": spent} for i, spent in enumerate((4, 2))}
    monkeypatch.setattr(evidence, "files", lambda: [tmp_path / "one.jsonl"])
    monkeypatch.setattr(evidence, "read", lambda path: records)
    (line,) = planner.measured("cifar10-small", Rates(1e9, 1e9))
    attack = PGD(iterations=4, eot=2)
    price = lambda again: planner.cell_work(
        replace(costs("cifar10-small"), checkpointing=again),
        Uniform(0.1),
        attack,
        2,
        20,
        SCHEDULE,
        spent=[4, 2],
    )
    work = price(False)
    assert line["n"] == 2 and line["predicted"] == pytest.approx(work.flops / 1e9 / 2)
    assert line["clock"] == "cpu_seconds" and line["ratio"] == pytest.approx(line["predicted"] / 3)
    twice = [r | {"denoiser_calls": work.calls} for r in records.values()]
    slower = planner.predicted(twice, Rates(1e9, 1e9))["predicted"]
    assert slower == pytest.approx(price(True).flops / 1e9 / 2) and slower > line["predicted"]
    del records["0"]["cpu_seconds"]
    assert planner.predicted(list(records.values()), Rates(1e9, 1e9))["ratio"] == pytest.approx(
        line["predicted"] / 9
    )


def test_what_the_planner_has_no_formula_for_is_not_predicted():
    config = evidence.Experiment("hetpure", "pgd").config
    square = config | {"attack": config["attack"] | {"name": "square"}}
    assert (
        planner.predicted(
            [{"config": square, "iterations": 1, "seconds": 1.0, "device": "cpu"}], Rates(1e9, 1e9)
        )
        is None
    )


GUIDED = [
    Contrastive(steps=3),
    ScoreOpt(steps=2),
    SharpnessAware(steps=2),
    GDMP(steps=2, loops=2),
    MimicDiffusion(steps=4),
    SSNI(steps=2, probes=2),
    ADP(steps=2),
    DensePure(votes=3),
    Gradual(),
]


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("purifier", GUIDED, ids=lambda p: type(p).__name__)
def test_rivals_cost_what_a_real_run_does_with_all_that_guidance_computes(
    networks, purifier, checkpointing
):
    """Within 3 % where it is differentiated again; else exactly."""
    defended, x = (
        defences.assemble(purifier, *networks, checkpointing=checkpointing),
        torch.rand(2, 3, 8, 8),
    )
    c, counter = (
        replace(tiny(*networks), checkpointing=checkpointing),
        FlopCounterMode(display=False),
    )
    counter.mod_tracker = NoModules()
    with counter, set_checkpoint_early_stop(False):
        attacks.logits_of(defended, x, range(2), [0])
    work = planner.predictions(c, purifier, 2, SCHEDULE)
    assert work.forward == counter.get_total_flops() and work.calls == 2 * getattr(
        purifier, "votes", 1
    ) * purifier.calls(SCHEDULE)
    passes = planner.passes(purifier, True)
    second = passes.classifier["second"] + passes.denoiser["second"]
    assert planner.gradients(c, purifier, 2, SCHEDULE).gradient == pytest.approx(
        flops_of_one_step(defended, x, 1), rel=0.03 * bool(second)
    )
    assert bool(second) == isinstance(purifier, Contrastive | ScoreOpt | SharpnessAware)


def test_guidance_in_a_chain_that_is_cut_into_segments_is_recomputed_with_it_once(
    networks, monkeypatch
):
    monkeypatch.setattr(hetpure_core, "FLAT_UP_TO", 3)
    planner.passes.cache_clear()
    purifier, c = Contrastive(steps=5), tiny(*networks)
    real = flops_of_one_step(defences.assemble(purifier, *networks), torch.rand(1, 3, 8, 8), 1)
    assert planner.gradients(c, purifier, 1, SCHEDULE).gradient == pytest.approx(real, rel=0.03)
    again = planner.passes(purifier, True).classifier["forward"]
    planner.passes.cache_clear()
    monkeypatch.undo()
    once = planner.passes(purifier, True).classifier["forward"]
    # a step looks twice, twice more if recomputed, and once in the backward pass
    assert (once, again) == (1 + 5 * 3, 1 + 5 * 5)


@pytest.mark.parametrize("network, times", [("wrn_16_2", 0), ("unet_64_64", 1)])
def test_a_second_derivative_costs_a_backward_and_two_forward_passes_more(network, times):
    with torch.device("meta"):
        built = build(network).eval().requires_grad_(False)
        x, t = torch.empty(1, 3, 32, 32, requires_grad=True), torch.empty(1, dtype=torch.long)
    counted, counter = count(built, 32, *[t] * times), FlopCounterMode(display=False)
    counter.mod_tracker = NoModules()
    with counter:
        (gradient,) = torch.autograd.grad(
            built(x, *[t] * times).square().sum(), x, create_graph=True
        )
        once = counter.get_total_flops()
        gradient.square().sum().backward()
    assert counter.get_total_flops() - once == pytest.approx(
        counted.backward + 2 * counted.forward, rel=0.05
    )


class Wider(nn.Module):
    """A classifier that is not the bench's."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.SiLU(), nn.Flatten(), nn.Linear(16 * 64, 5)
        )

    def forward(self, x):
        return self.net(x)


def test_a_classifier_of_another_width_has_its_own_price(networks, monkeypatch):
    """Behind an adversarially trained network the bench's does not run, and AToP's is not
    checkpointed.
    """
    wider, (classifier, denoiser) = Wider(), networks
    named = {
        "cifar10-small-pgd-at-l2": wider,
        "cifar10-small-classifier": classifier,
        "cifar10-small-atop": denoiser,
    }
    monkeypatch.setattr(planner, "costs", lambda name: tiny(*networks))
    monkeypatch.setattr(planner, "_on_meta", lambda name: copy.deepcopy(named[name]).to("meta"))
    x, at, repairs = (
        torch.rand(2, 3, 8, 8),
        adversarial_training.AdversarialTraining("pgd-at-l2"),
        atop.AToP(),
    )
    for purifier, defence in (
        (at, attacks.Undefended(wider)),
        (repairs, behind.Behind(classifier, repairs, denoiser)),
    ):
        c = planner.costs_of.__wrapped__("cifar10-small", purifier)
        work = planner.attack_work(c, purifier, PGD(iterations=1, eot=3, confirm=0), 2, SCHEDULE)
        assert work.gradient == flops_of_one_step(
            defence, x, 3
        ) and work.calls == 2 * 3 * purifier.calls(SCHEDULE)
    assert count(wider, 8).forward > 1.5 * c.classifier.forward


def test_a_published_network_is_counted_by_the_depth_and_width_in_its_name():
    behind = planner.costs_of(
        "cifar10-paper-wrn70",
        adversarial_training.AdversarialTraining("Linf/Gowal2020Uncovering_28_10_extra"),
    )
    assert behind.classifier.forward == pytest.approx(
        costs("cifar10-paper").classifier.forward, rel=1e-3
    )
    assert behind.denoiser == costs("cifar10-paper-wrn70").denoiser


def test_leaving_a_block_out_of_the_mask_costs_as_much():
    found = planner.plan("cifar10-paper", BUDGETS["smoke"], 7)["cells"]
    flops = {c["row"]: c["flops"] for c in found}
    assert (
        len({flops[row] for row in ("the method", *(f"without block {b}" for b in (1, 2, 3, 4)))})
        == 1
    )


def test_the_plan_says_what_it_does_not_price():
    found = planner.plan("cifar10-paper", BUDGETS["smoke"], 3)
    assert set(found["unpriced"]) == {"Sehwag et al."}
    assert "robustbench/cifar10/L2/Sehwag2021Proxy" in found["unpriced"]["Sehwag et al."]
    assert all(
        f"not in the price of {row}: {why}" in planner.summary(found)
        for row, why in found["unpriced"].items()
    )
    assert not planner.plan("cifar10-paper", BUDGETS["smoke"])["unpriced"]
    outlook = planner.outlook("imagenet-paper", BUDGETS["smoke"])
    assert set(outlook["not fully priced"]) == {"Salman et al., Engstrom et al., Wong et al."}
    assert "not fully priced" not in planner.outlook("cifar10-small", BUDGETS["smoke"])


def test_records_without_a_prediction_say_why(monkeypatch, tmp_path):
    config = evidence.Experiment("me-net", "pgd").config
    unknown = config | {
        "attack": config["attack"] | {"name": "square"},
        "defence": evidence.Experiment("hetpure", "pgd").config["defence"],
    }
    found = {"me-net": config, "square": unknown}
    monkeypatch.setattr(evidence, "files", lambda: [tmp_path / name for name in found])
    monkeypatch.setattr(evidence, "read", lambda path: {"0": {"config": found[path.name]}})
    why = {
        line["file"]: line["unpriced"]
        for line in planner.measured("cifar10-small", Rates(1e9, 1e9))
    }
    assert "singular value" in why["me-net"] and why["square"] == "the attack square"
    assert "one pixel after another" in planner.unpriced(pixeldefend.PixelDefend(), "cifar10-small")


# ---- protocols -----------------------------------------------------------------------------------


def test_the_paper_budget_is_the_tables_protocol_on_the_literatures_images():
    run = protocols.under(BUDGETS["paper"], "cifar10-paper")
    assert (run.n_images, run.attack.iterations, run.attack.eot, run.K, run.repeats) == (
        512,
        200,
        20,
        20,
        3,
    )
    assert run.attack.confirm == 0 and run.split == "test512"
    assert protocols.under(BUDGETS["paper"], "imagenet-paper").attack.iterations == 20
    assert protocols.under(BUDGETS["paper"], "cifar10-small").split == "test"


def test_a_smaller_budget_keeps_the_threat_and_confirms_early():
    run = protocols.under(BUDGETS["smoke"], "cifar10-paper", 3)
    assert (run.attack.norm, run.attack.eps, run.attack.l2_step) == (
        "L2",
        0.5,
        "sign",
    ) and run.attack.confirm == PGD().confirm
    assert (run.n_images, run.attack.iterations, run.K, run.split, run.repeats) == (
        4,
        2,
        4,
        "test",
        1,
    )


def test_the_paper_budget_is_table_1():
    budget, first = BUDGETS["paper"], protocols.table(1)
    assert (budget.n_images, budget.iterations, budget.eot, budget.K) == tuple(
        first[k] for k in ("n_images", "iterations", "eot", "votes")
    )


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_every_value_of_a_protocol_has_a_source_and_makes_runnable_settings(protocol):
    assert all(
        any(
            word in v.source
            for word in ("paper", "release", "DiffPure", "Lee & Kim", protocols.OURS)
        )
        for v in protocol.values.values()
    )
    assert protocol.bench in benches.PAPER and protocol.method.calls(
        SCHEDULE
    ) > protocol.baseline.calls(SCHEDULE)
    assert all(
        protocol.attack(column).eps == protocol["eps"] for column in protocol.columns
    ) and set(protocol.unknown()) < set(protocol.values)
    stated = protocol.statement()
    shown = set(protocol.unknown()) - ({"l2_step"} if protocol["norm"] == "Linf" else set())
    assert all(protocols.SAID[name] in stated for name in shown)
    assert not re.search(r"\w_\w| = |ℓ2" if protocol["norm"] == "Linf" else r"\w_\w| = ", stated)


@pytest.mark.parametrize(
    "bench, table",
    [
        ("cifar10-paper", 1),
        ("cifar10-paper-released", 1),
        ("cifar10-paper+bf16", 1),
        ("cifar10-small", 1),
        ("cifar10-paper-wrn70-dropout", 2),
        ("imagenet-paper-v2", 6),
        ("svhn-small", 8),
    ],
)
def test_a_bench_belongs_to_its_table(bench, table):
    assert protocols.main_table(bench).table == f"Table {table}"


def test_the_bench_of_a_table_has_its_settings():
    for name, protocol in PROTOCOLS.items():
        if protocols.main_table(protocol.bench).table == name:
            assert benches.PAPER[protocol.bench].method == protocol.method
    with pytest.raises(ValueError, match="no protocol for Table 9"):
        protocols.table(9)


# ---- the queue of a table ------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(1, 9))
def test_a_queue_is_read_by_the_command_that_runs_it(number, monkeypatch, capsys):
    monkeypatch.delenv("HETPURE_BUDGET", raising=False)
    protocol, parser = protocols.table(number), argparse.ArgumentParser()
    backlog.add_experiment(parser)
    protocols.main(["--table", str(number)])
    lines = capsys.readouterr().out.splitlines()
    expected = protocols.queue(protocols.under(BUDGETS["paper"], protocol.bench, number))
    for text, line in zip(lines, expected, strict=True):
        a = parser.parse_args(shlex.split(text))
        assert (
            evidence.Experiment(a.defence, a.attack, a.bench, a.split, a.K, a.seed)
            == line.experiment
        )
        assert a.n_images == protocol["n_images"] and a.split == "test512"
    assert len(set(lines)) == len(lines)


def test_a_queue_has_every_row_whose_networks_are_published_and_every_seed():
    lines = protocols.queue(protocols.under(BUDGETS["paper"], "cifar10-paper", 1))
    defences_of = lambda row: {line.experiment.defence for line in lines if line.row == row}
    seeds_of = lambda row: sorted({line.experiment.seed for line in lines if line.row == row})
    assert defences_of("the method") == {"hetpure"} and defences_of("uniform purification") == {
        "uniform:t=0.1"
    }
    # and not the small stand-in
    assert defences_of("Gowal et al. 2020") == {"at:model=Linf/Gowal2020Uncovering_28_10_extra"}
    assert not defences_of("Lin et al.")  # a purifier that exists for the small bench only
    assert seeds_of("the method") == [0, 1, 2] and seeds_of("Gowal et al. 2020") == seeds_of(
        "no defence"
    ) == [0]
    assert [line.experiment.seed for line in lines] == sorted(
        line.experiment.seed for line in lines
    )


def test_every_column_has_the_attack_that_its_table_looks_for():
    for number, slugs in ((1, {"pgd", "autoattack"}), (3, {"pgd", "autoattack"}), (5, {"bpda"})):
        lines = protocols.queue(protocols.under(BUDGETS["paper"], "cifar10-paper", number))
        attacks_ = [(line, specs.parse(line.experiment.attack, ATTACKS)) for line in lines]
        assert {slug for _, (slug, _) in attacks_} == slugs
        for line, (slug, attack) in attacks_:
            assert slug == printed.ATTACK_NAMES[line.column]
            assert (attack.norm, attack.eps) == (
                protocols.table(number)["norm"],
                protocols.table(number)["eps"],
            )
            static = protocols.static(line.experiment.defence)
            assert attack.eot == (1 if static else 20) and attack.iterations == (
                200 if slug == "pgd" else 100
            )
            assert slug != "autoattack" or attack.version == ("standard" if static else "rand")


def test_the_method_of_a_table_is_the_benchs_own():
    released = protocols.queue(protocols.under(BUDGETS["paper"], "cifar10-paper-released", 1))
    found = {
        specs.parse(line.experiment.defence, defences.DEFENCES)[1]
        for line in released
        if line.row == "the method"
    }
    assert found == {benches.method("cifar10-paper-released")}
    assert set(protocols.rows(protocols.table(1), "cifar10-small")) == {
        "no defence",
        "uniform purification",
        "the method",
    }


def test_records_of_a_queue_find_their_rows_in_the_table():
    for name in ("Table 1", "Table 2", "Table 6", "Table 8"):
        found = protocols.rows(protocols.PROTOCOLS[name], protocols.PROTOCOLS[name].bench)
        for claim in printed.TABLES[name].rows:
            if claim.method in found:
                assert found[claim.method] in claim.specs


def test_an_unknown_table_or_bench_has_no_queue():
    for arguments, message in (
        (["--table", "9"], "no protocol for Table 9"),
        (["--table", "1", "--bench", "x"], "unknown bench 'x'"),
    ):
        with pytest.raises(ValueError, match=message):
            protocols.main(arguments)


# ---- faster arithmetic ---------------------------------------------------------------------------


def test_bfloat16_keeps_the_gradients_direction_on_the_small_bench():
    plain, changed = (benches.load(name) for name in ("cifar10-small", "cifar10-small+bf16"))
    assert changed.name == "cifar10-small+bf16" and changed.weights == plain.weights
    x, labels = (
        torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)),
        torch.zeros(2, dtype=torch.long),
    )
    defended = [defences.build("uniform:t=0.1,steps=2", bench) for bench in (plain, changed)]
    found = arithmetic.agreement(*defended, x, labels, range(2))
    assert (
        0.9 < found["worst"] <= found["cosine"] < 1
        and found["cosine"] > found["noise"]
        and 0.8 < found["norm"] < 1.25
    )
    assert found["speed"] > 0
    same = arithmetic.agreement(defended[0], defended[0], x, labels, range(2))
    assert same["worst"] == pytest.approx(1, abs=1e-5) and same["norm"] == pytest.approx(
        1, abs=1e-5
    )


def test_a_measured_row_replaces_the_one_of_its_bench_and_device_only(tmp_path):
    row = {"bench": "b+bf16", "defence": "hetpure", "device": "CPU", "cosine": 0.5}
    target = tmp_path / "precision.csv"
    arithmetic.save([row, row | {"device": "GPU"}, row | {"bench": "a+bf16"}], target)
    arithmetic.save([row | {"cosine": 0.75}], target)
    assert target.read_text().splitlines() == [
        "bench,defence,device,cosine",
        "a+bf16,hetpure,CPU,0.5",
        "b+bf16,hetpure,CPU,0.75",
        "b+bf16,hetpure,GPU,0.5",
    ]


def test_the_book_shows_measured_rows_that_say_where_they_are_from():
    page, found = (
        (benches.WEIGHTS.parent / "book/paper-scale.md").read_text(),
        pd.read_csv(arithmetic.MEASURED),
    )
    assert f":file: ../{arithmetic.MEASURED.relative_to(benches.WEIGHTS.parent)}" in page
    assert {"cifar10-small+bf16", "cifar10-small+compile"} <= set(found["bench"]) and found[
        ["device", "torch", "images"]
    ].notna().all(axis=None)
    assert (found["worst"] <= found["cosine"]).all() and (found["cosine"] > found["noise"]).all()


@pytest.mark.slow
def test_a_compiled_denoiser_gives_the_same_gradient():
    plain, compiled = (benches.load(name) for name in ("cifar10-small", "cifar10-small+compile"))
    x, labels = torch.rand(2, 3, 32, 32), torch.zeros(2, dtype=torch.long)
    found = arithmetic.agreement(
        *(defences.build("uniform:t=0.1,steps=2", bench) for bench in (plain, compiled)),
        x,
        labels,
        range(2),
    )
    assert found["worst"] > 0.9999


def test_unknown_options_are_refused():
    with pytest.raises(ValueError, match="unknown option 'fp8'; known: bf16, compile"):
        benches.load("cifar10-small+fp8")


def test_bfloat16_passes_on_the_size_of_its_network(denoiser):
    denoiser.size = 16
    assert precision.Bfloat16(denoiser).size == 16


@pytest.mark.parametrize(
    ("hours", "text"),
    [(1.15e-8, "4.1e-05 s"), (0.005, "18 s"), (0.25, "15 min"), (718.0, "7.2e+02 h")],
)
def test_durations_have_the_unit_that_suits_them(hours, text):
    assert planner.duration(hours) == text
