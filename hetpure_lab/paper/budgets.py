"""Budgets of the chapters: `smoke`, `quick` and `paper`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """How much a live run does: images, attack iterations, purifications per gradient (EOT) and per
    scored image (K).
    """

    name: str
    n_images: int
    iterations: int
    eot: int
    K: int


BUDGETS = {
    b.name: b
    for b in (
        Budget("smoke", n_images=4, iterations=2, eot=2, K=4),
        Budget("quick", n_images=16, iterations=10, eot=4, K=10),
        Budget("paper", n_images=512, iterations=200, eot=20, K=20),
    )
}


def choose(name: str) -> Budget:
    """The budget called `name`."""
    if name not in BUDGETS:
        raise ValueError(f"unknown budget {name!r}; known: {', '.join(BUDGETS)}")
    return BUDGETS[name]
