"""Projected gradient ascent on the expected loss of a defence, and its relatives.

Sources: Madry et al. 2018 (PGD), Athalye et al. 2018 (EOT, BPDA). `autoattack` has AutoAttack and
    Square.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hetpure_lab.attacks.gradients import (
    LOSSES,
    PRECISIONS,
    Copies,
    Defence,
    Defended,
    Undefended,
    confirmed,
    in_precision,
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
    Decided,
    Found,
    Tick,
    Waiting,
    no_steps,
    no_tick,
    once,
    perturb_randomly,
    register,
)


@dataclass
class Climbing:
    """Images that are climbed at the same time; every field has one entry per image. They may have
    entered at different times, and so be at different iterations.
    """

    places: Tensor  # in the order in which they came
    images: Tensor
    labels: Tensor
    x: Tensor
    best: Tensor
    best_value: Tensor
    velocity: Tensor  # the running mean of gradients
    ids: list
    spent: list[int]  # iterations

    def __len__(self) -> int:
        return len(self.ids)

    def draws(self, per: int) -> Copies:
        """The numbers of the next `per` purifications of every image; of all, if they are alike."""
        each = [range(k * per, (k + 1) * per) for k in self.spent]
        return each if len(set(self.spent)) > 1 else each[0]

    def those(self, rows: Tensor) -> Climbing:
        """The images where `rows` (n,) is true."""
        chosen, rows = rows.tolist(), rows.to(self.x.device)
        return Climbing(
            *(
                value[rows]
                if isinstance(value, Tensor)
                else [one for one, taken in zip(value, chosen) if taken]
                for value in vars(self).values()
            )
        )

    def joined(self, others: Climbing) -> Climbing:
        """Both together."""
        pairs = zip(vars(self).values(), vars(others).values())
        return Climbing(*(torch.cat([a, b]) if isinstance(a, Tensor) else a + b for a, b in pairs))

    def decided(self) -> Decided:
        spent = torch.tensor(self.spent, dtype=torch.long, device=self.x.device)
        return Decided(self.places, self.x, spent, [{} for _ in self.ids])


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
    is taken.

    With `momentum` in [0, 1) the direction is a running mean of gradients of mean absolute value 1
    (Dong et al. 2018), which averages noise over iterations as `eot` does within one. The
    `schedule` of the step is ``constant`` (the paper's), or ``cosine``: half a wave from `step`
    down to 0. `precision` ``bf16`` takes gradients with the denoiser's convolutions in bfloat16;
    failures are confirmed, and scored, in float32. Paper: §5.1. Book: ch04, eq-pgd.
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
    momentum: float = 0.0
    schedule: str = "constant"
    precision: str = "float32"

    choices: ClassVar = Attack.choices | {
        "keep": ("last", "best"),
        "l2_step": ("sign", "normalised"),
        "loss": LOSSES,
        "schedule": ("constant", "cosine"),
        "precision": PRECISIONS,
    }

    def __post_init__(self):
        super().__post_init__()
        if self.step <= 0 or self.confirm < 0 or self.confirm_every < 1 or self.restarts < 1:
            raise ValueError(
                "step, confirm_every and restarts must be positive, and confirm not negative:"
                f" {self}"
            )
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be at least 0 and below 1, not {self.momentum:g}")
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

    def each(
        self, defence: Defended, waiting: Waiting, seed: int, tick: Tick, at_once: int
    ) -> Iterator[Decided]:
        # several restarts, and what somebody's own method adds, are about whole batches
        own = type(self).run is not PGD.run or type(self).find is not Attack.find
        if self.restarts > 1 or own:
            yield from super().each(defence, waiting, seed, tick, at_once)
            return
        for found, _ in self.ascents(self.faces(defence), waiting, f"{seed}", tick, at_once):
            yield found

    def climb(
        self, defence: Defended, images: Tensor, labels: Tensor, ids: Sequence, tag: str, tick: Tick
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One ascent of all images at once, its noise keyed by `tag`: adversarial images,
        iterations spent and whether failure was confirmed, per image.
        """
        x, spent = images.clone(), no_steps(images)
        fell, batch = spent.bool(), once(images, labels, ids)
        for found, confirmed_ones in self.ascents(defence, batch, tag, tick, len(images)):
            x[found.places], spent[found.places] = found.x, found.spent
            fell[found.places] = confirmed_ones
        return x, spent, fell

    def ascents(
        self, defence: Defended, waiting: Waiting, tag: str, tick: Tick, at_once: int
    ) -> Iterator[tuple[Decided, bool]]:
        """Ascents of the `waiting` images, `at_once` of them at a time: an image that is decided
        makes room for the next. Yields them as they are decided, and whether because failure was
        confirmed.

        Images enter when others are looked at, so that all are looked at together.
        """
        check = reseeded(defence, f"confirm {tag}")
        drawing = in_precision(reseeded(defence, f"attack {tag}"), self.precision)
        attacked = seen_by_the_attack(drawing, self.gradient)
        run, turn = self.admitted(*waiting(at_once), 0, tag), 0
        come = len(run)
        while len(run):
            if self.iterations:
                self.advance(attacked, run)
                tick(len(run))
            turn += 1
            ends = torch.tensor([k >= self.iterations for k in run.spent])
            if ends.any():
                yield self.ended(attacked, run.those(ends)).decided(), False
                run = run.those(~ends)
            if not len(run):
                turn = 0
            elif self.confirm and turn % self.confirm_every == 0:
                wrong = self.fallen(check, run)
                if wrong.any():
                    fell = run.those(wrong)
                    tick(sum(self.iterations - k for k in fell.spent))
                    yield fell.decided(), True
                    run = run.those(~wrong)
            if turn % self.confirm_every == 0 and len(run) < at_once:
                new = self.admitted(*waiting(at_once - len(run)), come, tag)
                come, run = come + len(new), run.joined(new)

    def admitted(
        self, images: Tensor, labels: Tensor, ids: Sequence, come: int, tag: str
    ) -> Climbing:
        """Images at their start, after `come` others."""
        n = len(images)
        x = self.start(images, ids, tag) if n else images.clone()
        value = torch.full((n,), -torch.inf, device=x.device, dtype=x.dtype)
        places = torch.arange(come, come + n, device=x.device)
        still = torch.zeros_like(x)
        return Climbing(places, images, labels, x, x.clone(), value, still, list(ids), [0] * n)

    def advance(self, attacked: Defence, run: Climbing) -> None:
        """One iteration of all of them."""
        value, gradient = self.loss_and_gradient(
            attacked, run.x, run.images, run.labels, run.ids, run.draws(self.eot)
        )
        better = value > run.best_value
        run.best[better], run.best_value[better] = run.x[better], value[better]
        if self.momentum:
            size = gradient.abs().flatten(1).mean(1).clamp(min=1e-12).reshape(-1, 1, 1, 1)
            gradient = self.momentum * run.velocity + (1 - self.momentum) * gradient / size
            run.velocity = gradient
        step = self.ascent(gradient)
        if self.schedule == "cosine":
            left = [(1 + math.cos(math.pi * k / self.iterations)) / 2 for k in run.spent]
            step = step * torch.tensor(left).to(step).reshape(-1, 1, 1, 1)
        run.x = self.project(run.x + step, run.images)
        run.spent = [k + 1 for k in run.spent]

    def fallen(self, check: Defence, run: Climbing) -> Tensor:
        """Whose failure is confirmed (n,)."""
        return confirmed(check, run.x, run.labels, run.ids, run.draws(self.confirm))

    def ended(self, attacked: Defence, run: Climbing) -> Climbing:
        """Images whose budget is spent, at the iterate that is returned."""
        if self.keep == "best":
            copies = range(self.iterations * self.eot, (self.iterations + 1) * self.eot)
            rest = run.images, run.labels, run.ids, copies
            best, last = (self.value(attacked, z, *rest) for z in (run.best, run.x))
            run.x = torch.where((best > last).reshape(-1, 1, 1, 1), run.best, run.x)
        return run

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
        copies: Copies,
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
        copies: Copies,
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
        copies: Copies,
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
        copies: Copies,
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
