"""Projected gradient ascent on the expected loss of a defence, and its relatives.

Sources: Madry et al. 2018 (PGD), Athalye et al. 2018 (EOT, BPDA). `autoattack` has AutoAttack and
    Square.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hetpure_lab.attacks.gradients import (
    LOSSES,
    Defence,
    Defended,
    Undefended,
    confirmed,
    loss_and_gradient,
    mean_loss,
    pick,
    reseeded,
    rows_of,
    seen_by_the_attack,
    smooth_mask,
)
from hetpure_lab.attacks.threat import (
    Attack,
    Found,
    Tick,
    no_steps,
    no_tick,
    perturb_randomly,
    register,
)


@register("pgd")
@dataclass(frozen=True)
class PGD(Attack):
    """Projected gradient ascent on the loss averaged over `eot` purifications (PGD+EOT).

    `step` in [0, 1] units of the `norm`; `loss` as in `gradients.loss_values`; `keep` is the
    iterate returned: ``last`` (the paper's) or ``best`` by EOT loss, which must beat the last on
    common fresh noise. ``l2_step="sign"`` is the released code's l2 step (a sign step, then
    projection), ``normalised`` the steepest ascent. Of several `restarts` the one with the highest
    loss on noise of its own counts. With `confirm` > 0, every `confirm_every` iterations an image
    is set aside once that many purifications on fresh noise are all
    wrong: what remains of the budget goes to the others. The failures are always those of the
        defence itself, whatever `gradient`
    is taken. Paper: §5.1. Book: ch04, eq-pgd.
    """

    ascends: ClassVar[bool] = True

    step: float = 0.007
    random_start: bool = False
    keep: str = "last"
    l2_step: str = "normalised"
    confirm: int = 16
    confirm_every: int = 5
    loss: str = "ce"
    restarts: int = 1

    choices: ClassVar = Attack.choices | {
        "keep": ("last", "best"),
        "l2_step": ("sign", "normalised"),
        "loss": LOSSES,
    }

    def __post_init__(self):
        super().__post_init__()
        if self.step <= 0 or self.confirm < 0 or self.confirm_every < 1 or self.restarts < 1:
            raise ValueError(
                "step, confirm_every and restarts must be positive, and confirm not negative:"
                f" {self}"
            )
        if self.restarts > 1 and not self.random_start:
            raise ValueError("restarts need random_start: they would begin at the same point")

    @property
    def steps(self) -> int:
        return self.iterations * self.restarts

    def purifications(self) -> tuple[int, int]:
        checks = self.confirm * max(0, (self.iterations - 1) // self.confirm_every)
        looks = self.eot * (2 * (self.keep == "best") + (self.restarts > 1))
        return self.restarts * (checks + looks), self.restarts * self.iterations * self.eot

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
        x, spent, fell = self.climb(defence, images, labels, ids, f"{seed}", tick)
        if self.restarts == 1:
            return x, spent
        judge = reseeded(defence, f"judge {seed}")
        value = mean_loss(judge, x, labels, ids, range(self.eot), self.loss)
        for restart in range(1, self.restarts):
            tick(int(fell.sum()) * self.iterations)
            left = (~fell).nonzero().flatten()
            if not len(left):
                continue
            rest = labels[left], pick(ids, left)
            again, more, fell[left] = self.climb(
                defence, images[left], *rest, f"{seed} restart {restart}", tick
            )
            new = mean_loss(judge, again, *rest, range(self.eot), self.loss)
            better = fell[left] | (new > value[left])
            x[left[better]], value[left[better]] = again[better], new[better]
            spent[left] += more
        return x, spent

    def climb(
        self, defence: Defended, images: Tensor, labels: Tensor, ids: Sequence, tag: str, tick: Tick
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One ascent, its noise keyed by `tag`: adversarial images, iterations spent and whether
        failure was confirmed, per image.
        """
        attacked, check = (
            seen_by_the_attack(reseeded(defence, f"attack {tag}"), self.gradient),
            reseeded(defence, f"confirm {tag}"),
        )
        x = self.start(images, ids, tag)
        best, best_value = (
            x.clone(),
            torch.full((len(x),), -torch.inf, device=x.device, dtype=x.dtype),
        )
        active, spent = torch.arange(len(x), device=x.device), no_steps(x)
        fell = torch.zeros(len(x), dtype=torch.bool, device=x.device)

        for k in range(self.iterations):
            if self.confirm and k and k % self.confirm_every == 0:
                wrong = confirmed(
                    check,
                    x[active],
                    labels[active],
                    pick(ids, active),
                    range(k * self.confirm, (k + 1) * self.confirm),
                )
                tick(int(wrong.sum()) * (self.iterations - k))
                fell[active[wrong]], best[active[wrong]] = True, x[active[wrong]]
                active = active[~wrong]
            if not len(active):
                break
            copies = range(k * self.eot, (k + 1) * self.eot)
            value, gradient = self.loss_and_gradient(
                attacked, x[active], images[active], labels[active], pick(ids, active), copies
            )
            better = value > best_value[active]
            best[active[better]], best_value[active[better]] = x[active[better]], value[better]
            x[active] = self.project(x[active] + self.ascent(gradient), images[active])
            spent[active] += 1
            tick(len(active))
        if self.keep == "best" and len(active):
            copies, rest = (
                range(self.iterations * self.eot, (self.iterations + 1) * self.eot),
                (images[active], labels[active], pick(ids, active)),
            )
            best_value, value = (self.value(attacked, z[active], *rest, copies) for z in (best, x))
            best[active[value > best_value]] = x[active[value > best_value]]
        return (best if self.keep == "best" else x), spent, fell

    def start(self, images: Tensor, ids: Sequence, tag: str) -> Tensor:
        """The first iterate: the image itself, or a random point of the ball, keyed by image."""
        if not self.random_start:
            return images.clone()
        return perturb_randomly(images, ids, self.norm, self.eps, f"start {tag}", corner=False)

    def loss_and_gradient(
        self,
        attacked: Defence,
        x: Tensor,
        images: Tensor,
        labels: Tensor,
        ids: Sequence,
        copies: Sequence[int],
    ) -> tuple[Tensor, Tensor]:
        """What is climbed at the iterates `x` around `images`: values (n,) and gradients (n, 3, h,
        w).
        """
        return loss_and_gradient(attacked, x, labels, ids, copies, self.loss)

    def value(
        self,
        attacked: Defence,
        x: Tensor,
        images: Tensor,
        labels: Tensor,
        ids: Sequence,
        copies: Sequence[int],
    ) -> Tensor:
        """The values of `loss_and_gradient`."""
        return mean_loss(attacked, x, labels, ids, copies, self.loss)

    def ascent(self, gradient: Tensor) -> Tensor:
        """The step before projection."""
        return self.step * (gradient.sign() if self.l2_step == "sign" else self.direction(gradient))


@register("bpda")
@dataclass(frozen=True)
class BPDA(PGD):
    """PGD+EOT with the identity for the purifier's gradient; defaults are the paper's. Paper: §5.1,
    Table 5. Book: ch04, eq-bpda.
    """

    iterations: int = 100
    eot: int = 20
    gradient: str = "bpda"


@register("pgd-mask")
@dataclass(frozen=True)
class MaskPGD(PGD):
    """PGD+EOT that also steers the mask: it climbs the loss plus `weight` times a term in [0, 1] of
    the soft mask.

    `steer` is ``change`` (its mean distance to the clean image's mask), ``grow`` (its mean:
    everything is attended) or ``shrink`` (one minus that: nothing is). The gradient goes through
    the mask. Book: ch04, eq-steer.
    """

    gradient: str = "mask-straight-through"
    steer: str = "change"
    weight: float = 1.0

    choices: ClassVar = PGD.choices | {"steer": ("change", "grow", "shrink")}

    def loss_and_gradient(
        self,
        attacked: Defence,
        x: Tensor,
        images: Tensor,
        labels: Tensor,
        ids: Sequence,
        copies: Sequence[int],
    ) -> tuple[Tensor, Tensor]:
        value, gradient = super().loss_and_gradient(attacked, x, images, labels, ids, copies)
        for index, *_ in rows_of(len(x), [0], x.device):
            part = x[index].detach().requires_grad_()
            term = self.weight * self.steering(attacked, part, images[index])
            gradient[index] += torch.autograd.grad(term.sum(), part)[0]
            value[index] += term.detach()
        return value, gradient

    def value(
        self,
        attacked: Defence,
        x: Tensor,
        images: Tensor,
        labels: Tensor,
        ids: Sequence,
        copies: Sequence[int],
    ) -> Tensor:
        with torch.no_grad():
            terms = [
                self.steering(attacked, x[index], images[index])
                for index, *_ in rows_of(len(x), [0], x.device)
            ]
            return super().value(
                attacked, x, images, labels, ids, copies
            ) + self.weight * torch.cat(terms)

    def steering(self, attacked: Defence, x: Tensor, images: Tensor) -> Tensor:
        """The term per image (n,)."""
        defence = getattr(attacked, "defence", attacked)
        if isinstance(defence, Undefended):
            raise ValueError("there is no mask to steer without a purifier")
        mask = smooth_mask(defence, x)
        if self.steer == "change":
            with torch.no_grad():
                attended = smooth_mask(defence, images) > 0.5
            mask = torch.where(attended, 1 - mask, mask)
        area = mask.flatten(1).mean(1)
        return 1 - area if self.steer == "shrink" else area


@register("transfer")
@dataclass(frozen=True)
class Transfer(PGD):
    """Adversarial images of the bare classifier, which never looks at the defence: a lower bound on
    what the defence has to stop.
    """

    strength: ClassVar[int | None] = 1

    iterations: int = 50
    eot: int = 1
    gradient: str = "undefended"
    confirm: int = 0


@register("noise")
@dataclass(frozen=True)
class RandomNoise(Attack):
    """A random perturbation of the same norm: the null control as an attack."""

    strength: ClassVar[int | None] = 0

    iterations: int = 0
    eot: int = 1
    gradient: str = "none"

    choices: ClassVar = Attack.choices | {"gradient": ("none",)}

    def purifications(self) -> tuple[int, int]:
        return 0, 0

    def run(
        self,
        defence: Defended,
        images: Tensor,
        labels: Tensor,
        ids: Sequence,
        seed: int = 0,
        tick: Tick = no_tick,
    ) -> Found:
        x = perturb_randomly(images, ids, self.norm, self.eps, f"noise {seed}")
        return x, no_steps(x)
