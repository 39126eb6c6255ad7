"""Speed and memory of the exact gradient on this machine, as ratios within one run: ``python -m hetpure_lab.bench``.

Writes ``out/bench.json``: `exact_over_floor` is the time of one exact gradient over three forward passes per denoiser call plus the
classifier's forward and backward pass, measured alone on the same batch; `saved_bytes_40_over_10` the peak of live bytes of one
gradient with 40 steps over that with 10.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable

import torch

from hetpure_core import HetPure, Purified
from hetpure_lab import benches
from hetpure_lab.attacks import ROWS
from hetpure_lab.benches import Bench
from hetpure_lab.cost import LiveBytes
from hetpure_lab.data import ROOT


def seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """The fastest of several timings: what the work costs when nothing disturbs it."""
    timings = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        work()
        timings.append(time.perf_counter() - started)
    return min(timings[1:])


def gradient(defended: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    x = images.clone().requires_grad_()
    return torch.autograd.grad(defended(x, range(len(x))).sum(), x)[0]


def exact_over_floor(bench: Bench, rows: int = ROWS) -> dict[str, float]:
    """Time of one exact gradient beside its floor, in seconds per batch."""
    images, t = torch.rand(rows, 3, 32, 32), torch.full((rows,), 100)
    defended = Purified(bench.classifier, bench.denoiser, bench.method, schedule=bench.schedule)
    with torch.no_grad():
        forward = seconds(lambda: bench.denoiser(2 * images - 1, t))
    classifier = seconds(lambda: gradient(lambda x, _: bench.classifier(x), images))
    exact, calls = seconds(lambda: gradient(defended, images), repeats=2), bench.method.calls(bench.schedule)
    floor = 3 * calls * forward + classifier
    return {"exact_over_floor": exact / floor, "exact_s": exact, "floor_s": floor, "denoiser_forward_per_s": rows / forward}


def saved_bytes(bench: Bench, steps: int, rows: int = 8) -> int:
    """Peak of live bytes of one exact gradient."""
    images = torch.rand(rows, 3, 32, 32)
    with LiveBytes() as meter:
        gradient(Purified(bench.classifier, bench.denoiser, HetPure(steps=steps), schedule=bench.schedule), images)
    return meter.peak


def main() -> None:
    torch.set_num_threads(1)
    bench = benches.load("cifar10-small")
    result = exact_over_floor(bench) | {"saved_bytes_40_over_10": saved_bytes(bench, 40) / saved_bytes(bench, 10)}
    result |= {"machine": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    target = ROOT / "out" / "bench.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(result, indent=1) + "\n")
    print(target.read_text(), end="")


if __name__ == "__main__":
    main()
