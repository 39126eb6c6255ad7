"""Small rotations and translations: an attack outside every ball of pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from hetpure_core import Noise
from hetpure_lab.attacks.gradients import (
    GRADIENTS,
    LOSSES,
    Defence,
    Defended,
    loss_values,
    mean_loss,
    reseeded,
    rows_of,
    seen_by_the_attack,
)
from hetpure_lab.attacks.threat import Attack, Found, Tick, Told, no_tick, register

DECIMALS = 4  # of the parameters that a record keeps, and that its image is made with


@register("spatial")
@dataclass(frozen=True)
class Spatial(Attack):
    r"""One rotation by at most `degrees` and one translation by at most `pixels` along each axis,
    the worst that is found: Engstrom et al. 2019.

    `search` is ``grid`` (all combinations of `grid` angles, shifts to the right and shifts down,
    the identity among them where the numbers are odd), ``gradient`` (`iterations` sign steps of
    `step` times the range through rendering and purification, from a random transformation) or
    ``random`` (the worst of `iterations` random ones). A transformation is judged by the loss over
    `eot` purifications. Interpolation is bilinear, what comes in from outside is black. Engstrom et
    al. give CIFAR-10 30 degrees and 3 pixels, and a grid of 31 x 5 x 5 or the worst of 10.

    **Threat model.** No norm of a difference of pixels bounds it. `norm` is ``spatial``, the
    largest of the three parameters in units of its range, and `eps` its radius: 1 is the whole
    range. A record keeps the parameters as ``transform`` (degrees clockwise, pixels to the right,
    pixels down). Its difference is modulo 256, since it may be as long as 255. `broken` renders the
    image again and holds the difference to it. The null control is a random transformation of the
    same range..
    """

    strength: ClassVar[int | None] = 1  # three numbers: no order beside attacks of a ball

    norm: str = "spatial"
    eps: float = 1.0
    degrees: float = 30.0
    pixels: float = 3.0
    search: str = "grid"
    grid: tuple[int, ...] = (5, 3, 3)
    step: float = 0.2
    loss: str = "ce"

    choices: ClassVar = {
        "norm": ("spatial",),
        "gradient": GRADIENTS,
        "search": ("grid", "gradient", "random"),
        "loss": LOSSES,
    }

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.degrees <= 180 or self.pixels < 0 or self.step <= 0:
            raise ValueError(
                "degrees are from 0 to 180, pixels must not be negative, and step must be"
                f" positive: {self}"
            )
        if len(self.grid) != 3 or min(self.grid) < 1:
            raise ValueError(f"grid is three numbers of values from 1, not {self.grid}")

    @property
    def steps(self) -> int:
        return math.prod(self.grid) if self.search == "grid" else self.iterations

    def purifications(self) -> tuple[int, int]:
        tried = self.steps * self.eot
        return (0, tried) if self.search == "gradient" else (tried, 0)

    def run(
        self,
        defence: Defended,
        images: Tensor,
        labels: Tensor,
        ids: Sequence,
        seed: int = 0,
        tick: Tick = no_tick,
    ) -> Found:
        return self.find(defence, images, labels, ids, seed, tick)[:2]

    def find(
        self,
        defence: Defended,
        images: Tensor,
        labels: Tensor,
        ids: Sequence,
        seed: int = 0,
        tick: Tick = no_tick,
    ) -> Told:
        drawn = reseeded(self.faces(defence), f"attack {seed}")
        attacked = seen_by_the_attack(drawn, self.gradient)
        best = torch.zeros(len(images), 3, dtype=images.dtype, device=images.device)
        value = torch.full_like(best[:, 0], -torch.inf)
        for place, found in self.tried(attacked, images, labels, ids, f"{seed}"):
            better = found > value
            best[better], value[better] = place[better], found[better]
            tick(len(images))
        rounded = self.parameters(best).double().round(decimals=DECIMALS)
        spent = torch.full((len(images),), self.steps, dtype=torch.long, device=images.device)
        told = [{"transform": [round(p, DECIMALS) for p in row]} for row in rounded.tolist()]
        return transformed(images, rounded), spent, told

    def tried(
        self, attacked: Defence, images: Tensor, labels: Tensor, ids: Sequence, tag: str
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Every transformation that the search looks at, in [-1, 1] of the range (n, 3), with its
        loss (n,).
        """
        if self.search == "gradient":
            yield from self.climbed(attacked, images, labels, ids, tag)
            return
        if self.search == "grid":
            values = [torch.linspace(-1, 1, n) if n > 1 else torch.zeros(1) for n in self.grid]
            places = [
                torch.tensor(place).to(images).expand(len(images), 3)
                for place in product(*(v.tolist() for v in values))
            ]
        else:
            places = [random_places(images, ids, f"try {tag} {k}") for k in range(self.iterations)]
        for place in places:
            x = transformed(images, self.parameters(place))
            yield place, mean_loss(attacked, x, labels, ids, range(self.eot), self.loss)

    def climbed(
        self, attacked: Defence, images: Tensor, labels: Tensor, ids: Sequence, tag: str
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The iterates of sign ascent from a random place."""
        place = random_places(images, ids, f"start {tag}")
        for k in range(self.iterations):
            copies = range(k * self.eot, (k + 1) * self.eot)
            value, slope = self.slope(attacked, place, images, labels, ids, copies)
            yield place, value
            place = (place + self.step * slope.sign()).clamp(-1, 1)

    def slope(
        self,
        attacked: Defence,
        place: Tensor,
        images: Tensor,
        labels: Tensor,
        ids: Sequence,
        copies: Sequence[int],
    ) -> tuple[Tensor, Tensor]:
        """The loss over `copies` (n,) and its gradient in the place (n, 3)."""
        value, slope = torch.zeros_like(place[:, 0]), torch.zeros_like(place)
        for index, numbers, drawn in rows_of(len(place), copies, place.device):
            part = place[index].detach().requires_grad_()
            x = transformed(images[index], self.parameters(part))
            logits = attacked(x, [ids[i] for i in numbers], drawn)
            each = loss_values(logits, labels[index], self.loss)
            slope.index_add_(0, index, torch.autograd.grad(each.sum(), part)[0])
            value.index_add_(0, index, each.detach())
        return value / len(copies), slope / len(copies)

    def parameters(self, place: Tensor) -> Tensor:
        """Degrees, pixels to the right and pixels down (n, 3) of places in [-1, 1]."""
        return self.eps * place * place.new_tensor([self.degrees, self.pixels, self.pixels])

    def null(self, images: Tensor, ids: Sequence, seed: int | str) -> Tensor:
        """A random transformation of the same range, keyed by image."""
        return transformed(images, self.parameters(random_places(images, ids, seed)))

    def stored(self, x_adv: Tensor, images: Tensor) -> Tensor:
        change = (255 * x_adv).round() - (255 * images).round()
        return ((change + 128) % 256 - 128).to(torch.int8)

    def applied(self, pixels: Tensor, delta: Tensor) -> Tensor:
        return (pixels.short() + delta.short()) % 256

    def broken(self, record: dict, delta: Tensor, pixels: Tensor | None = None) -> Iterator[str]:
        kept = record.get("transform")
        if not (isinstance(kept, list) and len(kept) == 3 and all(map(_is_number, kept))):
            yield f"transform: it is {kept!r}, not degrees and pixels to the right and down"
            return
        if pixels is None:
            for has, most in zip(kept, (self.degrees, self.pixels, self.pixels)):
                if abs(has) > self.eps * most + 10**-DECIMALS:
                    yield f"transform: {has} is outside of {self.eps * most:g} either way"
            return
        image = (pixels.float() / 255)[None]
        made = 255 * transformed(image, torch.tensor([kept], dtype=torch.float64))[0]
        if (made - self.applied(pixels, delta)).abs().max() > 1:
            yield f"delta: it is not what the transformation {kept} makes of this image"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def random_places(images: Tensor, ids: Sequence, seed: int | str) -> Tensor:
    """Uniform in [-1, 1] (n, 3), keyed by image."""
    like = images.new_empty(len(images), 1, 1, 3)
    return 2 * torch.special.ndtr(Noise(seed, ids, [0] * len(images))("place", like))[:, 0, 0] - 1


def transformed(images: Tensor, parameters: Tensor) -> Tensor:
    """Images (n, c, h, w) turned clockwise about their centre by `parameters` [:, 0] degrees, then
    moved [:, 1] pixels to the right and [:, 2] down: bilinear, black from outside.
    """
    (angle, right, down), (h, w) = parameters.to(images).T, images.shape[-2:]
    angle, one = torch.deg2rad(angle)[:, None, None], dict(dtype=images.dtype, device=images.device)
    x = torch.arange(w, **one)[None, None] - (w - 1) / 2 - right[:, None, None]
    y = torch.arange(h, **one)[None, :, None] - (h - 1) / 2 - down[:, None, None]
    # where each pixel comes from: turned back
    source_x = angle.cos() * x + angle.sin() * y
    source_y = -angle.sin() * x + angle.cos() * y
    places = torch.stack([2 * source_x / w, 2 * source_y / h], -1)
    return F.grid_sample(images, places, align_corners=False).clamp(0, 1)
