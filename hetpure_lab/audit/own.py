"""Trials: a short live audit of your own purifier, any callable from images to images, before it
has a name here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from hetpure_core import Classifier, Denoiser, Draws, Noise, Plan, Purified, Schedule, Taps
from hetpure_lab import evidence
from hetpure_lab.attacks import ATTACKS, Attack, Undefended
from hetpure_lab.audit import flags
from hetpure_lab.audit.cases import ATTEMPTS, BARE, HEADLINE, Case, Cell
from hetpure_lab.audit.flags import Evidence
from hetpure_lab.common import specs
from hetpure_lab.common.progress import bar
from hetpure_lab.data import Images
from hetpure_lab.networks.benches import Bench

OWN = "yours"


class Called(nn.Module):
    """A function or module from images in [0, 1] to images in [0, 1], in the place of a
    denoiser.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return 2 * self.function((x + 1) / 2) - 1


@dataclass(frozen=True)
class OneCall:
    """A purifier that is a single call, made row by row with torch's random numbers set from the
    row's key, so that it can be replayed.
    """

    def mask(self, images: Tensor, classifier: Classifier, taps: Taps, noise: Draws) -> None:
        """None."""

    def plan(
        self, x_adv: Tensor, mask: Tensor | None, eps: Denoiser, noise: Draws, schedule: Schedule
    ) -> Plan:
        return [(0, partial(self.step, eps=eps, noise=cast(Noise, noise)))]

    def step(self, x: Tensor, eps: Callable, noise: Noise) -> Tensor:
        rows = []
        for row, generator in zip(x.split(1), noise.generators("own")):
            with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
                torch.manual_seed(generator.initial_seed())
                rows.append(eps(row, torch.zeros(1, device=x.device)))
        return torch.cat(rows)

    def calls(self, schedule: Schedule) -> int:
        return 1


@dataclass(frozen=True)
class Trial:
    """An experiment with a defence that has no name yet: what `evidence.evaluate` and `flags.live`
    ask of one.
    """

    attack: str
    settings: Attack
    K: int
    bench: str
    defence: str = OWN
    seed: int = 0

    @property
    def config(self) -> dict:
        about = {
            "bench": self.bench,
            "split": "live",
            "K": self.K,
            "seed": self.seed,
            "weights": {},
        }
        return about | {
            "defence": {"name": self.defence},
            "attack": {"name": self.attack} | asdict(self.settings),
        }

    @property
    def classes(self) -> tuple[type, ...]:
        """None that decide alone: a defence without a name may be written anywhere."""
        return ()


def own(
    function: Callable[[Tensor], Tensor],
    bench: Bench,
    images: Images,
    iterations: int = 10,
    eot: int = 2,
    K: int = 8,
    quiet: bool = False,
) -> Case:
    """A short live audit of your purifier in front of the bench's classifier: any differentiable or
    not differentiable callable.

    `iterations`, `eot` and `K` stand in for the headline's 20, 8 and 20; other budgets shrink
    alike.
    """
    yours = Purified(
        bench.classifier, Called(function), OneCall(), schedule=bench.schedule, checkpointing=False
    )
    found: dict[Cell, Evidence] = {}
    tried = [HEADLINE, *(ATTEMPTS[name] for name in ("budget", "BPDA", "transfer", "large radius"))]
    for spec, defence in bar([*((spec, OWN) for spec in tried), (BARE, "none")], "audit", quiet):
        attack, settings = specs.parse(spec, ATTACKS)
        if attack != "transfer":
            shrunk = {
                "iterations": settings.iterations * iterations // 20,
                "eot": max(1, settings.eot * eot // 8),
            }
            settings = replace(settings, **shrunk)
        faced, k = (yours, K) if defence == OWN else (Undefended(bench.classifier), 1)
        trial = Trial(attack, settings, k, bench.name, defence)
        rows = evidence.evaluate(cast(Any, trial), faced, settings, images, bench.device)
        found[defence, specs.normal(spec, ATTACKS), 0] = Evidence(
            f"{defence} / {spec}", {r["image"]: r for r in rows}
        )
    trial = Trial(HEADLINE, ATTACKS[HEADLINE](iterations=2, eot=2), 4, bench.name)
    return Case(
        bench.name, OWN, found, tuple(flags.live(cast(Any, trial), yours, trial.settings, images))
    )
