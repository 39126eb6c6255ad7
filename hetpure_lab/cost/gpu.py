"""The engine on a GPU: ``hetpure gpu``, under ten minutes, into ``results/gpu.json``.

Without a GPU it says so and ends.

- `equality`: the small bench behind the method and uniform noise, on the CPU and on the GPU: the
  largest difference of logits, and whether a short attack leaves the same records (labels,
  perturbations, iterations). It runs in float32 without TF32.
- `throughput`: exact gradients per second against the number of rows in a batch, until memory ends.
- `memory`: peak bytes of one gradient beside the planner's prediction.
- `cell`: a cell of Table 1 with the paper's networks and random weights: seconds per image of one
  iteration, measured, beside what the planner predicts from the counted work at the rate that this
  device reached on predictions.

Exit code 1 if records or logits differ.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from hetpure_core import HetPure, Purified, linear_schedule
from hetpure_lab import attacks, data, defences
from hetpure_lab.attacks import PGD
from hetpure_lab.common import microbatch
from hetpure_lab.common.paths import RESULTS
from hetpure_lab.common.progress import bar
from hetpure_lab.cost import planner
from hetpure_lab.data import Images
from hetpure_lab.evidence import Experiment, engine
from hetpure_lab.networks import benches, published
from hetpure_lab.networks.benches import Bench, BenchError

LOGITS = 1e-4  # largest difference of logits between two devices
ATTACK = PGD(iterations=2, eot=2, confirm=0)
PAPER = ("wrn_28_10", "edm_ddpmpp")  # classifier and denoiser of Table 1


def clock(work: Callable[[], object], device: torch.device, repeats: int = 3) -> float:
    """Seconds of the fastest of `repeats` runs after a first one; a GPU is waited for."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    times = []
    for _ in range(repeats + 1):
        wait()
        started = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - started)
    return min(times[1:])


def gradient_of(defended: Purified, rows: int, size: int) -> Callable[[], object]:
    """One exact gradient of `rows` images, as a function to time."""
    device = next(defended.classifier.parameters()).device
    x = torch.rand(rows, 3, size, size, device=device)
    labels = torch.zeros(rows, dtype=torch.long, device=device)
    return lambda: attacks.loss_and_gradient(defended, x, labels, range(rows), [0])[1]


# ---- the same on both devices --------------------------------------------------------------------


def equality(images: Images, device: torch.device, bench: str = "cifar10-small") -> dict:
    """Logits and records on the CPU and on `device`."""
    here, there = benches.load(bench), benches.load(bench, str(device))
    found = {}
    for spec in ("uniform:t=0.1", "hetpure"):
        logits = [
            attacks.logits_of(
                defences.build(spec, b), images.floats.to(b.device), images.ids, range(4)
            ).cpu()
            for b in (here, there)
        ]
        experiment = Experiment(spec, ATTACK, bench, K=4)
        records = [engine.shard(experiment, images, str(b.device), b) for b in (here, there)]
        found[spec] = {
            "logits": (logits[0] - logits[1]).abs().max().item(),
            "records": sum(map(same, *records)),
            "of": len(images),
        }
    return found


def same(a: dict, b: dict) -> bool:
    """Whether two records of an image agree in every integer that the attack or the scoring
    made.
    """
    keys = ("image", "label", "iterations", "delta", "adversarial", "clean", "null")
    return all(a[key] == b[key] for key in keys)


def complaints(found: dict) -> list[str]:
    """How two devices disagree, in sentences."""
    said = []
    for spec, about in found.items():
        if about["logits"] > LOGITS:
            said.append(f"{spec}: logits differ by {about['logits']:.2g}, more than {LOGITS:g}")
        if about["records"] < about["of"]:
            said.append(f"{spec}: {about['of'] - about['records']} of {about['of']} records differ")
    return said


# ---- speed and memory ----------------------------------------------------------------------------


def throughput(bench: Bench, batches: Sequence[int], size: int = 32) -> Iterator[dict]:
    """Exact gradients per second of the bench's method for every batch that fits."""
    defended = bench.defended(
        bench.classifier, bench.denoiser, bench.method, schedule=bench.schedule
    )
    for rows in batches:
        try:
            with microbatch.fixed(rows, bench.device):
                seconds = clock(gradient_of(defended, rows, size), bench.device, 2)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            yield {"rows": rows, "gradients_per_s": None}
            return
        yield {"rows": rows, "gradients_per_s": round(rows / seconds, 2)}


def memory(bench: Bench, rows: int = 16, size: int = 32) -> dict:
    """Peak bytes of one gradient on a GPU beside the planner's; elsewhere the prediction alone."""
    defended = bench.defended(
        bench.classifier, bench.denoiser, bench.method, schedule=bench.schedule
    )
    predicted = rows * planner.costs(bench.name).row_bytes(bench.method)
    if bench.device.type != "cuda":
        return {"rows": rows, "predicted": predicted, "measured": None}
    work = gradient_of(defended, rows, size)
    with microbatch.fixed(rows, bench.device):
        work()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
    return {
        "rows": rows,
        "predicted": predicted,
        "measured": torch.cuda.max_memory_allocated() - before,
    }


def random_network(name: str, device: torch.device) -> nn.Module:
    """A published architecture with random weights."""
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        network = published.NETWORKS[name]()
        # some are zero at the start, which would be an easier network
        for p in network.parameters():
            if not p.abs().sum():
                nn.init.normal_(p, std=0.02)
    return network.eval().requires_grad_(False)


def cell(device: torch.device, rows: int = 16, method: HetPure | None = None) -> dict:
    """A cell of Table 1 at the paper's size: one gradient of `rows` images, measured and
    predicted.
    """
    classifier, denoiser = (random_network(name, device) for name in PAPER)
    method = method or benches.method("cifar10-paper")
    bench = Bench(
        "cifar10-paper",
        "cifar10",
        benches.PAPER["cifar10-paper"].classes,
        classifier,
        denoiser,
        method,
        linear_schedule(),
        {},
        device,
    )
    defended = bench.defended(classifier, denoiser, method, schedule=bench.schedule)
    x = torch.rand(rows, 3, 32, 32, device=device)
    with microbatch.fixed(rows, device):
        forward = clock(lambda: attacks.logits_of(defended, x, range(rows), [0]), device, 1)
        measured = clock(gradient_of(defended, rows, 32), device, 1)
    counted = replace(planner.costs("cifar10-paper"), checkpointing=True)
    work = planner.predictions(counted, method, rows, bench.schedule)
    rate = work.forward / forward
    predicted = planner.gradients(counted, method, rows, bench.schedule).flops / rate
    per = {
        "measured_s_per_image_iteration": measured / rows,
        "predicted_s_per_image_iteration": predicted / rows,
    }
    return per | {
        "rows": rows,
        "calls": method.calls(bench.schedule),
        "flops_per_s": rate,
        "networks": list(PAPER),
    }


# ---- command -------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="hetpure gpu", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, ...")
    parser.add_argument("--to", type=Path, default=RESULTS / "gpu.json", help="file to write")
    args = parser.parse_args(argv)
    device = benches.resolve_device(args.device)
    if device.type != "cuda":
        raise BenchError(f"this measures a GPU; {args.device} is none")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    bench, images = benches.load("cifar10-small", str(device)), data.shipped("cifar10")
    parts = {
        "equality": lambda: equality(images, device),
        "throughput": lambda: list(throughput(bench, [2**k for k in range(3, 13)])),
        "memory": lambda: memory(bench, 256),
        "cell": lambda: cell(device, 64),
    }
    found = {"device": torch.cuda.get_device_name(device), "torch": torch.__version__}
    for name in (seen := bar(parts, "gpu")):
        seen.set_postfix_str(name)
        found[name] = parts[name]()
    args.to.parent.mkdir(parents=True, exist_ok=True)
    args.to.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    for sentence in (said := complaints(found["equality"])):
        print(sentence)
    return int(bool(said))
