"""Speed and memory of attacks on this machine, as ratios within one run: ``python -m hetpure_lab.bench``.

Writes ``out/bench.json``, which says what the machine had to do besides (`load_average`: ratios mean most on an idle machine):

- `exact_over_floor`: time of one exact gradient over three forward passes per denoiser call plus the classifier's forward and backward
  pass, measured alone on the same batch;
- `released_loop_over_ours`: time per image of a straightforward reading of the released attack loop over ours, same networks and budget;
- `saved_bytes_40_over_10`: peak of live bytes of one gradient with 40 steps over that with 10;
- `dask_2_over_1`: images per second of two one-thread workers over one, on independent shards.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from hetpure_core import HetPure, Purified
from hetpure_lab import benches, data, evidence, microbatch, scale
from hetpure_lab.attacks import PGD
from hetpure_lab.benches import Bench
from hetpure_lab.data import ROOT, Images
from hetpure_lab.evidence import Experiment
from hetpure_lab.measure import LiveBytes, fastest

ROWS = 32
RELEASED_ITERATIONS, EOT = 200, 8  # the paper's iterations, and fewer gradients per iteration to keep this short


def gradient(defended: torch.nn.Module, images: Tensor) -> Tensor:
    x = images.clone().requires_grad_()
    return torch.autograd.grad(defended(x, range(len(x))).sum(), x)[0]


def exact_over_floor(bench: Bench, rows: int = ROWS) -> dict[str, float]:
    """Time of one exact gradient beside its floor, in seconds per batch."""
    images, t = torch.rand(rows, 3, 32, 32), torch.full((rows,), 100)
    defended = Purified(bench.classifier, bench.denoiser, bench.method, schedule=bench.schedule)
    with torch.no_grad():
        forward = fastest(lambda: bench.denoiser(2 * images - 1, t))
    classifier = fastest(lambda: gradient(lambda x, _: bench.classifier(x), images))
    exact, calls = fastest(lambda: gradient(defended, images), repeats=2), bench.method.calls(bench.schedule)
    defended.checkpointing = False
    stored = fastest(lambda: gradient(defended, images), repeats=2)
    floor = 3 * calls * forward + classifier
    result = {"exact_over_floor": exact / floor, "exact_s": exact, "floor_s": floor, "denoiser_forward_per_s": rows / forward}
    return result | {"stored_over_recomputed": stored / exact}


def saved_bytes(bench: Bench, steps: int, rows: int = 8) -> int:
    """Peak of live bytes of one exact gradient."""
    images = torch.rand(rows, 3, 32, 32)
    with LiveBytes() as meter:
        gradient(Purified(bench.classifier, bench.denoiser, HetPure(steps=steps), schedule=bench.schedule), images)
    return meter.peak


def released_iteration(defended: Purified, x: Tensor, images: Tensor, y: Tensor, attack: PGD, k: int) -> Tensor:
    """One iteration as the released loop does it: gradients one purification at a time, for all images, with the mask found again."""
    total = torch.zeros_like(x)
    for copy in range(k * attack.eot, (k + 1) * attack.eot):
        z = x.clone().requires_grad_()
        F.cross_entropy(defended(z, range(len(z)), [copy] * len(z)), y).backward()
        total += z.grad
    return attack.project(x + attack.ascent(total / attack.eot), images)


def released_loop_over_ours(bench: Bench, images: Images) -> dict[str, float]:
    """Seconds per image of both loops. The released one spends the same on every iteration, so three are timed and multiplied."""
    attack = PGD(iterations=RELEASED_ITERATIONS, eot=EOT)
    x, y = images.floats, images.labels
    defended = Purified(bench.classifier, bench.denoiser, bench.method, schedule=bench.schedule, checkpointing=False)
    networks = (bench.classifier, bench.denoiser)
    for network in networks:
        network.requires_grad_(True)  # the released networks are not frozen: every backward pass fills .grad of all weights
    released = fastest(lambda: released_iteration(defended, x, x, y, attack, 0), repeats=2) * attack.iterations / len(x)
    for network in networks:
        network.requires_grad_(False)
        network.zero_grad()
    started = time.perf_counter()
    microbatch.fit(defended, x[:1])
    _, spent = attack.run(defended, x, y, images.ids)
    ours = (time.perf_counter() - started) / len(x)
    result = {"released_loop_over_ours": released / ours, "released_s_per_image": released, "ours_s_per_image": ours}
    return result | {"iterations": attack.iterations, "iterations_spent": float(spent.float().mean())}


def dask_2_over_1(images: Images, shards: int = 8) -> dict[str, float]:
    """Throughput of two workers over one."""
    from distributed import Client, LocalCluster

    experiment, times = Experiment("hetpure", PGD(iterations=1, eot=8, confirm=0), K=4), {}
    work = [(experiment, images[torch.tensor([i % len(images)])]) for i in range(shards)]
    with tempfile.TemporaryDirectory() as folder:
        options = {"threads_per_worker": 1, "dashboard_address": None, "local_directory": folder}
        for n in (1, 2):
            with LocalCluster(n, **options) as cluster, Client(cluster) as client:
                client.run(evidence.shard, *work[0])  # every worker has imported and loaded what it needs
                started = time.perf_counter()
                list(scale.each(client, evidence.shard, work))
                times[n] = time.perf_counter() - started
    return {"dask_2_over_1": times[1] / times[2], "dask_1_s": times[1], "dask_2_s": times[2]}


def main() -> None:
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    bench = benches.load("cifar10-small")
    images = data.load(bench.dataset, quiet=True)
    result = exact_over_floor(bench) | released_loop_over_ours(bench, images.take(8))
    result |= {"saved_bytes_40_over_10": saved_bytes(bench, 40) / saved_bytes(bench, 10)} | dask_2_over_1(images.take(8))
    result |= {"machine": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads(), "load_average": load}
    target: Path = ROOT / "out" / "bench.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(result | {"torch": torch.__version__}, indent=1) + "\n")
    print(target.read_text(), end="")


if __name__ == "__main__":
    main()
