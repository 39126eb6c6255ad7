"""What an attack may do: the ball it moves in, as real pixels too, what every attack says about
itself, and all by name: `ATTACKS`.

An attack is one file: a frozen dataclass that extends `Attack`, with ``@register("name")`` above.
"""

# What PyTorch leaves without a type is not asked for.
# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hetpure_core import Noise, Purified
from hetpure_lab.attacks.gradients import (
    GRADIENTS,
    Defended,
    Frozen,
    Undefended,
    check_choice,
    held_draws,
)
from hetpure_lab.common.registry import Registry

ATTACKS: Registry[type[Attack]] = Registry(
    "attack",
    order=(
        "pgd bpda pgd-mask per-step autoattack autoattack-corrected square transfer transfer-from "
        "growing low-frequency spatial noise"
    ).split(),
)
register = ATTACKS.register
NORMS = ("Linf", "L2")

Tick = Callable[[int], object]
Found = tuple[Tensor, Tensor]  # adversarial images, and the iterations spent on each
Told = tuple[Tensor, Tensor, list[dict[str, Any]]]  # and what their records say


# the next images, at most so many of them: images, labels and ids, and none when none is left
Waiting = Callable[[int], tuple[Tensor, Tensor, Sequence[Any]]]


@dataclass(frozen=True)
class Decided:
    """Images whose fate is known: their places (n,) in the order in which they were handed out,
    adversarial images, iterations spent (n,), and what their records say beside (`Attack.find`).
    """

    places: Tensor
    x: Tensor
    spent: Tensor
    told: list[dict[str, Any]]


def once(images: Tensor, labels: Tensor, ids: Sequence[Any]) -> Waiting:
    """These images, in their order."""
    given = 0

    def waiting(most: int) -> tuple[Tensor, Tensor, Sequence[Any]]:
        nonlocal given
        start, given = given, min(given + most, len(images))
        return images[start:given], labels[start:given], ids[start:given]

    return waiting


def no_tick(k: int) -> None:
    """Nobody watches the progress."""


def no_steps(images: Tensor) -> Tensor:
    """A count of 0 for each of the images (n,)."""
    return torch.zeros(len(images), dtype=torch.long, device=images.device)


@dataclass(frozen=True)
class Attack:
    """What every attack has: the radius `eps` of its ball in [0, 1] units of the `norm`, its budget
    (`iterations`, purifications per
    loss `eot`), the `gradient` it takes (`gradients.seen_by_the_attack`), and which noise is
    `frozen` (`gradients.Frozen`).

    It declares: `strength`, its place in the order of attacks by what they know (0 nothing, 1 the
    answers or another network, 2 an approximate gradient, 3 the exact one; None: by its
    `gradient`); whether it `ascends`, by `step`, looking early for failures to `confirm`; and
    whether it
    `is_library`: somebody else's code, which asks for one purification at a time and has a
    `version` for static defences.
    """

    strength: ClassVar[int | None] = None
    ascends: ClassVar[bool] = False
    is_library: ClassVar[bool] = False

    norm: str = "Linf"
    eps: float = 8 / 255
    iterations: int = 20
    eot: int = 8
    gradient: str = "exact"
    frozen: str = ""

    choices: ClassVar[dict[str, Sequence[str]]] = {"norm": NORMS, "gradient": GRADIENTS}

    def __post_init__(self):
        for name, known in self.choices.items():
            check_choice(name, getattr(self, name), known)
        if self.frozen:
            held_draws(self.frozen)
        if self.eps < 0 or self.iterations < 0 or self.eot < 1:
            raise ValueError(
                f"eps and iterations must not be negative, and eot must be positive: {self}"
            )

    def run(
        self,
        defence: Defended,
        images: Tensor,
        labels: Tensor,
        ids: Sequence[Any],
        seed: int = 0,
        tick: Tick = no_tick,
    ) -> Found:
        """Adversarial images in the ball around `images`, and the iterations spent on each (n,).

        An image's result does not depend on the batch it comes in. `tick(k)` is called with the
        number of image-iterations done or saved, `steps` per image in all, for progress bars.
        """
        raise NotImplementedError

    def find(
        self,
        defence: Defended,
        images: Tensor,
        labels: Tensor,
        ids: Sequence[Any],
        seed: int = 0,
        tick: Tick = no_tick,
    ) -> Told:
        """`run`, and what each image's record has to say so that `broken` can hold it to the
        threat model: nothing, for a ball.
        """
        return *self.run(defence, images, labels, ids, seed, tick), [{} for _ in ids]

    def null(self, images: Tensor, ids: Sequence[Any], seed: int | str) -> Tensor:
        """The null control: images changed as much, at random, keyed by image."""
        return perturb_randomly(images, ids, self.norm, self.eps, seed)

    def stored(self, x_adv: Tensor, images: Tensor) -> Tensor:
        """Adversarial images as int8 differences (n, 3, h, w) that `applied` undoes."""
        return to_8_bit(x_adv, images, self.norm, self.eps)

    def applied(self, pixels: Tensor, delta: Tensor) -> Tensor:
        """The pixels 0..255 (n, 3, h, w), int16, that stored differences make of `pixels` uint8."""
        return pixels.short() + delta.short()

    def broken(
        self, record: dict[str, Any], delta: Tensor, pixels: Tensor | None = None
    ) -> Iterator[str]:
        """What about a record with its `delta` (3, h, w) is against the threat model, in words,
        beyond the ball of its norm; with `pixels`, its image, whatever can be checked with them.
        """
        yield from ()

    def fits(self, bench: str) -> None:
        """Raise `ValueError` if it has no meaning for defences of the bench of that name."""

    def networks(self) -> tuple[str, ...]:
        """The names of all weights that it brings beside those of what it attacks."""
        return ()

    def each(
        self, defence: Defended, waiting: Waiting, seed: int, tick: Tick, at_once: int
    ) -> Iterator[Decided]:
        """The `waiting` images as they are decided, `at_once` of them attacked at a time.

        An attack that knows early which images are decided lets others take their places; one that
        does not `run`s one batch after another.
        """
        come = 0
        while len((batch := waiting(at_once))[0]):
            found, spent, told = self.find(defence, *batch, seed, tick)
            places = torch.arange(come, come + len(found), device=found.device)
            yield Decided(places, found, spent, told)
            come += len(found)

    @property
    def abreast(self) -> int:
        """Rows that one image has in the networks at a time."""
        return self.eot

    @property
    def steps(self) -> int:
        """Image-iterations per image: the sum of all ticks."""
        return self.iterations

    def purifications(self) -> tuple[int, int]:
        """At most so many purifications per image without and with a gradient: of an attack that
        does not say, `eot` per iteration.
        """
        return 0, self.iterations * self.eot

    def faces(self, defence: Defended) -> Defended:
        """The defence as this attack's threat model has it, to be attacked and scored: with its
        noise `frozen`, or as it is.
        """
        if not self.frozen or isinstance(defence, Undefended | Frozen):
            return defence
        if getattr(type(defence), "purify", None) is not Purified.purify:
            raise ValueError(
                "only the noise of a plain Purified can be frozen, not that of"
                f" {type(defence).__name__}"
            )
        return Frozen(defence, self.frozen)

    def direction(self, gradient: Tensor) -> Tensor:
        """Steepest ascent in the norm of the ball, of length 1."""
        if self.norm == "Linf":
            return gradient.sign()
        return gradient / length(gradient, "L2").clamp(min=1e-12)

    def project(self, x: Tensor, images: Tensor) -> Tensor:
        """The nearest point in the ball, then in [0, 1]."""
        delta = x - images
        if self.norm == "Linf":
            delta = delta.clamp(-self.eps, self.eps)
        else:
            delta = delta * (self.eps / length(delta, "L2").clamp(min=self.eps))
        return (images + delta).clamp(0, 1)


def length(delta: Tensor, norm: str) -> Tensor:
    """The norm of every image's difference, (n, 1, 1, 1)."""
    check_choice("norm", norm, NORMS)
    flat = delta.flatten(1)
    return (flat.abs().amax(1) if norm == "Linf" else flat.norm(dim=1)).reshape(-1, 1, 1, 1)


def perturb_randomly(
    images: Tensor, ids: Sequence[Any], norm: str, eps: float, seed: int | str, corner: bool = True
) -> Tensor:
    """A random perturbation of norm `eps`, keyed by image, clipped to [0, 1]: a corner of the
    l-infinity ball (the null control), or with
    ``corner=False`` a uniform point of it; a uniform point of the l2 sphere."""
    check_choice("norm", norm, NORMS)
    direction = Noise(seed, ids, [0] * len(images))("direction", images)
    if norm == "Linf":
        direction = direction.sign() if corner else 2 * torch.special.ndtr(direction) - 1
    else:
        direction = direction / length(direction, "L2")
    return (images + eps * direction).clamp(0, 1)


def to_8_bit(x_adv: Tensor, images: Tensor, norm: str, eps: float) -> Tensor:
    """The adversarial image as real pixels: int8 differences (n, 3, h, w) in 1/255, inside the
    ball. `images` must be 8-bit too.

    Raises `ValueError` for differences above 127/255, which int8 does not hold.
    """
    check_choice("norm", norm, NORMS)
    delta, bound = (x_adv - images) * 255, int(eps * 255 + 1e-4)
    delta = delta.round().clamp(-bound, bound) if norm == "Linf" else _inside(delta, 255 * eps)
    if (largest := delta.abs().max()) > 127:
        raise ValueError(f"differences of at most 127/255 can be stored, not {int(largest)}/255")
    return delta.to(torch.int8)


def _inside(delta: Tensor, radius: float) -> Tensor:
    """Rounded differences, of which as many as leave the l2 ball go one step towards 0 instead,
    those that rounding made longest first.
    """
    exact, rounded = delta.flatten(1), delta.flatten(1).round()
    order = (rounded.abs() - exact.abs()).argsort(dim=1, descending=True, stable=True)
    # what one step takes off the squared length
    shorter = (2 * rounded.abs() - 1).clamp(min=0).gather(1, order)
    over = rounded.square().sum(1, keepdim=True) - radius**2
    steps = torch.zeros_like(rounded).scatter(
        1, order, (shorter.cumsum(1) - shorter < over).to(rounded)
    )
    return (rounded - rounded.sign() * steps).reshape(delta.shape)
