"""The core's two purifiers under their names, and the shorter chains that attacks differentiate."""

from __future__ import annotations

from dataclasses import replace

from hetpure_core import HetPure, Schedule, Uniform
from hetpure_lab.defences.interface import Capabilities, register


def shorter_uniform(purifier: Uniform, gradient: str, schedule: Schedule) -> Uniform:
    """Two steps (``surrogate``) or half of them."""
    return replace(purifier, steps=2 if gradient == "surrogate" else max(1, purifier.steps // 2))


def shorter_method(purifier: HetPure, gradient: str, schedule: Schedule) -> HetPure:
    """The released code's surrogate, or the same reading with the fewest steps of which two are in
    stage 1.
    """
    if gradient == "surrogate":
        return replace(purifier, reading="released", steps=10)
    fewer = (replace(purifier, steps=n) for n in range(2, purifier.steps + 1))
    return next((p for p in fewer if len(p.grid(schedule)[0]) > 2), purifier)


register("uniform", Capabilities("method", shorter=shorter_uniform))(Uniform)
register("hetpure", Capabilities("method", has_mask=True, attention=True, shorter=shorter_method))(
    HetPure
)
