"""Speed and memory of attacks on this machine, as ratios within one run: ``hetpure bench``.

Seconds are of the processor, not of the clock, and the least of several runs in turn, so that a
busy machine changes little; only the ratio of workers needs the clock, and idle cores. Writes
``out/bench.json``, with the load it met (`load_average`):

- `exact_over_floor`: one exact gradient over three forward passes per denoiser call plus the
  classifier's forward and backward pass, measured alone on the same batch;
- `released_loop_over_ours`: a straightforward reading of the released attack loop, which takes the
  gradient of the image only, over ours, per image that is decided, with the same networks and
  budget. It is the product of two factors: `released_loop_per_iteration`, seconds per image and
  iteration of both loops, and `iterations_over_spent`, the budget over the iterations that ours
  spends on an image before its failure is confirmed. Ours is charged for its confirmations, and an
  image that is undecided after `LOOK` iterations for the whole budget;
- `equal_result_over_ours`: the released loop run to its end (200 iterations of 20) over the
  cheapest of our attacks on record that leaves no more of the same images than that budget does,
  per image, for the defence of `EQUAL` where it is least; by defence beside it. The number of
  gradients stands in the records (`gradients_ratio`, beside the paired difference `minus_whole`);
  their cost is measured here, on the method;
- `saved_bytes_40_over_10`: peak of live bytes of one gradient with 40 steps over the peak with 10;
- `dask_2_over_1`: images per second of two one-thread workers over one, on independent shards, by
  the clock. On a busy machine that says little; `dask_2_over_1_processor`, processor time of the
  one over the busier of two, says how far the work was shared.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from hetpure_core import HetPure, Purified
from hetpure_lab import data, evidence
from hetpure_lab.attacks import ATTACKS, PGD
from hetpure_lab.common import microbatch, specs, stats
from hetpure_lab.common.measure import LiveBytes
from hetpure_lab.common.paths import HOME, RESULTS
from hetpure_lab.common.progress import bar
from hetpure_lab.data import Images
from hetpure_lab.evidence import Experiment, records, workers
from hetpure_lab.networks import benches
from hetpure_lab.networks.benches import Bench

if TYPE_CHECKING:
    from distributed import Client

BUDGET = PGD(iterations=200)  # the paper's iterations; fewer gradients in each, to keep this short
EQUAL = ("hetpure", "uniform:t=0.1", "uniform:t=0.2")  # defences on which results are held equal
WHOLE = PGD(iterations=200, eot=20)  # what the released loop runs to its end
# what attacks have in common whose gradients cost the same, and what early records do not say
SAME = {"norm": "", "eps": "", "gradient": "", "frozen": "", "precision": "float32"}
LOOK = 40  # iterations that are really run


def cpu_seconds(*works: Callable[[], object], repeats: int = 3) -> list[float]:
    """Processor time of each, the least of `repeats` runs in turn after a first one."""
    timings = []
    for _ in range(repeats + 1):
        for work in works:
            started = time.process_time()
            work()
            timings.append(time.process_time() - started)
    return [min(timings[i + len(works) :: len(works)]) for i in range(len(works))]


def gradient(defended: torch.nn.Module, images: Tensor) -> Tensor:
    x = images.clone().requires_grad_()
    return torch.autograd.grad(defended(x, range(len(x))).sum(), x)[0]


def behind(bench: Bench, method: HetPure | None = None, **options) -> Purified:
    """The bench's networks behind its method."""
    return Purified(
        bench.classifier, bench.denoiser, method or bench.method, schedule=bench.schedule, **options
    )


def exact_over_floor(bench: Bench, rows: int = 32) -> dict[str, float]:
    """One exact gradient beside its floor, in seconds per batch."""
    images, t = torch.rand(rows, 3, 32, 32), torch.full((rows,), 100)
    recomputing, storing = behind(bench), behind(bench, checkpointing=False)
    forward, classifier, exact, stored = cpu_seconds(
        torch.no_grad()(lambda: bench.denoiser(2 * images - 1, t)),
        lambda: gradient(lambda x, _: bench.classifier(x), images),
        lambda: gradient(recomputing, images),
        lambda: gradient(storing, images),
        repeats=2,
    )
    floor = 3 * bench.method.calls(bench.schedule) * forward + classifier
    result = {
        "exact_over_floor": exact / floor,
        "exact_s": exact,
        "floor_s": floor,
        "denoiser_forward_per_s": rows / forward,
    }
    return result | {"stored_over_recomputed": stored / exact}


def saved_bytes(bench: Bench, steps: int, rows: int = 8) -> int:
    """Peak of live bytes of one exact gradient."""
    with LiveBytes() as meter:
        gradient(behind(bench, HetPure(steps=steps)), torch.rand(rows, 3, 32, 32))
    return meter.peak


def released_iteration(
    defended: Purified, x: Tensor, images: Tensor, y: Tensor, attack: PGD
) -> Tensor:
    """One iteration as the released loop does it: gradients one purification at a time, for all
    images, with the mask found again.
    """
    total = torch.zeros_like(x)
    for k in range(attack.eot):
        z = x.clone().requires_grad_()
        F.cross_entropy(defended(z, range(len(z)), [k] * len(z)), y, reduction="sum").backward()
        total += z.grad
    return attack.project(x + attack.ascent(total / attack.eot), images)


def our_iteration(defended: Purified, x: Tensor, images: Tensor, y: Tensor, attack: PGD) -> Tensor:
    """The same iteration as `PGD` does it."""
    _, gradient = attack.loss_and_gradient(defended, x, images, y, range(len(x)), range(attack.eot))
    return attack.project(x + attack.ascent(gradient), images)


def per_iteration(bench: Bench, images: Images) -> tuple[float, float]:
    """Seconds per image of one iteration of the released loop and of ours, without confirmations.
    Two of its copies are timed.
    """
    x, y, attack = images.floats, images.labels, replace(BUDGET, eot=2)
    ours, theirs = behind(bench), behind(bench, checkpointing=False)
    microbatch.fit(ours, x[:1])
    both = cpu_seconds(
        lambda: released_iteration(theirs, x, x, y, attack),
        lambda: our_iteration(ours, x, x, y, attack),
    )
    released, our = (seconds / len(x) / attack.eot * BUDGET.eot for seconds in both)
    return released, our


def until_decided(bench: Bench, images: Images) -> tuple[float, Tensor]:
    """Seconds per image and iteration of our attack with its confirmations, and the iterations that
    each image is charged.
    """
    ours = behind(bench)
    microbatch.fit(ours, images.floats[:1])
    started = time.process_time()
    _, spent = replace(BUDGET, iterations=LOOK).run(ours, images.floats, images.labels, images.ids)
    return (time.process_time() - started) / int(spent.sum()), torch.where(
        spent == LOOK, BUDGET.iterations, spent
    )


def released_loop_over_ours(bench: Bench, images: Images) -> dict[str, float]:
    """Both loops on the same images; the released one spends the same on every image and
    iteration.
    """
    released, iteration = per_iteration(bench, images)
    rate, charged = until_decided(bench, images)
    per, saved = released / rate, BUDGET.iterations / float(charged.double().mean())
    result = {
        "released_loop_over_ours": per * saved,
        "released_loop_per_iteration": per,
        "iterations_over_spent": saved,
    }
    result |= {
        "released_gradient_over_ours": released / iteration,
        "budget": BUDGET.iterations,
        "images": len(images),
    }
    result |= {
        "undecided": int((charged == BUDGET.iterations).sum()),
        "released_s_per_image": released * BUDGET.iterations,
    }
    return result | equal_result(released, iteration, rate - iteration)


@dataclass(frozen=True)
class Spent:
    """The average spending of an attack on record on an image, and its result: `iterations` of
    `eot` gradients; the share `left` of `n` images.
    """

    attack: str
    iterations: float
    eot: int
    left: float
    n: int
    apart: stats.Accuracy  # what it leaves minus what `WHOLE` leaves, paired

    def gradients(self) -> float:
        """Per image."""
        return self.iterations * self.eot

    def seconds(self, gradient: float, confirmation: float) -> float:
        """Per image, from the seconds of `BUDGET.eot` gradients and of the confirmations of an
        iteration.
        """
        return self.iterations * (gradient * self.eot / BUDGET.eot + confirmation)


def spent(found: dict[str, dict], reference: dict[str, dict]) -> Spent:
    """From the records of an experiment on the images of the `reference`."""
    config = found[next(iter(reference))]["config"]
    mine, theirs = (
        evidence.Outcomes.of({image: records[image] for image in reference})
        .correct("adversarial")
        .mean(1)
        for records in (found, reference)
    )
    return Spent(
        specs.write(config["attack"], ATTACKS),
        sum(found[image]["iterations"] for image in reference) / len(reference),
        config["attack"]["eot"],
        float(mine.mean()),
        len(reference),
        stats.paired_difference(mine, theirs),
    )


def whole(defence: str, results: Path = RESULTS) -> Spent | None:
    """What `WHOLE` left, if it is on record."""
    reference = evidence.read(Experiment(defence, WHOLE).path(results))
    return spent(reference, reference) if reference else None


def no_worse(defence: str, results: Path = RESULTS) -> list[Spent]:
    """Our attacks on record that leave no more than `WHOLE` leaves of all its images: that one is
    among them.
    """
    reference = evidence.read(Experiment(defence, WHOLE).path(results))
    found = []
    for path in sorted((results / "cifar10-small").glob("*.jsonl")) if reference else ():
        other, first = evidence.read(path), next(iter(reference))
        if set(reference) <= set(other) and _alike(
            reference[first]["config"], other[first]["config"]
        ):
            found.append(spent(other, reference))
    return [each for each in found if each.left <= spent(reference, reference).left]


def _alike(one: dict, other: dict) -> bool:
    """Whether two configurations are of one defence and threat model, attacked with exact gradients
    that stop at confirmed failures.
    """
    same = all(
        one["attack"].get(k, otherwise) == other["attack"].get(k, otherwise)
        for k, otherwise in SAME.items()
    )
    return (
        same
        and one["defence"] == other["defence"]
        and one["K"] == other["K"]
        and other["attack"]["name"] == "pgd"
    )


def equal_result(
    released: float, gradient: float, confirmation: float, results: Path = RESULTS
) -> dict[str, float | dict]:
    """`equal_result_over_ours` from seconds per image and iteration: of the released loop, of ours,
    and of its confirmations.
    """
    by_defence = {}
    for defence in EQUAL:
        if attacks := no_worse(defence, results):
            best = min(attacks, key=lambda each: each.seconds(gradient, confirmation))
            ratio = (
                released
                * WHOLE.iterations
                * WHOLE.eot
                / BUDGET.eot
                / best.seconds(gradient, confirmation)
            )
            by_defence[defence] = {
                "ratio": ratio,
                "gradients_ratio": WHOLE.iterations * WHOLE.eot / best.gradients(),
                "attack": best.attack,
                "left": best.left,
                "minus_whole": [best.apart.value, best.apart.low, best.apart.high],
                "images": best.n,
            }
    least = min((found["ratio"] for found in by_defence.values()), default=None)
    return {"equal_result_over_ours": least, "equal_result_by_defence": by_defence}


def dask_2_over_1(images: Images, shards: int = 8) -> dict[str, float]:
    """Throughput of two workers over one, by the clock and by the processor time of the busier one;
    the better of two rounds.
    """
    from distributed import Client

    experiment, clock, processor = (
        Experiment("hetpure", PGD(iterations=1, eot=8, confirm=0), K=4),
        {},
        {},
    )
    work = [(experiment, images[torch.tensor([i % len(images)])]) for i in range(shards)]
    with tempfile.TemporaryDirectory() as folder:
        for n in (1, 2):
            with (
                workers.local(n, dashboard_address=None, local_directory=folder) as cluster,
                Client(cluster) as client,
            ):
                # every worker has imported and loaded what it needs
                client.run(evidence.shard, *work[0])
                clock[n], processor[n] = map(min, zip(*(round_of(client, work) for _ in range(2))))
    result = {
        "dask_2_over_1": clock[1] / clock[2],
        "dask_2_over_1_processor": processor[1] / processor[2],
    }
    return result | {"dask_1_s": clock[1], "dask_2_s": clock[2]}


def round_of(client: Client, work: list[tuple]) -> tuple[float, float]:
    """Seconds by the clock, and of processor time of the busiest worker."""
    started, before = time.perf_counter(), client.run(time.process_time)
    list(workers.each(client, evidence.shard, work))
    after = client.run(time.process_time)
    return time.perf_counter() - started, max(after[worker] - before[worker] for worker in after)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="hetpure bench", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--to", type=Path, default=HOME / "out" / "bench.json", help="file to write"
    )
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    started = time.perf_counter()
    result = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": 1,
        "torch": torch.__version__,
        "commit": records.COMMIT,
    }
    result["load_average"] = os.getloadavg()[0]
    bench = benches.load("cifar10-small")
    images = data.load_or_sample(bench.dataset, quiet=True).take(8)
    memory = lambda: {"saved_bytes_40_over_10": saved_bytes(bench, 40) / saved_bytes(bench, 10)}
    parts = (
        lambda: exact_over_floor(bench),
        memory,
        lambda: released_loop_over_ours(bench, images),
        lambda: dask_2_over_1(images),
    )
    for part in bar(parts, "bench"):
        found = part()
        print(
            *(
                f"{name}: {value:.3g}"
                for name, value in found.items()
                if isinstance(value, int | float)
            ),
            sep="\n",
            flush=True,
        )
        result |= found
    result["minutes"] = (time.perf_counter() - started) / 60
    args.to.parent.mkdir(parents=True, exist_ok=True)
    args.to.write_text(json.dumps(result, indent=1) + "\n")
