"""PGD by one who knows a randomised defence in full: from the adversarial image of a smoother
purifier, in stages whose gradients average over more and more purifications.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from hetpure_core import Uniform
from hetpure_lab.attacks.gradients import (
    Defended,
    Undefended,
    confirmed,
    mean_loss,
    pick,
    reseeded,
    seen_by_the_attack,
    with_purifier,
)
from hetpure_lab.attacks.pgd import PGD
from hetpure_lab.attacks.threat import Found, Tick, no_steps, no_tick, register


@register("growing")
@dataclass(frozen=True)
class Growing(PGD):
    """Written against masks that are drawn anew for every purification, whose gradients are noisier
    than those of noise alone: a budget that converges on uniform noise may flatter them.

    The start is PGD of `iterations` steps on one call of uniform noise of level `via` before the
    same networks (0.14: about the energy of half of the pixels at 0.2 and half at 0.05), or the
    image itself where that has the higher loss.
    Then come `stages` of `iterations` steps: in each the purifications per gradient are `growth`
    times as many, from `eot` on, and the step is a half of the last one's. After every stage the
    better of the new and the old image by the loss on common fresh noise goes on, and an image is
    set aside once `confirm` fresh purifications of it are all wrong. Nothing of the defence is held
    back from it: networks, levels, the law of the masks, exact gradients through them. Book: ch15.
    """

    iterations: int = 10
    step: float = 0.01
    loss: str = "margin"
    stages: int = 4
    growth: int = 2
    via: float = 0.14

    choices: ClassVar = PGD.choices | {"keep": ("last",), "schedule": ("constant",)}

    def __post_init__(self):
        super().__post_init__()
        if self.stages < 1 or self.growth < 1:
            raise ValueError(f"stages and growth must be at least 1: {self}")
        if self.restarts != 1 or self.momentum:
            raise ValueError("growing has one start and no momentum: its averages grow instead")
        if not 0 < self.via <= 1:
            raise ValueError(f"via is a noise level, a fraction of T in (0, 1], not {self.via}")

    @property
    def budgets(self) -> list[tuple[int, float]]:
        """Purifications per gradient and step of every stage."""
        return [(self.eot * self.growth**k, self.step / 2**k) for k in range(self.stages)]

    @property
    def steps(self) -> int:
        return self.iterations * (self.stages + 1)

    def purifications(self) -> tuple[int, int]:
        counts = [self.eot, *(eot for eot, _ in self.budgets)]
        return sum(2 * c for c in counts) + self.confirm * self.stages, self.iterations * sum(
            counts
        )

    def run(
        self,
        defence: Defended,
        images: Tensor,
        labels: Tensor,
        ids: Sequence,
        seed: int = 0,
        tick: Tick = no_tick,
    ) -> Found:
        defence = self.faces(defence)
        x, spent = images.clone(), no_steps(images)
        active = torch.arange(len(x), device=x.device)
        smoother = Uniform(self.via, 1)
        bare = isinstance(defence, Undefended)
        faced = defence if bare else with_purifier(defence, smoother)
        for stage, (eot, step) in enumerate([(self.eot, self.step), *self.budgets]):
            if not len(active):
                break
            rest = images[active], labels[active], pick(ids, active)
            tag = f"{seed} stage {stage}"
            climber = replace(self, eot=eot, step=step)
            new = climber.stage(faced if not stage else defence, x[active], *rest, tag, tick)
            judge = reseeded(defence, f"judge {tag}")
            old, now = (
                mean_loss(judge, z, *rest[1:], range(eot), self.loss) for z in (x[active], new)
            )
            x[active[now > old]] = new[now > old]
            spent[active] += self.iterations
            if stage and self.confirm:
                check = reseeded(defence, f"confirm {tag}")
                wrong = confirmed(check, x[active], *rest[1:], range(self.confirm))
                tick(int(wrong.sum()) * self.iterations * (self.stages - stage))
                active = active[~wrong]
        return x, spent

    def stage(
        self,
        defence: Defended,
        x: Tensor,
        images: Tensor,
        labels: Tensor,
        ids: Sequence,
        tag: str,
        tick: Tick,
    ) -> Tensor:
        """`iterations` steps from `x` in the ball around `images`."""
        attacked = seen_by_the_attack(reseeded(defence, f"attack {tag}"), self.gradient)
        for k in range(self.iterations):
            copies = range(k * self.eot, (k + 1) * self.eot)
            _, gradient = self.loss_and_gradient(attacked, x, images, labels, ids, copies)
            x = self.project(x + self.ascent(gradient), images)
            tick(len(x))
        return x
