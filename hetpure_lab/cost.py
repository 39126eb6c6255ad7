"""What a run costs, before it is run: denoiser calls, FLOPs, memory and hours.

    python -m hetpure_lab.cost --bench cifar10-paper --budget paper               # one cell: the method under the table's attack
    python -m hetpure_lab.cost --bench cifar10-paper --budget paper --table 1     # every row, column and run that we measure of a table
    python -m hetpure_lab.cost --bench cifar10-small --budget quick --on here     # on this machine, after a short calibration
    python -m hetpure_lab.cost --bench cifar10-small --measured                   # the records' seconds beside the prediction

FLOPs (two per multiplication and addition) and bytes are counted on the meta device by running the networks without memory for their
weights, so no checkpoint and no GPU is needed. Hours follow from a stated, sustained throughput; small batches reach less.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hetpure_core import FLAT_UP_TO, HetPure, Schedule, Uniform, linear_schedule
from hetpure_lab import attacks, benches, networks, protocols, published
from hetpure_lab.attacks import PGD
from hetpure_lab.budgets import Budget, choose
from hetpure_lab.data import DATASETS
from hetpure_lab.gradients import coarser
from hetpure_lab.measure import LiveBytes, fastest
from hetpure_lab.microbatch import MOST

Purifier = HetPure | Uniform


# ---- networks, counted ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counted:
    """One network on one image: FLOPs `forward` and `backward` (to the input only), `bytes` of activations, `weights` in bytes."""

    forward: int
    backward: int
    bytes: int
    weights: int


def count(network: nn.Module, size: int, *times: Tensor) -> Counted:
    """Costs of `network` for one image of `size` pixels, `times` being its other inputs (1,); on the meta device nothing is computed."""
    network.requires_grad_(False)
    x = torch.empty(1, 3, size, size, device=next(network.parameters()).device, requires_grad=True)
    with LiveBytes() as meter, FlopCounterMode(display=False) as counter:
        out = network(x, *times)
        forward = counter.get_total_flops()
        out.sum().backward()
    weights = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    return Counted(forward, counter.get_total_flops() - forward, meter.peak, weights)


@dataclass(frozen=True)
class Costs:
    """A bench's classifier and denoiser, counted, and the size at which it purifies."""

    classifier: Counted
    denoiser: Counted
    size: int

    @property
    def weights(self) -> int:
        return self.classifier.weights + self.denoiser.weights

    def row_bytes(self, calls: int) -> int:
        """Memory that one image of a microbatch adds to an exact gradient: the state between calls and the larger network's activations."""
        states = 3 * self.size**2 * 4 * (calls + 2)
        return states + max(self.classifier.bytes, self.denoiser.bytes)


@cache
def costs(bench: str) -> Costs:
    """The networks of a bench by name, without their weights."""
    plain = bench.partition("+")[0]
    if plain in benches.PAPER:
        about = benches.PAPER[plain]
        classifier, denoiser = (published.on_meta(benches.checkpoints.find(name).network) for name in (about.classifier, about.denoiser))
    elif plain in benches.SMALL:
        with torch.device("meta"):
            cards = [benches.card(benches.network_name(plain, part)) for part in ("classifier", "denoiser")]
            classifier, denoiser = (networks.build(card["network"]) for card in cards)
    else:
        raise ValueError(f"unknown bench {plain!r}; known: {', '.join(benches.SMALL | benches.PAPER)}")
    size = getattr(denoiser, "size", DATASETS[benches.dataset(plain)].size)
    t = torch.full((1,), 100, device="meta")
    return Costs(count(classifier.eval(), size), count(denoiser.eval(), size, t), size)


# ---- passes --------------------------------------------------------------------------------------------------------------


def forward_flops(c: Costs, calls: int, masked: bool) -> int:
    """One purified prediction: `calls` denoiser calls, the classifier, and once more for the mask."""
    return calls * c.denoiser.forward + (1 + masked) * c.classifier.forward


def gradient_flops(c: Costs, calls: int, masked: bool, checkpointing: bool = True) -> int:
    """One gradient of it; a checkpointed call runs forwards twice, in a chain cut into segments three times."""
    again = (1 if calls <= FLAT_UP_TO else 2) * checkpointing
    return forward_flops(c, calls, masked) + calls * (again * c.denoiser.forward + c.denoiser.backward) + c.classifier.backward


@dataclass(frozen=True)
class Work:
    """Denoiser calls of predictions and gradients (recomputation not counted), and the FLOPs of each."""

    calls: int = 0
    forward: int = 0
    gradient: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.calls + other.calls, self.forward + other.forward, self.gradient + other.gradient)

    def __mul__(self, n: int) -> Work:
        return Work(n * self.calls, n * self.forward, n * self.gradient)

    @property
    def flops(self) -> int:
        return self.forward + self.gradient


def calls_of(purifier: Purifier | None, schedule: Schedule) -> int:
    return purifier.calls(schedule) if purifier else 0


def predictions(c: Costs, purifier: Purifier | None, n: int, schedule: Schedule) -> Work:
    """`n` purified predictions."""
    calls = calls_of(purifier, schedule)
    return Work(calls, forward_flops(c, calls, isinstance(purifier, HetPure))) * n


def gradients(c: Costs, purifier: Purifier | None, n: int, schedule: Schedule, gradient: str = "exact") -> Work:
    """`n` gradients as the attack takes them: exact, through a surrogate, or past the purifier (bpda)."""
    if purifier is None:
        return Work(0, 0, c.classifier.forward + c.classifier.backward) * n
    if gradient == "bpda":
        once = predictions(c, purifier, 1, schedule)
        return Work(once.calls, 0, once.forward + c.classifier.backward) * n
    seen = purifier if gradient == "exact" else coarser(purifier, gradient, schedule)
    calls = seen.calls(schedule)
    return Work(calls, 0, gradient_flops(c, calls, isinstance(seen, HetPure))) * n


AUTOATTACK = 2 * (100 + 1)  # gradients per image and EOT sample of the randomised version: two APGDs, each 100 iterations and a start


def attack_work(
    c: Costs, purifier: Purifier | None, attack: PGD, n: int, schedule: Schedule, column: str = "", spent: int | None = None
) -> Work:
    """Attacking `n` images; an upper bound where images are set aside early, unless the image-iterations `spent` are known."""
    if column == "AutoAttack":
        return gradients(c, purifier, n * AUTOATTACK * attack.eot, schedule)
    iterations = n * attack.iterations if spent is None else spent
    work = gradients(c, purifier, iterations * attack.eot, schedule, attack.gradient)
    if attack.confirm:
        checks = max(0, iterations - n) // attack.confirm_every
        work += predictions(c, purifier, checks * attack.confirm, schedule)
    return work


def cell_work(
    c: Costs, purifier: Purifier | None, attack: PGD, n: int, K: int, schedule: Schedule, column: str = "", spent: int | None = None
) -> Work:
    """One cell of a table: the attack, then K purifications of the adversarial, the clean and the null image."""
    scoring = predictions(c, purifier, 3 * n * (K if purifier else 1), schedule)
    return attack_work(c, purifier, attack, n, schedule, column, spent) + scoring


# ---- machines --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Machine:
    """`peak` dense TF32 (or CPU) FLOP/s, the share of it that large convolutions sustain, and bytes of memory; `source` of the share."""

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
        Machine("A100", 156e12, 0.17, 80e9, "27 TFLOP/s in DiffBreak's log of 128 copies and 100 steps"),
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


def calibrate(bench: benches.Bench, rows: int = MOST["cpu"]) -> Rates:
    """This machine's rates, from one gradient and one prediction of the bench's method on `rows` images."""
    c, size = costs(bench.name), DATASETS[benches.dataset(bench.name)].size
    defended = bench.defended(bench.classifier, bench.denoiser, bench.method, schedule=bench.schedule)
    x, labels, ids = (
        torch.rand(rows, 3, size, size, device=bench.device),
        torch.zeros(rows, dtype=torch.long, device=bench.device),
        range(rows),
    )
    gradient = fastest(lambda: attacks.loss_and_gradient(defended, x, labels, ids, [0])[1].sum().item())
    forward = fastest(lambda: attacks.logits_of(defended, x, ids, [0]).sum().item())
    one = gradients(c, bench.method, rows, bench.schedule), predictions(c, bench.method, rows, bench.schedule)
    return Rates(one[0].gradient / gradient, one[1].forward / forward)


def microbatch(c: Costs, calls: int, memory: float, most: int = 1024, reserve: float = 0.15) -> int:
    """Rows of an exact gradient that fit into `memory` bytes beside the weights, keeping a reserve for the allocator."""
    rows = int(((1 - reserve) * memory - c.weights) // c.row_bytes(calls))
    if rows < 1:
        need = (c.weights + c.row_bytes(calls)) / (1 - reserve)
        raise ValueError(f"one image needs {need / 1e9:.1f} GB of memory, there are {memory / 1e9:.1f}")
    return min(rows, most)


# ---- plans -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """A row and a column of a table, `runs` times."""

    row: str
    column: str
    purifier: Purifier
    attack: PGD
    n: int
    K: int
    runs: int = 1

    def work(self, bench: str, schedule: Schedule) -> Work:
        return cell_work(costs(bench), self.purifier, self.attack, self.n, self.K, schedule, self.column) * self.runs


def cells(bench: str, budget: Budget, number: int | None = None) -> list[Cell]:
    """The cells of table `number` under `budget`, or, without one, the method's cell under the attack of the bench's main table."""
    protocol = protocols.main_table(bench) if number is None else protocols.table(number)
    paper = budget.name == "paper"
    attack, n, K = protocol.attack, protocol["n_images"], protocol["votes"]
    if not paper:
        attack, n, K = replace(attack, iterations=budget.iterations, eot=budget.eot, confirm=PGD.confirm), budget.n_images, budget.K
    if number is None:
        return [Cell("method", protocol.columns[0], protocol.method, attack, n, K)]
    rows = {"uniform": protocol.baseline, "method": protocol.method}
    runs = protocol["runs"] if paper else 1
    return [Cell(row, column, purifier, attack, n, K, runs) for row, purifier in rows.items() for column in protocol.columns]


def plan(bench: str, budget: Budget, number: int | None = None, machine: str = "H100", rates: Rates | None = None) -> dict:
    """Totals and cells: `calls`, `flops`, `bytes` of a microbatch of `rows` images, and `hours` on one `machine` (or at `rates`)."""
    schedule, c, found = linear_schedule(), costs(bench), cells(bench, budget, number)
    works = {cell: cell.work(bench, schedule) for cell in found}
    total = sum(works.values(), Work())
    calls = max(cell.purifier.calls(schedule) for cell in found)
    known = MACHINES.get(machine)
    rows = microbatch(c, calls, known.memory) if known else MOST["cpu"]
    speed = rates or Rates(known.sustained, known.sustained)
    return {
        "bench": bench,
        "budget": budget.name,
        "table": number,
        "machine": machine,
        "throughput": round(total.flops / speed.seconds(total) / 1e12, 3),
        "utilisation": known.utilisation if known else None,
        "calls": total.calls,
        "calls_per_purification": calls,
        "flops": total.flops,
        "rows": rows,
        "bytes": c.weights + rows * c.row_bytes(calls),
        "hours": speed.seconds(total) / 3600,
        "hours_on": {name: total.flops / m.sustained / 3600 for name, m in MACHINES.items()},
        "cells": [_line(cell, work, speed) for cell, work in works.items()],
        "our_choice": (protocols.main_table(bench) if number is None else protocols.table(number)).unknown(),
    }


def _line(cell: Cell, work: Work, speed: Rates) -> dict:
    same = {"row": cell.row, "column": cell.column, "n": cell.n, "iterations": cell.attack.iterations, "eot": cell.attack.eot, "K": cell.K}
    return same | {"runs": cell.runs, "calls": work.calls, "flops": work.flops, "hours": speed.seconds(work) / 3600}


def summary(found: dict) -> str:
    """A plan in words, for people."""
    lines = [
        f"{found['bench']}, budget {found['budget']}" + (f", Table {found['table']}" if found["table"] else ", one cell"),
        f"{found['calls']:.3g} denoiser calls ({found['calls_per_purification']} per purification), {found['flops']:.3g} FLOP",
        f"{found['hours']:.3g} hours on {found['machine']} at {found['throughput']:.3g} TFLOP/s sustained",
        f"{found['bytes'] / 1e9:.2f} GB for a microbatch of {found['rows']} images",
        "hours on one " + ", ".join(f"{name}: {hours:.3g}" for name, hours in found["hours_on"].items()),
    ]
    return "\n".join(lines)


# ---- afterwards ------------------------------------------------------------------------------------------------------------


def measured(bench: str, rates: Rates, schedule: Schedule | None = None) -> list[dict]:
    """Every experiment of `bench` on record: measured seconds per image beside the prediction for the iterations it spent."""
    from hetpure_lab import evidence, specs

    lines = []
    for path in evidence.files():
        records = list(evidence.read(path).values())
        config = records[0]["config"]
        attack = {k: v for k, v in config["attack"].items() if k != "name"}
        if config["bench"] != bench or config["attack"]["name"] not in ("pgd", "bpda"):
            continue
        defence = specs.write(config["defence"], evidence.DEFENCES)
        _, purifier = specs.parse(defence, evidence.DEFENCES)
        if not isinstance(purifier, HetPure | Uniform | None):
            continue
        spent = sum(r["iterations"] for r in records)
        work = cell_work(costs(bench), purifier, PGD(**attack), len(records), config["K"], schedule or linear_schedule(), spent=spent)
        seconds, predicted = sum(r["seconds"] for r in records) / len(records), rates.seconds(work) / len(records)
        lines.append({"file": path.name, "n": len(records), "seconds": seconds, "predicted": predicted, "ratio": predicted / seconds})
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m hetpure_lab.cost", description=__doc__.split("\n")[0])
    parser.add_argument("--bench", default="cifar10-small")
    parser.add_argument("--budget", default="quick", help="smoke, quick or paper")
    parser.add_argument("--table", type=int, help="the whole table instead of one cell")
    parser.add_argument("--on", help=f"{', '.join(MACHINES)}, or here: calibrate on this machine (small benches: here, others: H100)")
    parser.add_argument("--device", default="cpu", help="with --on here: where to calibrate")
    parser.add_argument("--measured", action="store_true", help="compare the records of the bench with the prediction")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parser.parse_args()
    machine = args.on or ("here" if args.bench.partition("+")[0] in benches.SMALL else "H100")
    try:
        if machine not in MACHINES and machine != "here":
            raise ValueError(f"unknown machine {machine!r}; known: {', '.join(MACHINES)}, here")
        here = machine == "here" or args.measured
        rates = calibrate(benches.load(args.bench, args.device)) if here else None
        found = measured(args.bench, rates) if args.measured else plan(args.bench, choose(args.budget), args.table, machine, rates)
    except ValueError as error:
        parser.exit(2, f"error: {error}\n")
    print(json.dumps(found, indent=1) if args.json or args.measured else summary(found))


if __name__ == "__main__":
    main()
