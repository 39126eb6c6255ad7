"""AutoAttack for randomised defences, as packaged and corrected, and Square as the black-box check.

The packaged library looks at one purification to decide whether an image is attacked at all and
whether an attack succeeded, and returns the clean image otherwise; its APGD takes losses and step
sizes from the last purification only. `AutoAttack` runs it unchanged; `CorrectedAutoAttack`
averages every decision and never returns a clean image. Sources: Croce & Hein 2020 (APGD, DLR,
AutoAttack), Andriushchenko et al. 2020 (Square).
"""

from __future__ import annotations

import bisect
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from hetpure_core import Noise
from hetpure_lab.attacks.abreast import Work, side_by_side
from hetpure_lab.attacks.gradients import (
    LOSSES,
    Defence,
    Defended,
    check_choice,
    confirmed,
    logits_of,
    loss_and_gradient,
    loss_values,
    mean_loss,
    pick,
    reseeded,
    seen_by_the_attack,
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
from hetpure_lab.common import extras, microbatch

if TYPE_CHECKING:
    import pyautoattack

# ---- AutoAttack as packaged ----------------------------------------------------------------------


class FreshDraws(nn.Module):
    """One image's defence as a library sees it: images to logits, on fresh noise at every call. It
    counts its calls.
    """

    def __init__(self, defence: Defence, image: int | str):
        super().__init__()
        self.defence, self.image, self.calls, self.gradients = defence, image, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.gradients += torch.is_grad_enabled()
        return self.defence(x, [self.image] * len(x), [self.calls] * len(x))


@register("autoattack")
@dataclass(frozen=True)
class AutoAttack(Attack):
    """The library, unchanged. Every image has a run of its own, so that its global random numbers
    can be keyed by image; the runs go side by side, and what they ask is answered in full batches.

    `version` ``rand`` is for randomised defences: APGD-CE and APGD-DLR of `iterations` steps, `eot`
    gradients each. ``standard`` is for deterministic ones, a fixed protocol of 100 iterations that
    needs ``eot=1``. Its acceptance rule is part of the attack "as published": what it could not
    fool at one look comes back clean, and is scored so.
    """

    is_library: ClassVar[bool] = True

    iterations: int = 100
    eot: int = 20
    version: str = "rand"

    choices: ClassVar = Attack.choices | {"version": ("rand", "standard")}

    def __post_init__(self):
        super().__post_init__()
        if self.version == "standard" and (self.iterations, self.eot) != (100, 1):
            raise ValueError(
                f"AutoAttack's standard version has iterations=100 and eot=1, not {self.iterations}"
                f" and {self.eot}"
            )

    @property
    def steps(self) -> int:
        return self.purifications()[1] // self.eot

    def purifications(self) -> tuple[int, int]:
        """Without what ``standard`` does in FAB, whose count depends on the image."""
        if self.version == "rand":
            return 8, 2 * (self.iterations + 1) * self.eot
        return 5030, 10 * (self.iterations + 1)

    def run(
        self,
        defence: Defended,
        images: Tensor,
        labels: Tensor,
        ids: Sequence,
        seed: int = 0,
        tick: Tick = no_tick,
    ) -> Found:
        x, spent = images.clone(), no_steps(images)
        at_once = min(len(images), microbatch.rows(images.device))
        for found in self.each(defence, once(images, labels, ids), seed, tick, at_once):
            x[found.places], spent[found.places] = found.x, found.spent
        return x, spent

    def each(
        self, defence: Defended, waiting: Waiting, seed: int, tick: Tick, at_once: int
    ) -> Iterator[Decided]:
        attacked = seen_by_the_attack(
            reseeded(self.faces(defence), f"attack {seed}"), self.gradient
        )

        def more(most: int) -> list[Work]:
            images, labels, ids = waiting(most) if most else ([], [], [])
            return [
                partial(self.alone, images[i : i + 1], labels[i : i + 1], image, seed)
                for i, image in enumerate(ids)
            ]

        for place, (x, gradients) in side_by_side(attacked, more, at_once):
            places = torch.tensor([place], device=x.device)
            spent = torch.tensor([gradients // self.eot], device=x.device)
            tick(self.steps)
            yield Decided(places, x, spent, [{}])

    @property
    def abreast(self) -> int:
        return 1  # it asks for one purification of an image at a time

    def alone(
        self, image: Tensor, label: Tensor, key: int | str, seed: int, defence: nn.Module
    ) -> tuple[Tensor, int]:
        """What the library finds for one image, and the gradients it took."""
        module = FreshDraws(defence, key)
        number = next(Noise(f"autoattack {seed}", [key], [0]).generators("seed")).initial_seed()
        return self.packaged(module, image, label, number), module.gradients

    def packaged(self, module: nn.Module, image: Tensor, label: Tensor, key: int) -> Tensor:
        """What the library returns; it seeds torch globally and takes away debuggers' and coverage
        tools' trace: both are put back.
        """
        trace = sys.gettrace()
        with torch.random.fork_rng(devices=[image.device] if image.is_cuda else []):
            try:
                library = self.library(module, image.device, key, classes_of(module, image))
                return library.run_standard_evaluation(image, label, batch_size=1)[0]
            finally:
                sys.settrace(trace)

    def library(
        self, module: nn.Module, device: torch.device, key: int, classes: int
    ) -> pyautoattack.AutoAttack:
        """The library's object with this attack's budget."""
        with extras.wanted():
            import pyautoattack
            from pyautoattack.autopgd_base import APGDAttack
        settings = {"eps": self.eps, "norm": self.norm, "seed": key, "device": device}
        found = pyautoattack.AutoAttack(module, version=self.version, **settings)
        found.apgd = APGDAttack(
            module, n_iter=self.iterations, eot_iter=self.eot, logger=found.logger, **settings
        )
        # 9 targets by default; with fewer other classes the library would run past the last
        found.apgd_targeted.n_target_classes = found.fab.n_target_classes = min(9, classes - 1)
        return found


def classes_of(module: nn.Module, image: Tensor) -> int:
    with torch.no_grad():
        return module(image).shape[-1]


# ---- AutoAttack corrected ------------------------------------------------------------------------


@dataclass
class Ascent:
    """The state of APGD for the images that are still attacked; every field has one entry per
    image.
    """

    index: Tensor
    x: Tensor
    previous: Tensor
    value: Tensor
    gradient: Tensor
    best: Tensor
    best_value: Tensor
    best_gradient: Tensor
    step: Tensor
    rises: Tensor  # since the last checkpoint, as are the next two
    checked_value: Tensor
    halved: Tensor

    @classmethod
    def at(cls, x: Tensor, value: Tensor, gradient: Tensor, step: float) -> Ascent:
        n = len(x)
        ones = torch.ones(n, dtype=torch.bool, device=x.device)
        index, steps = (
            torch.arange(n, device=x.device),
            torch.full((n, 1, 1, 1), step, dtype=x.dtype, device=x.device),
        )
        at_start = (
            x.clone(),
            x.clone(),
            value,
            gradient,
            x.clone(),
            value.clone(),
            gradient.clone(),
        )
        return cls(index, *at_start, steps, torch.zeros_like(index), value.clone(), ones)

    def move(self, x: Tensor, value: Tensor, gradient: Tensor) -> None:
        """To the next iterate, keeping the best."""
        self.rises += value > self.value
        self.previous, self.x, self.value, self.gradient = self.x, x, value, gradient
        better = value > self.best_value
        self.best[better], self.best_value[better], self.best_gradient[better] = (
            x[better],
            value[better],
            gradient[better],
        )

    def reconsider(self, best_value: Tensor, value: Tensor) -> None:
        """Compare the best point and the current one by losses on common fresh noise: the best may
        have been lucky with its own.
        """
        better = value > best_value
        self.best[better], self.best_gradient[better] = self.x[better], self.gradient[better]
        self.best_value = torch.maximum(best_value, value)

    def checkpoint(self, steps: int, rho: float = 0.75) -> None:
        """Halve the step and go back to the best point where the loss rose too seldom, or nothing
        was gained at an unchanged step.
        """
        halve = (self.rises <= rho * steps) | (
            ~self.halved & (self.checked_value >= self.best_value)
        )
        self.step[halve] /= 2
        self.x[halve], self.gradient[halve] = self.best[halve], self.best_gradient[halve]
        self.halved, self.checked_value, self.rises = (
            halve,
            self.best_value.clone(),
            torch.zeros_like(self.rises),
        )

    def keep(self, rows: Tensor) -> None:
        """Only these images remain."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name)[rows])


def checkpoints(iterations: int) -> list[int]:
    r"""APGD's :math:`w_j = \lceil p_j N \rceil`, :math:`p_0 = 0`, :math:`p_1 = 0.22`,
    :math:`p_{j+1} = p_j + \max(p_j - p_{j-1} - 0.03, 0.06)`."""
    p = [0.0, 0.22]
    while p[-1] < 1:
        p.append(p[-1] + max(p[-1] - p[-2] - 0.03, 0.06))
    return sorted({w for q in p[1:] if (w := math.ceil(q * iterations - 1e-9)) <= iterations})


@register("autoattack-corrected")
@dataclass(frozen=True)
class CorrectedAutoAttack(Attack):
    """APGD-CE and APGD-DLR in which every decision is averaged, and of which the worse candidate is
    always returned.

    Losses, step sizes and best points use the loss averaged over `eot` purifications; at
    checkpoints the best point has to beat the current one on common fresh noise. `accept` fresh
    purifications judge the candidates: the one that fewer get right is kept, or at a tie the one
    with the higher cross-entropy; the clean image never is. An image that all of them get wrong, at
    a checkpoint or in the end, is set aside. Book: ch04, eq-apgd.
    """

    iterations: int = 100
    eot: int = 20
    accept: int = 20
    losses: str = "ce+dlr"

    def __post_init__(self):
        super().__post_init__()
        for loss in self.losses.split("+"):
            check_choice("loss", loss, LOSSES)
        if self.accept < 1:
            raise ValueError(f"accept must be at least 1, not {self.accept}")

    @property
    def steps(self) -> int:
        return self.iterations * len(self.losses.split("+"))

    def purifications(self) -> tuple[int, int]:
        runs = len(self.losses.split("+"))
        looks = len(checkpoints(self.iterations)) * (self.accept + 2 * self.eot) + self.accept
        return runs * looks, runs * (self.iterations + 1) * self.eot

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
        judge = reseeded(defence, f"accept {seed}")
        x, spent = images.clone(), no_steps(images)
        right = torch.full((len(images),), self.accept + 1, device=images.device)
        value = torch.full((len(images),), -torch.inf, dtype=images.dtype, device=images.device)
        for loss in self.losses.split("+"):
            left = (right > 0).nonzero().flatten()
            tick((len(images) - len(left)) * self.iterations)
            if not len(left):
                continue
            rest = labels[left], pick(ids, left)
            candidate, more = self.climb(defence, images[left], *rest, loss, f"{seed} {loss}", tick)
            logits = logits_of(judge, candidate, rest[1], range(self.accept))
            new_right = (logits.argmax(-1) == rest[0]).sum(0)
            new_value = loss_values(logits, rest[0], "ce").mean(0)
            worse = (new_right < right[left]) | (
                (new_right == right[left]) & (new_value > value[left])
            )
            x[left[worse]], right[left[worse]], value[left[worse]] = (
                candidate[worse],
                new_right[worse],
                new_value[worse],
            )
            spent[left] += more
        return x, spent

    def climb(
        self,
        defence: Defended,
        images: Tensor,
        labels: Tensor,
        ids: Sequence,
        loss: str,
        tag: str,
        tick: Tick = no_tick,
        start: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One run of APGD on the averaged `loss`, its noise keyed by `tag`: the best points and the
        iterations spent.
        """
        attacked, compared = (
            seen_by_the_attack(reseeded(defence, f"{use} {tag}"), self.gradient)
            for use in ("attack", "compare")
        )
        check = reseeded(defence, f"confirm {tag}")
        x = (
            perturb_randomly(images, ids, self.norm, self.eps, f"start {tag}", corner=False)
            if start is None
            else start
        )
        run = Ascent.at(
            x, *loss_and_gradient(attacked, x, labels, ids, range(self.eot), loss), 2 * self.eps
        )
        best, spent, last = x.clone(), no_steps(x), 0
        for k in range(1, self.iterations + 1):
            around, inertia = images[run.index], 0.25 if k > 1 else 0.0
            z = self.project(run.x + run.step * self.direction(run.gradient), around)
            x = self.project(
                run.x + (1 - inertia) * (z - run.x) + inertia * (run.x - run.previous), around
            )
            copies = range(k * self.eot, (k + 1) * self.eot)
            rest = labels[run.index], pick(ids, run.index)
            run.move(x, *loss_and_gradient(attacked, x, *rest, copies, loss))
            spent[run.index] += 1
            tick(len(run.index))
            if k in checkpoints(self.iterations):
                run.reconsider(
                    *(mean_loss(compared, z, *rest, copies, loss) for z in (run.best, run.x))
                )
                run.checkpoint(k - last)
                last, wrong = (
                    k,
                    confirmed(
                        check, run.best, *rest, range(k * self.accept, (k + 1) * self.accept)
                    ),
                )
                best[run.index] = run.best
                tick(int(wrong.sum()) * (self.iterations - k))
                run.keep(~wrong)
                if not len(run.index):
                    break
        best[run.index] = run.best
        return best, spent


# ---- Square --------------------------------------------------------------------------------------

# of 10000 iterations, the area of the square is halved
SIDES_HALVE_AT = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@register("square")
@dataclass(frozen=True)
class Square(Attack):
    """Random search with squares on the margin averaged over `eot` purifications: no gradients, so
    nothing can mask them.

    `p` is the share of pixels in the first square. For `refresh` iterations candidates and the best
    point are compared on the same purifications; then both get new ones, so that no lucky draw is
    kept. With `confirm` > 0 images that so many fresh purifications all get wrong are then set
    aside.
    """

    strength: ClassVar[int | None] = 1

    iterations: int = 5000
    eot: int = 20
    gradient: str = "none"
    p: float = 0.8
    refresh: int = 20
    confirm: int = 16

    choices: ClassVar = Attack.choices | {"gradient": ("none",)}

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.p <= 1 or self.refresh < 1 or self.confirm < 0:
            raise ValueError(
                f"p must be in (0, 1], refresh positive and confirm not negative: {self}"
            )

    def purifications(self) -> tuple[int, int]:
        blocks = math.ceil(self.iterations / self.refresh)
        return (self.iterations + blocks) * self.eot + self.confirm * max(0, blocks - 1), 0

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
        attacked, check = reseeded(defence, f"attack {seed}"), reseeded(defence, f"confirm {seed}")
        x = self.propose(images, images, ids, seed, -1)
        value = torch.empty(len(x), dtype=x.dtype, device=x.device)
        active, spent = torch.arange(len(x), device=x.device), no_steps(x)
        for k in range(self.iterations):
            block = k // self.refresh
            copies = range(block * self.eot, (block + 1) * self.eot)
            if k % self.refresh == 0:
                if k and self.confirm:
                    looks = range(block * self.confirm, (block + 1) * self.confirm)
                    wrong = confirmed(check, x[active], labels[active], pick(ids, active), looks)
                    tick(int(wrong.sum()) * (self.iterations - k))
                    active = active[~wrong]
                if not len(active):
                    break
                value[active] = mean_loss(
                    attacked, x[active], labels[active], pick(ids, active), copies, "margin"
                )
            candidate = self.propose(x[active], images[active], pick(ids, active), seed, k)
            new = mean_loss(
                attacked, candidate, labels[active], pick(ids, active), copies, "margin"
            )
            better = new > value[active]
            x[active[better]], value[active[better]] = candidate[better], new[better]
            spent[active] += 1
            tick(len(active))
        return x, spent

    def propose(self, x: Tensor, images: Tensor, ids: Sequence, seed: int, k: int) -> Tensor:
        """The next candidates, or for k = -1 the first points: every image from its own random
        numbers.
        """
        first, another = (
            (self.stripes, self.recolour) if self.norm == "Linf" else (self.tiles, self.move_budget)
        )
        generators = Noise(f"square {seed}", ids, [0] * len(ids)).generators(f"iteration {k}")
        deltas = (x - images).cpu()
        side = self.side(k, *images.shape[-2:])
        delta = torch.stack(
            [first(d, g) if k < 0 else another(d, side, g) for d, g in zip(deltas, generators)]
        )
        return self.project(images + delta.to(images), images)

    def side(self, k: int, h: int, w: int) -> int:
        """The side of the square in iteration k."""
        halvings = bisect.bisect_left(SIDES_HALVE_AT, 10000 * k // max(1, self.iterations))
        side = max(1, round(math.sqrt(self.p / 2**halvings * h * w)))
        return min(side if self.norm == "Linf" else max(3, side | 1), h, w)

    def stripes(self, delta: Tensor, generator: torch.Generator) -> Tensor:
        """Vertical stripes of the full radius, (c, h, w)."""
        return self.eps * signs(delta[:, :1], generator).expand_as(delta)

    def recolour(self, delta: Tensor, side: int, generator: torch.Generator) -> Tensor:
        """One square of the full radius, of one sign per channel."""
        delta, (rows, columns) = delta.clone(), window(delta, side, generator)
        delta[:, rows, columns] = self.eps * signs(delta[:, :1, :1], generator)
        return delta

    def tiles(self, delta: Tensor, generator: torch.Generator) -> Tensor:
        """A grid of `bump`s that shares the radius."""
        delta, tile = torch.zeros_like(delta), max(2, delta.shape[-1] // 5)
        for r in range(0, delta.shape[1] - tile + 1, tile):
            for c in range(0, delta.shape[2] - tile + 1, tile):
                delta[:, r : r + tile, c : c + tile] = bump(tile, generator).to(delta) * signs(
                    delta[:, :1, :1], generator
                )
        return delta * (self.eps / delta.norm())

    def move_budget(self, delta: Tensor, side: int, generator: torch.Generator) -> Tensor:
        """Take the perturbation out of one square and spend it, and what is unused of the radius,
        on a `bump` in another.
        """
        delta, (into, out_of) = delta.clone(), (window(delta, side, generator) for _ in range(2))
        both = torch.zeros_like(delta[0], dtype=torch.bool)
        both[into], both[out_of] = True, True
        unused = (self.eps**2 - delta.square().sum()).clamp(min=0) / len(delta)
        budget = ((delta.square() * both).sum((1, 2), keepdim=True) + unused).sqrt()
        there = delta[(slice(None), *into)]
        shape = there / per_channel_norm(there) + bump(side, generator).to(delta) * signs(
            delta[:, :1, :1], generator
        )
        delta[(slice(None), *out_of)] = 0
        delta[(slice(None), *into)] = shape / per_channel_norm(shape) * budget
        return delta * (self.eps / delta.norm().clamp(min=1e-12))


def signs(like: Tensor, generator: torch.Generator) -> Tensor:
    return (2 * torch.randint(0, 2, like.shape, generator=generator) - 1).to(like)


def window(delta: Tensor, side: int, generator: torch.Generator) -> tuple[slice, slice]:
    """A random square of that side inside (c, h, w)."""
    corner = [
        int(torch.randint(0, size - side + 1, (), generator=generator)) for size in delta.shape[1:]
    ]
    return slice(corner[0], corner[0] + side), slice(corner[1], corner[1] + side)


def per_channel_norm(delta: Tensor) -> Tensor:
    return delta.flatten(1).norm(dim=1).clamp(min=1e-12).reshape(-1, 1, 1)


def pyramid(h: int, w: int) -> Tensor:
    """Concentric rectangles, (h, w) of norm 1: the sum of 1 / k^2 over those that cover a pixel."""
    rows, columns = (torch.arange(h) - h // 2).abs(), (torch.arange(w) - w // 2).abs()
    ring = torch.maximum(rows[:, None], columns[None, :])
    heights = (
        (1 / torch.arange(1, max(h, w) // 2 + 2, dtype=torch.float64) ** 2)
        .flip(0)
        .cumsum(0)
        .flip(0)
    )
    return heights[ring] / heights[ring].norm()


def bump(side: int, generator: torch.Generator) -> Tensor:
    """Square's l2 shape, (side, side) of norm 1: a pyramid up beside a pyramid down, lying or
    standing.
    """
    shape = torch.cat([pyramid(side // 2, side), -pyramid(side - side // 2, side)])
    shape = shape / shape.norm()
    return shape.T if torch.randint(0, 2, (), generator=generator) else shape
