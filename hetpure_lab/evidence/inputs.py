"""The input of a classifier: variants of ImageNet's preprocessing that differ between papers and
releases.

Each variant is a function from images (n, 3, 128, 128) in [0, 1] to logits of one and the same
network, EfficientNet-Lite0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from hetpure_lab.common import stats

if TYPE_CHECKING:
    from hetpure_lab.networks.efficientnet import EfficientNetLite0

Variant = Callable[[Tensor], Tensor]


def resized(images: Tensor, height: int, width: int | None = None) -> Tensor:
    """Bilinear, without antialiasing, as the networks scale their input."""
    return F.interpolate(images, (height, width or height), mode="bilinear", align_corners=False)


def unnormalised(classifier: EfficientNetLite0, images: Tensor) -> Tensor:
    """C4: the network, trained on normalised images at 224 pixels, is handed [0, 1] at 256."""
    return classifier.logits(resized(images, 256))


def as_they_come(classifier: EfficientNetLite0, images: Tensor) -> Tensor:
    """Not scaled up: the same weights on a smaller picture make a weaker classifier (a stand-in for
    C3).
    """
    return classifier.logits((255 * images - 127) / 128)


def portrait(images: Tensor) -> Tensor:
    """The middle 3:4 of square images: the usual proportions of a photograph, which ImageNet's
    images have and these have lost.
    """
    cut = images.shape[-1] // 8
    return images[..., cut:-cut]


def squashed(classifier: EfficientNetLite0, images: Tensor) -> Tensor:
    """C5: a 3:4 photograph resized to a square, its proportions lost."""
    return classifier(resized(portrait(images), 224))


def cropped(classifier: EfficientNetLite0, images: Tensor) -> Tensor:
    """The same photograph resized by its shorter side, and the middle square taken."""
    cut = images.shape[-1] // 8
    return classifier(resized(portrait(images)[..., cut:-cut, :], 224))


def variants(classifier: EfficientNetLite0) -> dict[str, Variant]:
    """All of them by name; the first is the bench's own."""
    known = {
        "C3: a weaker classifier (128 pixels)": as_they_come,
        "C4: not normalised, 256 pixels": unnormalised,
    }
    known |= {"3:4, cropped": cropped, "C5: 3:4, squashed": squashed}
    bound = {name: lambda x, f=f: f(classifier, x) for name, f in known.items()}
    return {"normalised, 224 pixels": classifier} | bound


@torch.no_grad()
def outcomes(variant: Variant, images: Tensor, labels: Tensor, batch: int = 16) -> np.ndarray:
    """Which images are classified correctly (n,)."""
    predicted = torch.cat([variant(x).argmax(1) for x in images.split(batch)])
    return (predicted == labels).cpu().numpy()


def recorded(rows: pd.DataFrame) -> dict[str, dict[str, np.ndarray]]:
    """Outcomes by variant and kind of image from rows of the study `studies.feeding`, images in one
    order throughout.
    """
    hits = {
        name: by_kind.pivot(index="image", columns="kind", values="right")
        for name, by_kind in rows.groupby("fed", sort=False)
    }
    return {name: {kind: wide[kind].to_numpy(bool) for kind in wide} for name, wide in hits.items()}


def table(correct: dict[str, dict[str, np.ndarray]]) -> pd.DataFrame:
    """Accuracies with 95 % intervals from outcomes by variant and kind of image, and the paired
    change against the first variant.
    """
    first = next(iter(correct.values()))
    rows = {}
    for name, kinds in correct.items():
        rows[name] = {kind: str(stats.wilson(hits)) for kind, hits in kinds.items()}
        changes = {
            f"change, {kind}": str(stats.paired_difference(hits, first[kind]))
            for kind, hits in kinds.items()
        }
        rows[name] |= changes if kinds is not first else dict.fromkeys(changes, "")
    return pd.DataFrame(rows).T
