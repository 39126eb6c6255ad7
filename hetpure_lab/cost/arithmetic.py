"""The effect of faster arithmetic on the gradient: ``hetpure precision cifar10-small+bf16``.

The direction of a gradient in bfloat16 is measured, not assumed: the command prints its cosine with
the float32 gradient, the cosine of two float32 gradients on different noise, and the gain in time.
With ``--save`` the rows go into ``results/precision.csv``, which the book shows.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hetpure_lab import data, defences
from hetpure_lab.attacks import loss_and_gradient
from hetpure_lab.common.measure import fastest
from hetpure_lab.common.paths import ROOT
from hetpure_lab.networks import benches

MEASURED = ROOT / "results" / "precision.csv"


def cosines(a: Tensor, b: Tensor) -> list[float]:
    """The cosine of every image's gradient in `a` with the one in `b`: (n, 3, h, w) twice to n
    numbers.
    """
    return F.cosine_similarity(a.flatten(1), b.flatten(1)).tolist()


def agreement(
    plain: nn.Module,
    changed: nn.Module,
    images: Tensor,
    labels: Tensor,
    ids: Sequence,
    copies: int = 1,
) -> dict[str, float]:
    """Agreement of the gradients through `changed` and `plain` on the same images and noise, and
    the saving.

    `cosine` and `worst` are the mean and the smallest cosine over images, `norm` the mean ratio of
    lengths; `noise` is the mean cosine of two `plain` gradients on different noise: the cost of the
    attack's own randomness. `speed` is the time of `plain` over the time of `changed`, each the
    second of two runs; on a CPU the process's own time.
    """
    gradients = lambda defended, first=0: loss_and_gradient(
        defended, images, labels, ids, range(first, first + copies)
    )[1].cpu()
    clock, found = time.process_time if images.device.type == "cpu" else time.perf_counter, []
    seconds = [fastest(lambda d=d: found.append(gradients(d)), 1, clock) for d in (plain, changed)]
    reference, other, elsewhere = found[0], found[-1], gradients(plain, copies)
    same, ratio = (
        cosines(reference, other),
        other.flatten(1).norm(dim=1) / reference.flatten(1).norm(dim=1),
    )
    agreed = {
        "cosine": mean(same),
        "worst": min(same),
        "norm": ratio.mean().item(),
        "noise": mean(cosines(reference, elsewhere)),
    }
    return agreed | {"speed": seconds[0] / seconds[1]}


def row(
    name: str, defence: str, n_images: int, copies: int, split: str, folder: str | None, device: str
) -> dict:
    """The effect of the options in a bench's name, and the place of its measurement."""
    plain, changed = (benches.load(bench, device) for bench in (name.partition("+")[0], name))
    images = data.load(plain.dataset, split, folder).take(n_images)
    x, y = images.floats.to(plain.device), images.labels.to(plain.device)
    found = agreement(
        *(defences.build(defence, bench) for bench in (plain, changed)), x, y, images.ids, copies
    )
    where = (
        torch.cuda.get_device_name(plain.device)
        if plain.device.type == "cuda"
        else f"CPU, {platform.machine()}"
    )
    settings = {"bench": name, "defence": defence, "images": n_images, "copies": copies}
    return (
        settings
        | {k: round(v, 4) for k, v in found.items()}
        | {"device": where, "torch": torch.__version__.partition("+")[0]}
    )


def save(rows: Sequence[dict], path: Path = MEASURED) -> None:
    """Into the file, in the place of rows of the same bench, defence and device."""
    before = pd.read_csv(path) if path.exists() else pd.DataFrame()
    found = pd.concat([before, pd.DataFrame(rows)]).drop_duplicates(
        ["bench", "defence", "device"], keep="last"
    )
    found.sort_values(["device", "bench", "defence"]).to_csv(path, index=False)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="hetpure precision", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "benches",
        nargs="*",
        default=["cifar10-small+bf16", "cifar10-small+compile"],
        help="benches with options after the name",
    )
    parser.add_argument("--defence", default="hetpure")
    parser.add_argument("--n-images", type=int, default=8)
    parser.add_argument("--eot", type=int, default=8)
    parser.add_argument("--split", default="test")
    parser.add_argument("--data", help="folder of the data set (default: the usual search)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--save",
        action="store_true",
        help=f"into {MEASURED.relative_to(ROOT)}, which the book shows",
    )
    args = parser.parse_args(argv)
    rows = [
        row(name, args.defence, args.n_images, args.eot, args.split, args.data, args.device)
        for name in args.benches
    ]
    print(pd.DataFrame(rows).to_csv(index=False), end="")
    if args.save:
        save(rows)
