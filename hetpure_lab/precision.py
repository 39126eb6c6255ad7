"""Faster arithmetic for a denoiser, and what it does to the gradient: ``python -m hetpure_lab.precision cifar10-small+bf16``.

An option is part of a bench's name, so that records made with it never mix with others. It changes the denoiser only: the sampler, the
classifier and the attack stay in float32. Whether a gradient in bfloat16 still leads where the exact one does is measured, not assumed: the
command prints its cosine with the float32 gradient beside the cosine of two float32 gradients on different noise, and what was gained in
time. With ``--save`` the rows go into ``results/precision.csv``, which the book shows.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hetpure_lab.data import ROOT
from hetpure_lab.measure import fastest

MEASURED = ROOT / "results" / "precision.csv"


class Bfloat16(nn.Module):
    """A denoiser whose convolutions and matrix products run in bfloat16 (autocast); weights and output stay as they are."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        if hasattr(network, "size"):
            self.size = network.size

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.network(x, t).to(x.dtype)


OPTIONS: dict[str, Callable[[nn.Module], nn.Module]] = {"bf16": Bfloat16, "compile": lambda network: torch.compile(network, dynamic=False)}


def wrap(denoiser: nn.Module, options: Sequence[str]) -> nn.Module:
    """The denoiser with `options` applied in their order."""
    for option in options:
        if option not in OPTIONS:
            raise ValueError(f"unknown option {option!r}; known: {', '.join(OPTIONS)}")
        denoiser = OPTIONS[option](denoiser)
    return denoiser


def cosines(a: Tensor, b: Tensor) -> list[float]:
    """The cosine of every image's gradient in `a` with the one in `b`: (n, 3, h, w) twice to n numbers."""
    return F.cosine_similarity(a.flatten(1), b.flatten(1)).tolist()


def agreement(plain: nn.Module, changed: nn.Module, images: Tensor, labels: Tensor, ids: Sequence, copies: int = 1) -> dict[str, float]:
    """How well the gradient through `changed` agrees with the one through `plain`, on the same images and noise, and what it saves.

    `cosine` and `worst` are the mean and the smallest cosine over images, `norm` the mean ratio of lengths; `noise` is the mean cosine of
    two `plain` gradients on different noise: what the attack's own randomness costs. `speed` is the time of `plain` over that of `changed`,
    each the second of two runs; on a CPU the process's own time.
    """
    from hetpure_lab.attacks import loss_and_gradient

    gradients = lambda defended, first=0: loss_and_gradient(defended, images, labels, ids, range(first, first + copies))[1].cpu()
    clock, found = time.process_time if images.device.type == "cpu" else time.perf_counter, []
    seconds = [fastest(lambda d=d: found.append(gradients(d)), 1, clock) for d in (plain, changed)]
    reference, other, elsewhere = found[0], found[-1], gradients(plain, copies)
    same, ratio = cosines(reference, other), other.flatten(1).norm(dim=1) / reference.flatten(1).norm(dim=1)
    agreed = {"cosine": mean(same), "worst": min(same), "norm": ratio.mean().item(), "noise": mean(cosines(reference, elsewhere))}
    return agreed | {"speed": seconds[0] / seconds[1]}


def row(name: str, defence: str, n_images: int, copies: int, split: str, folder: str | None, device: str) -> dict:
    """What the options in a bench's name do, and where that was measured."""
    from hetpure_lab import benches, data, defences

    plain, changed = (benches.load(bench, device) for bench in (name.partition("+")[0], name))
    images = data.load(plain.dataset, split, folder).take(n_images)
    x, y = images.floats.to(plain.device), images.labels.to(plain.device)
    found = agreement(*(defences.build(defence, bench) for bench in (plain, changed)), x, y, images.ids, copies)
    where = torch.cuda.get_device_name(plain.device) if plain.device.type == "cuda" else f"CPU, {platform.machine()}"
    settings = {"bench": name, "defence": defence, "images": n_images, "copies": copies}
    return settings | {k: round(v, 4) for k, v in found.items()} | {"device": where, "torch": torch.__version__.partition("+")[0]}


def save(rows: Sequence[dict], path: Path = MEASURED) -> None:
    """Into the file, in the place of rows of the same bench, defence and device."""
    before = pd.read_csv(path) if path.exists() else pd.DataFrame()
    found = pd.concat([before, pd.DataFrame(rows)]).drop_duplicates(["bench", "defence", "device"], keep="last")
    found.sort_values(["device", "bench", "defence"]).to_csv(path, index=False)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m hetpure_lab.precision", description=__doc__.split("\n")[0])
    parser.add_argument(
        "benches", nargs="*", default=["cifar10-small+bf16", "cifar10-small+compile"], help="benches with options after the name"
    )
    parser.add_argument("--defence", default="hetpure")
    parser.add_argument("--n-images", type=int, default=8)
    parser.add_argument("--eot", type=int, default=8)
    parser.add_argument("--split", default="test")
    parser.add_argument("--data", help="folder of the data set (default: the usual search)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--save", action="store_true", help=f"into {MEASURED.relative_to(ROOT)}, which the book shows")
    args = parser.parse_args(argv)
    try:
        rows = [row(name, args.defence, args.n_images, args.eot, args.split, args.data, args.device) for name in args.benches]
    except ValueError as error:
        parser.exit(2, f"error: {error}\n")
    print(pd.DataFrame(rows).to_csv(index=False), end="")
    if args.save:
        save(rows)


if __name__ == "__main__":
    main()
