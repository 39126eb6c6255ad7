"""Accuracies of a bench's networks on any parquet split: ``hetpure check --bench cifar10-small``.

`clean` is the classifier alone; `uniform_t` is its single-shot accuracy after uniform purification
at that fraction of T (10 DDIM steps, one draw of noise per image).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

import torch

from hetpure_core import Uniform
from hetpure_lab import data
from hetpure_lab.common.progress import bar
from hetpure_lab.data import Images
from hetpure_lab.networks import benches
from hetpure_lab.networks.benches import Bench

LEVELS = (0.05, 0.1)
PIXELS = 128 * 32**2  # in a batch


def levels(bench: Bench) -> tuple[float, ...]:
    """`LEVELS`, and the two of the bench's method where both are stronger."""
    own = (bench.method.t_s, bench.method.t_l)
    return LEVELS + own if min(own) > max(LEVELS) else LEVELS


@torch.no_grad()
def accuracies(
    bench: Bench, images: Images, seed: int = 0, progress: bool = False
) -> dict[str, float]:
    """Fractions correct: `clean`, `uniform_t` for t in `levels`, and the number of images `n`."""
    batch, parts = max(1, PIXELS // images.pixels[0, 0].numel()), (bench.classifier, bench.denoiser)
    models = {
        f"uniform_{t}": bench.defended(*parts, Uniform(t), schedule=bench.schedule, seed=seed)
        for t in levels(bench)
    }
    correct, ids = dict.fromkeys(["clean", *models], 0), images.ids
    for start in bar(range(0, len(images), batch), "check", not progress):
        rows = slice(start, start + batch)
        x, y = images.floats[rows].to(bench.device), images.labels[rows].to(bench.device)
        correct["clean"] += int((bench.classifier(x).argmax(1) == y).sum())
        for name, model in models.items():
            correct[name] += int((model(x, ids[rows]).argmax(1) == y).sum())
    return {name: k / len(images) for name, k in correct.items()} | {"n": len(images)}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="hetpure check", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--bench", default="cifar10-small")
    parser.add_argument("--data", help="folder of parquet files (default: the usual search)")
    parser.add_argument("--split", default="test")
    parser.add_argument("--n-images", type=int, help="only the first images of a seeded order")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument(
        "--card",
        action="store_true",
        help="also write the result into the cards of the bench's networks",
    )
    args = parser.parse_args(argv)
    bench = benches.load(args.bench, args.device)
    images = data.load(bench.dataset, args.split, args.data)
    images = images if args.n_images is None else images.take(args.n_images)
    result = accuracies(bench, images, progress=True)
    if args.card:
        for name in bench.weights:
            benches.add_metrics(name, args.split, result)
    print(
        json.dumps(result) if args.json else "\n".join(f"{k:13} {v:.4g}" for k, v in result.items())
    )
