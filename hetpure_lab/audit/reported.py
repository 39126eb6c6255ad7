"""Reported: the number that an evaluation hands in, held against its own records. The flags here
are those of `flags.MEANING`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from hetpure_lab.audit.flags import Evidence, Flag
from hetpure_lab.common import stats
from hetpure_lab.evidence.compare import FLOOR

RULES = ("single", "majority")


@dataclass(frozen=True)
class Report:
    """A reported accuracy: the mean of `rates` (m,) over `images`, said to follow from `evidence`
    by one of `RULES`.

    `against` is what it is set beside, `undefended` the bare network's clean accuracy and `chance`
    that of a guess, in [0, 1]; `tried` is how many settings were compared on these images before
    this one was chosen, and `shown` are the attacked images in [0, 1] that were scored, if they are
    at hand."""

    evidence: Evidence
    rates: np.ndarray
    images: tuple[str, ...]
    rule: str = "single"
    against: Report | None = None
    undefended: float | None = None
    chance: float = 0.0
    tried: int = 1
    shown: Tensor | None = None

    def __post_init__(self):
        if self.rule not in RULES:
            raise ValueError(f"unknown rule {self.rule!r}; known: {', '.join(RULES)}")
        if len(self.rates) != len(self.images):
            raise ValueError(f"{len(self.rates)} rates but {len(self.images)} images")

    @property
    def accuracy(self) -> stats.Accuracy:
        """What is reported, with its interval over images."""
        return stats.mean_rate(self.rates)


def expected(e: Evidence, rule: str) -> np.ndarray:
    """The rate of each image (n,) that follows from the outcomes under attack."""
    return (
        e.rates("adversarial")
        if rule == "single"
        else e.outcomes.majority_correct("adversarial").astype(float)
    )


def report(e: Evidence, rule: str = "single", **about: Any) -> Report:
    """The report that follows from records."""
    return Report(e, expected(e, rule), tuple(e.records), rule, **about)


def examine(r: Report) -> list[Flag]:
    """The flags of a report."""
    found = [*_images(r), *_outcomes(r), *_against(r), *_floor(r), *_grid(r)]
    if r.tried > 1:
        found.append(
            Flag(
                "chosen-on-test",
                r.evidence.about,
                f"the best of {r.tried} settings, on the images that chose it",
            )
        )
    return found


def _images(r: Report) -> list[Flag]:
    missing = [key for key in r.evidence.records if key not in r.images]
    seen = (
        f"{len(missing)} of {len(r.evidence.records)} images are not counted, such as {missing[0]}"
        if missing
        else ""
    )
    return [Flag("dropped-images", r.evidence.about, seen)] if missing else []


def _outcomes(r: Report) -> list[Flag]:
    follows = dict(zip(r.evidence.records, expected(r.evidence, r.rule)))
    wrong = [
        key
        for key, rate in zip(r.images, r.rates)
        if key not in follows or abs(follows[key] - rate) > 1e-9
    ]
    seen = f"{len(wrong)} of {len(r.images)} images, such as {wrong[0]}" if wrong else ""
    return [Flag("not-the-outcomes", r.evidence.about, seen)] if wrong else []


def _against(r: Report) -> list[Flag]:
    if r.against is None or r.against.rule == r.rule:
        return []
    return [
        Flag(
            "unequal-votes",
            r.evidence.about,
            f"{r.rule} is set beside {r.against.rule} of {r.against.evidence.about}",
        )
    ]


def _floor(r: Report) -> list[Flag]:
    if r.undefended is None:
        return []
    rows = [
        (row.evidence.about, row.evidence.outcomes.single("clean")) for row in (r, r.against) if row
    ]
    low = [
        (about, clean)
        for about, clean in rows
        if clean.value - r.chance < FLOOR * (r.undefended - r.chance)
    ]
    seen = "; ".join(
        f"{about} keeps {clean} of {100 * r.undefended:.1f} % without an attack"
        for about, clean in low
    )
    return [Flag("floor", r.evidence.about, seen)] if low else []


def _grid(r: Report) -> list[Flag]:
    if r.shown is None:
        return []
    off = int(((r.shown * 255 - (r.shown * 255).round()).abs().flatten(1).amax(1) > 1e-3).sum())
    return (
        [
            Flag(
                "not-8-bit",
                r.evidence.about,
                f"{off} of {len(r.shown)} images have values between grey levels",
            )
        ]
        if off
        else []
    )
