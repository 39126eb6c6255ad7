"""Budgets and parameters of the chapters: what `smoke`, `quick` and `paper` mean, and errors for what papermill lets through."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """How much a live run does: images, attack iterations, purifications per gradient (EOT) and per scored image (K)."""

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
    """The budget called `name`; the environment variable HETPURE_BUDGET, which the tests set, goes first."""
    name = os.environ.get("HETPURE_BUDGET", name)
    if name not in BUDGETS:
        raise ValueError(f"unknown budget {name!r}; known: {', '.join(BUDGETS)}")
    return BUDGETS[name]


def check_names(namespace: dict, known: str) -> None:
    """Refuse parameters that the chapter does not have: papermill only warns of them, and the run would use defaults."""
    plain = {k for k, v in namespace.items() if not k.startswith("_") and isinstance(v, str | int | float | list | dict)}
    if unknown := plain - set(known.split()) - {"In", "Out"}:
        raise ValueError(f"unknown parameter {', '.join(sorted(unknown))}; this chapter has: {', '.join(known.split())}")


def check_count(name: str, value: object, low: int = 0) -> int:
    """`value` as a whole number of at least `low`; papermill turns ``1e1`` into a float and leaves words as text."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < low:
        raise ValueError(f"{name} must be a whole number of at least {low}, not {value!r}")
    return int(value)
