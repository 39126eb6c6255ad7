"""The cost of a run, before it is run: denoiser calls, FLOPs, memory and hours.

    # one cell: the method under the table's attack
    hetpure cost --bench cifar10-paper --budget paper
    # every row, column and run of a table that can be measured
    hetpure cost --bench cifar10-paper --budget paper --table 1
    # on this machine, after a short calibration
    hetpure cost --bench cifar10-small --budget quick --on here
    # the records' seconds beside the prediction
    hetpure cost --bench cifar10-small --measured

FLOPs (two per multiplication and addition) and bytes are counted on the meta device by running the
networks without memory for their weights, so no checkpoint and no GPU is needed; how often a
defence runs them, by running it with stubs that count. Hours follow from a stated, sustained
throughput; small batches reach less. The plan names parts without a price (`unpriced`).
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from inspect import signature
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import set_checkpoint_early_stop
from torch.utils.flop_counter import FlopCounterMode

from hetpure_core import FLAT_UP_TO, Purified, Schedule, frozen, linear_schedule
from hetpure_lab import attacks, defences, evidence
from hetpure_lab.attacks import (
    ATTACKS,
    PGD,
    Attack,
    Defence,
    Undefended,
    logits_of,
    loss_and_gradient,
    seen_by_the_attack,
)
from hetpure_lab.attacks.gradients import confirmed
from hetpure_lab.common import microbatch, specs
from hetpure_lab.common.measure import LiveBytes, fastest
from hetpure_lab.data import DATASETS
from hetpure_lab.defences import DEFENCES, capabilities
from hetpure_lab.networks import benches, published, robustbench, small
from hetpure_lab.paper import protocols
from hetpure_lab.paper.budgets import BUDGETS, Budget, choose

Purifier = Any  # a registered defence's settings


# ---- networks, counted ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Counted:
    """One network on one image: FLOPs `forward` and `backward` (to the input only); bytes `held`
    between them, the peak of `bytes` in both, and the `weights`.
    """

    forward: int
    backward: int
    held: int
    bytes: int
    weights: int


def count(network: nn.Module, size: int, *times: Tensor) -> Counted:
    """Costs of `network` for one image of `size` pixels, `times` being its other inputs (1,); on
    the meta device nothing is computed.
    """
    network = frozen(network)
    x = torch.empty(1, 3, size, size, device=next(network.parameters()).device, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        out = network(x, *times)
        forward = counter.get_total_flops()
        out.sum().backward()
    with LiveBytes() as meter:  # apart, because the counter holds tensors of its own
        out = network(x, *times).sum()
        held = meter.now
        out.backward()
    weights = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    return Counted(forward, counter.get_total_flops() - forward, held, meter.peak, weights)


@dataclass(frozen=True)
class Costs:
    """A bench's classifier and denoiser, counted, the size at which it purifies, whether gradients
    recompute the calls' activations, and whether purifications of one image share its mask, as they
    do where it is found at the image's own size.
    """

    classifier: Counted
    denoiser: Counted
    size: int
    checkpointing: bool = True
    sharing: bool = True

    @property
    def weights(self) -> int:
        return self.classifier.weights + self.denoiser.weights

    def row_bytes(self, purifier: Purifier | None) -> int:
        """Memory that one image of a microbatch adds to an exact gradient: the states between
        calls, the activations of all passes that are not recomputed (an upper bound where a chain
        is cut into segments), and whichever is more, those of the larger network at the end or
        three times those of a pass that guidance differentiates again, which builds its graphs one
        at a time.
        """
        votes, again = (
            defences.votes(purifier),
            passes(purifier, True, checkpointing=self.checkpointing),
        )
        calls = passes(purifier, False, checkpointing=False).denoiser["forward"]
        # a guided pass goes backwards thrice and keeps nothing
        waiting = lambda rows: rows["backward"] - 3 * rows["second"]
        states = 3 * self.size**2 * 4 * (calls + 2 * votes)
        kept = (waiting(again.classifier) - votes) * self.classifier.held
        kept += 0 if self.checkpointing else waiting(again.denoiser) * self.denoiser.held
        peaks = [votes * self.classifier.bytes, votes * self.denoiser.bytes]
        peaks += [
            3 * net.held
            for net, rows in ((self.classifier, again.classifier), (self.denoiser, again.denoiser))
            if rows["second"]
        ]
        return states + kept + max(peaks)

    def on(self, memory: float, purifier: Purifier | None, kind: str) -> tuple[Costs, int]:
        """The rows of a microbatch in `memory` bytes, chosen as `microbatch.fit` does, and these
        costs with or without recomputation.
        """
        either = [replace(self, checkpointing=how) for how in (True, False)]
        rows, checkpointing = microbatch.choose(
            memory, *(c.row_bytes(purifier) for c in either), kind
        )
        return either[not checkpointing], rows


@cache
def costs(bench: str) -> Costs:
    """The networks of a bench by name, without their weights."""
    plain = bench.partition("+")[0]
    size = DATASETS[benches.dataset(bench)].size
    classifier, denoiser = (_on_meta(benches.network_name(plain, part)) for part in benches.PARTS)
    size = getattr(denoiser, "size", size)
    sharing = benches.BENCHES[plain].defended is Purified
    return Costs(
        count(classifier, size),
        count(denoiser, size, torch.full((1,), 100, device="meta")),
        size,
        sharing=sharing,
    )


@cache
def costs_of(bench: str, purifier: Purifier | None) -> Costs:
    """The same, with the networks that a trained rival brings along in their places."""
    c = costs(bench)
    if not capabilities(purifier).own_networks:
        return c
    classifier, *own = (_on_meta(name) for name in purifier.weights(bench.partition("+")[0]))
    t = torch.full((1,), 100, device="meta")
    c = replace(c, classifier=count(classifier, c.size)) if classifier else c
    return replace(c, denoiser=count(*own, c.size, t)) if own else c


def _on_meta(name: str) -> nn.Module | None:
    """The network of that name. RobustBench's are known here if their names say depth and width;
    the others are None.
    """
    if checkpoint := benches.checkpoint_of(name):
        return published.on_meta(benches.checkpoints.find(checkpoint).network)
    if (network := benches.own_network(name)) is not None:
        return copy.deepcopy(network).to("meta")
    with torch.device("meta"):
        if not name.startswith(robustbench.PREFIX):
            return small.build(benches.card(name)["network"]).eval()
        shape = re.search(r"(\d\d)_(\d\d)", name)
        return small.WideResNet(*map(int, shape.groups())).eval() if shape else None


def unpriced(purifier: Purifier | None, bench: str) -> str:
    """The parts of a defence on a bench without a price, in words; "" if there are none."""
    declared = capabilities(purifier)
    if declared.unpriced or not declared.own_networks:
        return declared.unpriced
    unknown = [name for name in purifier.weights(bench.partition("+")[0]) if not _on_meta(name)]
    return (
        f"{unknown[0]}: its name does not say what it is, so the bench's classifier is counted"
        " instead"
        if unknown
        else ""
    )


# ---- passes --------------------------------------------------------------------------------------


class _Forward(torch.autograd.Function):
    """The identity, which counts the rows that pass forwards, backwards, and through the derivative
    of its backward pass.
    """

    @staticmethod
    def forward(ctx, x: Tensor, rows: Counter) -> Tensor:
        ctx.rows = rows
        ctx.save_for_backward(x)
        rows["forward"] += len(x)
        return x.clone()

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, None]:
        return _Backward.apply(g, *ctx.saved_tensors, ctx.rows), None


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, g: Tensor, x: Tensor, rows: Counter) -> Tensor:
        ctx.rows = rows
        rows["backward"] += len(g)
        return g.clone()

    @staticmethod
    def backward(ctx, v: Tensor) -> tuple[Tensor, Tensor, None]:
        ctx.rows["second"] += len(v)
        return v, torch.zeros_like(v), None


class Stub(nn.Module):
    """In place of a classifier or (with times) a denoiser of small images: it computes nothing, and
    counts the `rows` of its passes.
    """

    size = 8

    def __init__(self):
        super().__init__()
        self.rows, self.tap = Counter(), nn.Identity()

    def forward(self, x: Tensor, *times: Tensor) -> Tensor:
        out = self.tap(_Forward.apply(x, self.rows))
        return out if times else out.flatten(1)[:, :10]

    def taps(self) -> list[nn.Module]:
        # as many as every classifier here has, so that a purifier can name any of them
        return [self.tap] * 4


@dataclass(frozen=True)
class Passes:
    """Rows that pass through the two networks, by kind: ``forward``, ``backward``, and ``second``,
    the derivative of a backward pass.
    """

    classifier: Counter
    denoiser: Counter

    def flops(self, c: Costs) -> int:
        """A second pass is two forward passes: of tangents, and PyTorch's double convolution takes
        the weights' part, asked or not.
        """
        price = lambda n, rows: (
            (rows["forward"] + 2 * rows["second"]) * n.forward + rows["backward"] * n.backward
        )
        return price(c.classifier, self.classifier) + price(c.denoiser, self.denoiser)


@cache
def passes(
    purifier: Purifier | None,
    backward: bool,
    gradient: str = "exact",
    copies: int = 1,
    T: int = 1000,
    checkpointing: bool = True,
    sharing: bool = True,
) -> Passes:
    """The work of `copies` of one image: predictions of the function from
    `gradients.seen_by_the_attack`, or (`backward`) gradients.

    Counted in a run of the defence itself, with its guidance, votes, masks and recomputation.
    """
    classifier, denoiser = Stub(), Stub()
    seen = seen_by_the_attack(
        _stand(purifier, classifier, denoiser, T, checkpointing, sharing), gradient
    )
    image, ids = torch.full((1, 3, Stub.size, Stub.size), 0.5), ["the image that is counted"]
    with torch.enable_grad(), set_checkpoint_early_stop(False):
        if backward:
            loss_and_gradient(seen, image, torch.zeros(1, dtype=torch.long), ids, range(copies))
        else:
            logits_of(seen, image, ids, range(copies))
    return Passes(classifier.rows, denoiser.rows)


def _stand(
    purifier: Purifier | None,
    classifier: nn.Module,
    denoiser: nn.Module,
    T: int,
    checkpointing: bool,
    sharing: bool,
) -> Defence:
    if purifier is None:
        return Undefended(classifier)
    if capabilities(purifier).own_networks:
        return purifier.rehearse(classifier, denoiser)
    kind = Purified if sharing else published.OnCanvas
    return defences.assemble(
        purifier,
        classifier,
        denoiser,
        kind,
        schedule=linear_schedule(T),
        checkpointing=checkpointing,
    )


def forward_flops(c: Costs, calls: int, masked: bool) -> int:
    """One purified prediction: `calls` denoiser calls, the classifier, and once more if it is
    `masked` by itself.
    """
    return calls * c.denoiser.forward + (1 + masked) * c.classifier.forward


def gradient_flops(c: Costs, calls: int, masked: bool, checkpointing: bool = True) -> int:
    """One gradient of it, in closed form; a checkpointed call runs forwards twice, in a chain cut
    into segments three times.
    """
    again = (1 if calls <= FLAT_UP_TO else 2) * checkpointing
    return (
        forward_flops(c, calls, masked)
        + calls * (again * c.denoiser.forward + c.denoiser.backward)
        + c.classifier.backward
    )


@dataclass(frozen=True)
class Work:
    """Denoiser calls of predictions and gradients (recomputation not counted), and the FLOPs of
    each.
    """

    calls: int = 0
    forward: int = 0
    gradient: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.calls + other.calls, self.forward + other.forward, self.gradient + other.gradient
        )

    def __mul__(self, n: int) -> Work:
        return Work(n * self.calls, n * self.forward, n * self.gradient)

    @property
    def flops(self) -> int:
        return self.forward + self.gradient


def calls_of(purifier: Purifier | None, schedule: Schedule) -> int:
    return purifier.calls(schedule) if purifier else 0


def _work(
    c: Costs,
    purifier: Purifier | None,
    n: int,
    schedule: Schedule,
    together: int,
    gradient: str,
    backward: bool,
) -> tuple[int, int]:
    """Calls and FLOPs of `n` predictions or gradients, `together` of every image at once: what
    copies share is paid once for these.
    """
    one, two = (
        passes(purifier, backward, gradient, k, schedule.T, c.checkpointing, c.sharing).flops(c)
        for k in (1, 2)
    )
    calls = passes(purifier, False, gradient, 1, schedule.T, checkpointing=False).denoiser[
        "forward"
    ]
    return n * calls, n * (two - one) + -(-n // together) * (2 * one - two)


def predictions(
    c: Costs, purifier: Purifier | None, n: int, schedule: Schedule, together: int = 1
) -> Work:
    """`n` purified predictions, `together` of every image at once."""
    calls, flops = _work(c, purifier, n, schedule, together, "exact", False)
    return Work(calls, flops)


def gradients(
    c: Costs,
    purifier: Purifier | None,
    n: int,
    schedule: Schedule,
    gradient: str = "exact",
    together: int = 1,
) -> Work:
    """`n` gradients as `gradients.seen_by_the_attack` takes them, `together` of every image at
    once.
    """
    calls, flops = _work(c, purifier, n, schedule, together, gradient, True)
    return Work(calls, 0, flops)


FEW = signature(confirmed).parameters["at_once"].default


def attack_work(
    c: Costs,
    purifier: Purifier | None,
    attack: Attack,
    n: int,
    schedule: Schedule,
    spent: Sequence[int] | None = None,
) -> Work:
    """Attacking `n` images; an upper bound where images are set aside early, unless the iterations
    `spent` on each by a `PGD` are known.
    """
    if spent is None:
        looked_at, taken = (n * each for each in attack.purifications())
    else:
        looked_at, taken = sum(looks(attack, each) for each in spent), sum(spent) * attack.eot
    alone = attack.is_library  # the library asks for one purification at a time
    work = gradients(c, purifier, taken, schedule, attack.gradient, 1 if alone else attack.eot)
    return work + predictions(c, purifier, looked_at, schedule, 1 if alone else FEW)


def looks(attack: PGD, spent: int) -> int:
    """Purifications of one image without a gradient, if the attack spent so many iterations on it.

    If the image was set aside, its last check used all `confirm` purifications; a check it survived
    stopped after the first few.
    """
    # ascents to the end, and how far one came that was not
    whole, rest = divmod(spent, max(1, attack.iterations))
    few = min(FEW, attack.confirm)
    stood = few * (max(0, attack.iterations - 1) // attack.confirm_every) + 2 * attack.eot * (
        attack.keep == "best"
    )
    fell = rest // attack.confirm_every * few + attack.confirm - few if rest else 0
    judged = attack.eot * (whole + bool(rest)) if attack.restarts > 1 else 0
    return whole * stood + fell + judged


def cell_work(
    c: Costs,
    purifier: Purifier | None,
    attack: Attack,
    n: int,
    K: int,
    schedule: Schedule,
    spent: Sequence[int] | None = None,
) -> Work:
    """One cell of a table: the attack, then K purifications of the adversarial, the clean and the
    null image.
    """
    K = K if purifier else 1
    return attack_work(c, purifier, attack, n, schedule, spent) + predictions(
        c, purifier, 3 * n * K, schedule, K
    )


# ---- machines ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Machine:
    """`peak` dense TF32 (or CPU) FLOP/s, the share of it that large convolutions sustain, and bytes
    of memory; `source` of the share.
    """

    name: str
    peak: float
    utilisation: float
    memory: float
    source: str

    @property
    def sustained(self) -> float:
        return self.peak * self.utilisation


MACHINES = {
    m.name: m
    for m in (
        Machine("H100", 495e12, 0.2, 80e9, "assumed, as on the A100"),
        Machine("H200", 495e12, 0.2, 141e9, "assumed, as on the A100"),
        Machine(
            "A100", 156e12, 0.17, 80e9, "27 TFLOP/s in DiffBreak's log of 128 copies and 100 steps"
        ),
        Machine("RTX 4090", 82.6e12, 0.38, 24e9, "31 TFLOP/s from the release's 'about 4 hours'"),
        Machine("V100", 15.7e12, 0.5, 32e9, "assumed; float32 without tensor cores"),
    )
}


@dataclass(frozen=True)
class Rates:
    """FLOP/s in gradients and in predictions."""

    gradient: float
    forward: float

    def seconds(self, work: Work) -> float:
        return work.gradient / self.gradient + work.forward / self.forward


def calibrate(bench: benches.Bench, rows: int = 32) -> Rates:
    """This machine's rates, from gradients and predictions of the bench's method on `rows` images.

    On a CPU only the process's own time counts.
    """
    size, on_cpu = DATASETS[benches.dataset(bench.name)].size, bench.device.type == "cpu"
    defended = bench.defended(
        bench.classifier, bench.denoiser, bench.method, schedule=bench.schedule
    )
    x, labels = (
        torch.rand(rows, 3, size, size, device=bench.device),
        torch.zeros(rows, dtype=torch.long, device=bench.device),
    )
    microbatch.fit(defended, x[:1])
    c = replace(costs(bench.name), checkpointing=defended.checkpointing)
    timed = lambda work: fastest(work, 2, time.process_time if on_cpu else time.perf_counter)
    gradient = timed(
        lambda: attacks.loss_and_gradient(defended, x, labels, range(rows), [0])[1].sum().item()
    )
    forward = timed(lambda: attacks.logits_of(defended, x, range(rows), [0]).sum().item())
    one = (
        gradients(c, bench.method, rows, bench.schedule),
        predictions(c, bench.method, rows, bench.schedule),
    )
    return Rates(one[0].gradient / gradient, one[1].forward / forward)


def fitted(c: Costs, purifier: Purifier | None, machine: str) -> tuple[Costs, int]:
    """The costs and the rows of a microbatch on one of `MACHINES`, or, for any other name, on a
    CPU.
    """
    if machine not in MACHINES:
        return c.on(microbatch.CPU_BUDGET, purifier, "cpu")
    memory = MACHINES[machine].memory
    if (need := c.weights + c.row_bytes(purifier)) > memory:
        raise ValueError(
            f"one image needs {need / 1e9:.1f} GB of memory, {machine} has {memory / 1e9:.0f}"
        )
    return c.on((memory - c.weights) / 2, purifier, "cuda")


# ---- plans ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """A row and a column of a table on a bench, `runs` times."""

    bench: str
    row: str
    column: str
    purifier: Purifier | None
    attack: Attack
    n: int
    K: int
    runs: int = 1

    @classmethod
    def of(cls, lines: Sequence[protocols.Line]) -> Cell:
        """The cell that these lines of a queue measure, which differ in their seeds only."""
        line, e = lines[0], lines[0].experiment
        purifier, attack = specs.parse(e.defence, DEFENCES)[1], specs.parse(e.attack, ATTACKS)[1]
        return cls(e.bench, line.row, line.column, purifier, attack, line.n_images, e.K, len(lines))

    def on(self, machine: str) -> Work:
        """Its work; whether activations are recomputed depends on the machine's memory."""
        schedule = linear_schedule()
        c, _ = fitted(costs_of(self.bench, self.purifier), self.purifier, machine)
        return cell_work(c, self.purifier, self.attack, self.n, self.K, schedule) * self.runs


def cells(bench: str, budget: Budget, number: int | None = None) -> list[Cell]:
    """The measurements of table `number`'s queue under `budget`, or, without one, the method once
    under the attack of the main table.
    """
    run = protocols.under(budget, bench, number)
    lines = protocols.queue(run)
    if number is None:
        return [Cell.of([next(line for line in lines if line.row == "the method")])]
    places: dict[tuple[str, str], list[protocols.Line]] = {}
    for line in lines:
        places.setdefault((line.row, line.column), []).append(line)
    return [Cell.of(same) for same in places.values()]


def plan(
    bench: str,
    budget: Budget,
    number: int | None = None,
    machine: str = "H100",
    rates: Rates | None = None,
) -> dict:
    """Totals and cells: `calls`, `flops`, and `hours` on one `machine` (or at `rates`); `bytes` of
    a microbatch of `rows` images.

    The microbatch belongs to the row with the largest images; `unpriced` names the rows that cost
    more than is said, and why.
    """
    found, schedule = cells(bench, budget, number), linear_schedule()
    known, works = MACHINES.get(machine), {cell: cell.on(machine) for cell in found}
    speed, total = rates or Rates(known.sustained, known.sustained), sum(works.values(), Work())
    largest = max((cell.purifier for cell in found), key=lambda p: costs_of(bench, p).row_bytes(p))
    fit, rows = fitted(costs_of(bench, largest), largest, machine)
    return {
        "bench": bench,
        "budget": budget.name,
        "table": number,
        "machine": machine,
        "throughput": round(total.flops / speed.seconds(total) / 1e12, 3),
        "utilisation": known.utilisation if known else None,
        "calls": total.calls,
        "calls_per_purification": max(calls_of(cell.purifier, schedule) for cell in found),
        "flops": total.flops,
        "rows": rows,
        "bytes": fit.weights + rows * fit.row_bytes(largest),
        "recomputed": fit.checkpointing,
        "hours": speed.seconds(total) / 3600,
        "hours_on": {name: _hours(found, m) for name, m in MACHINES.items()},
        "cells": [_line(cell, work, speed) for cell, work in works.items()],
        "unpriced": {cell.row: why for cell in found if (why := unpriced(cell.purifier, bench))},
        "our_choice": protocols.under(budget, bench, number).protocol.unknown(),
    }


def _hours(found: list[Cell], machine: Machine) -> float | None:
    """Hours on one such machine; None if its memory holds not even one image."""
    try:
        return sum(cell.on(machine.name).flops for cell in found) / machine.sustained / 3600
    except ValueError:
        return None


def _line(cell: Cell, work: Work, speed: Rates) -> dict:
    same = {
        "row": cell.row,
        "column": cell.column,
        "n": cell.n,
        "iterations": cell.attack.iterations,
        "eot": cell.attack.eot,
        "K": cell.K,
    }
    return same | {
        "runs": cell.runs,
        "calls": work.calls,
        "flops": work.flops,
        "hours": speed.seconds(work) / 3600,
    }


def summary(found: dict) -> str:
    """A plan in words, for people."""
    how = "recomputed" if found["recomputed"] else "kept"
    lines = [
        f"{found['bench']}, budget {found['budget']}"
        + (f", Table {found['table']}" if found["table"] else ", one cell"),
        (
            f"{found['calls']:.3g} denoiser calls ({found['calls_per_purification']} per"
            f" purification), {found['flops']:.3g} FLOP"
        ),
        (
            f"{found['hours']:.3g} hours on {found['machine']} at {found['throughput']:.3g} TFLOP/s"
            " sustained"
        ),
        (
            f"{found['bytes'] / 1e9:.2f} GB for a microbatch of {found['rows']} images, activations"
            f" {how}"
        ),
        "hours on one "
        + ", ".join(
            f"{n}: {'too little memory' if h is None else f'{h:.3g}'}"
            for n, h in found["hours_on"].items()
        ),
    ]
    return "\n".join(
        lines + [f"not in the price of {row}: {why}" for row, why in found["unpriced"].items()]
    )


def outlook(bench: str, budget: Budget = BUDGETS["paper"]) -> pd.DataFrame:
    """The planner as a table for the head of a chapter: the method's cell and the whole table, with
    their needs on every machine.
    """
    number = int(protocols.main_table(bench).table.split()[1])
    parts = {"one cell": None, f"Table {number}": number}
    lines = {}
    for name in MACHINES:
        try:
            one, whole = (plan(bench, budget, part, name) for part in parts.values())
        except ValueError as error:
            lines[name] = {"activations": str(error)}
            continue
        lines[name] = {
            "activations": "recomputed" if one["recomputed"] else "kept",
            "images at once": one["rows"],
        }
        lines[name] |= {"GB": f"{one['bytes'] / 1e9:.2g}"}
        for part, found in zip(parts, (one, whole)):
            lines[name] |= {
                f"{part}: FLOP": f"{found['flops']:.2g}",
                f"{part}: time": duration(found["hours"]),
            }
        if whole["unpriced"]:
            lines[name]["not fully priced"] = ", ".join(whole["unpriced"])
    return pd.DataFrame(lines).T.fillna("")


def duration(hours: float) -> str:
    """Hours in the unit that suits them."""
    unit, each = next(
        ((u, s) for u, s in (("h", 3600), ("min", 60)) if 3600 * hours >= s), ("s", 1)
    )
    return f"{3600 * hours / each:.2g} {unit}"


# ---- afterwards ----------------------------------------------------------------------------------


def predicted(
    records: Sequence[dict], rates: Rates, schedule: Schedule | None = None
) -> dict | None:
    """Measured seconds per image of one experiment's `records`, and the prediction for the
    iterations that they spent.

    None where the planner has no formula for the attack or the defence. `seconds` are of the
    processor where the records have them, so that a busy machine does not count, else of the clock
    on the wall. The calls on record show whether activations were recomputed; the formulas may miss
    a tenth of them. A file that was written both ways is priced too high.
    """
    config, schedule = records[0]["config"], schedule or linear_schedule()
    attack = {k: v for k, v in config["attack"].items() if k != "name"}
    _, purifier = specs.parse(specs.write(config["defence"], DEFENCES), DEFENCES)
    if config["attack"]["name"] not in ("pgd", "bpda") or capabilities(purifier).unpriced:
        return None
    on_cpu = all(r["device"] == "cpu" and "cpu_seconds" in r for r in records)
    spent, clock = [r["iterations"] for r in records], "cpu_seconds" if on_cpu else "seconds"
    price = lambda c: cell_work(
        c, purifier, PGD(**attack), len(records), config["K"], schedule, spent
    )
    kept = replace(costs_of(config["bench"], purifier), checkpointing=False)
    recomputed = sum(r.get("denoiser_calls", 0) for r in records) > 1.1 * price(kept).calls
    work = price(replace(kept, checkpointing=recomputed))
    seconds, ours = (
        sum(r[clock] for r in records) / len(records),
        rates.seconds(work) / len(records),
    )
    return {
        "n": len(records),
        "clock": clock,
        "seconds": seconds,
        "predicted": ours,
        "ratio": ours / seconds,
    }


def at_most(
    bench: str, defences: Sequence[str], attack: PGD, n: int, K: int, rates: Rates
) -> float:
    """Seconds that attacking and scoring `n` images behind each of `defences` takes if no image is
    set aside early.
    """
    schedule = linear_schedule()
    purifiers = [specs.parse(text, DEFENCES)[1] for text in defences]
    works = [
        cell_work(costs_of(bench, p), p, attack, n, K if p else 1, schedule) for p in purifiers
    ]
    return sum(map(rates.seconds, works))


def measured(bench: str, rates: Rates) -> list[dict]:
    """Every experiment of `bench` on record: measured seconds per image beside the prediction for
    the iterations it spent, or why there is none (`unpriced`).
    """
    found = {path.name: list(evidence.read(path).values()) for path in evidence.files()}
    found = {
        name: records for name, records in found.items() if records[0]["config"]["bench"] == bench
    }
    return [
        {"file": name} | (predicted(records, rates) or {"unpriced": _reason(records[0]["config"])})
        for name, records in found.items()
    ]


def _reason(config: dict) -> str:
    _, purifier = specs.parse(specs.write(config["defence"], DEFENCES), DEFENCES)
    return unpriced(purifier, config["bench"]) or f"the attack {config['attack']['name']}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="hetpure cost", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--bench", default="cifar10-small")
    parser.add_argument("--budget", default="quick", help="smoke, quick or paper")
    parser.add_argument("--table", type=int, help="the whole table instead of one cell")
    parser.add_argument(
        "--on",
        help=(
            f"{', '.join(MACHINES)}, or here: calibrate on this machine (small benches: here,"
            " others: H100)"
        ),
    )
    parser.add_argument("--device", default="cpu", help="with --on here: where to calibrate")
    parser.add_argument(
        "--measured",
        action="store_true",
        help="compare the records of the bench with the prediction",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parser.parse_args(argv)
    machine = args.on or ("here" if benches.scale(args.bench) != "paper" else "H100")
    if machine not in MACHINES and machine != "here":
        raise ValueError(f"unknown machine {machine!r}; known: {', '.join(MACHINES)}, here")
    here = machine == "here" or args.measured
    rates = calibrate(benches.load(args.bench, args.device)) if here else None
    found = (
        measured(args.bench, rates)
        if args.measured
        else plan(args.bench, choose(args.budget), args.table, machine, rates)
    )
    print(json.dumps(found, indent=1) if args.json or args.measured else summary(found))
