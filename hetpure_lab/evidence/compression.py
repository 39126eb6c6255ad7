"""Does the compression rate predict robustness without gradients? The claim of Yuezhang & Wei 2025,
held against records.

Under fixed noise a purifier brings images closer together. The rate says how much is left of a
small random difference. The claim: the smaller the rate, the more accurate under attack once the
noise is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from scipy.stats import spearmanr
from torch import Tensor

from hetpure_core import Purified
from hetpure_lab.attacks import ATTACKS, perturb_randomly
from hetpure_lab.common import specs
from hetpure_lab.common.paths import RESULTS
from hetpure_lab.common.stats import Accuracy
from hetpure_lab.defences import DEFENCES
from hetpure_lab.evidence import compare
from hetpure_lab.evidence.outcomes import Outcomes

KNOWN_NOISE = "pgd:frozen=all"


@torch.no_grad()
def rate(
    defence: Purified,
    images: Tensor,
    ids: Sequence,
    copies: int = 2,
    norm: str = "Linf",
    eps: float = 8 / 255,
) -> Tensor:
    r"""How much is left of a random perturbation of norm `eps` after purification, under the same
    noise: :math:`\|P(x + \delta; z) - P(x; z)\|_2 / \|\delta\|_2` (n,), mean over `copies` of z.

    Images (n, 3, h, w) in [0, 1]. Nothing is differentiated. Raises `ValueError` for a defence
    without a purifier.
    """
    if not hasattr(defence, "purify"):
        raise ValueError("a compression rate is that of a purifier, and there is none")
    near = perturb_randomly(images, ids, norm, eps, "compression")
    before = (near - images).flatten(1).norm(dim=1)
    total = torch.zeros_like(before)
    for copy in range(copies):
        noise = defence.noise(len(images), ids, [copy] * len(images))
        apart = defence.purify(near, noise) - defence.purify(images, noise)
        total += apart.flatten(1).norm(dim=1) / before
    return total / copies


@dataclass(frozen=True)
class Predicted:
    """A defence's compression `rate` beside its accuracy, clean and under attack on `n` images of
    the file `record`."""

    defence: str
    rate: float
    clean: Accuracy
    attacked: Accuracy
    n: int
    record: str = ""


def predictions(
    rates: Mapping[str, float],
    bench: str,
    attack: str = KNOWN_NOISE,
    results: Path = RESULTS,
    least: int = 32,
) -> list[Predicted]:
    """Every purifier of `rates` with at least `least` records under `attack` on the bench, by its
    rate."""
    known, found = compare.known(bench, results), []
    for defence, rate in rates.items():
        cell = specs.normal(defence, DEFENCES), specs.normal(attack, ATTACKS), 0
        records = known.cells.get(cell, {})
        if len(records) < least:
            continue
        outcomes = Outcomes.of(records)
        sides = (outcomes.single(c) for c in ("clean", "adversarial"))
        found.append(Predicted(defence, rate, *sides, len(records), known.files[cell]))
    return sorted(found, key=lambda p: p.rate)


def agreement(found: Sequence[Predicted]) -> tuple[float, float]:
    """Spearman's rank correlation between compression and attacked accuracy, and its p-value: 1 if
    the purifier that leaves least of a difference is the most accurate, and so on.

    Raises `ValueError` for fewer than four purifiers, and where all are equally accurate.
    """
    if len(found) < 4:
        raise ValueError(f"a rank correlation needs four purifiers, not {len(found)}")
    left = [p.attacked.value for p in found]
    if len(set(left)) == 1:
        raise ValueError(f"all {len(found)} purifiers leave {100 * left[0]:.1f} %")
    result = spearmanr([-p.rate for p in found], left)
    return float(result.statistic), float(result.pvalue)
