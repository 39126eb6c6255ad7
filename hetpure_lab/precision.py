"""Faster arithmetic for a denoiser, and what it does to the gradient: ``python -m hetpure_lab.precision --bench cifar10-small+bf16``.

An option is part of a bench's name, so that records made with it never mix with others. It changes the denoiser only: the sampler, the
classifier and the attack stay in float32. Whether a gradient in bfloat16 still leads where the exact one does is measured, not assumed: the
command prints its cosine with the float32 gradient beside the cosine of two float32 gradients on different noise.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from statistics import mean

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
    """How well the gradient through `changed` agrees with the one through `plain`, on the same images and noise.

    `cosine` and `worst` are the mean and the smallest cosine over images, `norm` the mean ratio of lengths; `noise` is the mean cosine of
    two `plain` gradients on different noise: what the attack's own randomness costs.
    """
    from hetpure_lab.attacks import loss_and_gradient

    reference, other = (loss_and_gradient(d, images, labels, ids, range(copies))[1] for d in (plain, changed))
    elsewhere = loss_and_gradient(plain, images, labels, ids, range(copies, 2 * copies))[1]
    found, ratio = cosines(reference, other), other.flatten(1).norm(dim=1) / reference.flatten(1).norm(dim=1)
    return {"cosine": mean(found), "worst": min(found), "norm": ratio.mean().item(), "noise": mean(cosines(reference, elsewhere))}


def main() -> None:
    from hetpure_lab import benches, data, defences

    parser = argparse.ArgumentParser(prog="python -m hetpure_lab.precision", description=__doc__.split("\n")[0])
    parser.add_argument("--bench", default="cifar10-small+bf16", help="a bench with options after its name")
    parser.add_argument("--defence", default="hetpure")
    parser.add_argument("--n-images", type=int, default=8)
    parser.add_argument("--eot", type=int, default=8)
    parser.add_argument("--split", default="test")
    parser.add_argument("--data", help="folder of the data set (default: the usual search)")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    try:
        plain, changed = (benches.load(name, args.device) for name in (args.bench.partition("+")[0], args.bench))
        images = data.load(plain.dataset, args.split, args.data).take(args.n_images)
        defended = (defences.build(args.defence, bench) for bench in (plain, changed))
    except ValueError as error:
        parser.exit(2, f"error: {error}\n")
    x, y = images.floats.to(plain.device), images.labels.to(plain.device)
    print(json.dumps({k: round(v, 4) for k, v in agreement(*defended, x, y, images.ids, args.eot).items()}))


if __name__ == "__main__":
    main()
