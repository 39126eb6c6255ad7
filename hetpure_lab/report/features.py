"""The parts of each registered defence, found by running it on networks that take note, not by
declaration.
"""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd
import torch
from torch import Tensor, nn

from hetpure_core import Purified, linear_schedule
from hetpure_lab.attacks.gradients import seen_by_the_attack
from hetpure_lab.defences import DEFENCES, METHODS, RIVALS, TRAINED, assemble, capabilities
from hetpure_lab.defences.behind import Behind


class Noting(nn.Module):
    """A smooth stand-in for a network that notes whether gradients were on, and whether images had
    different times.
    """

    def __init__(self, classes: int = 0):
        super().__init__()
        self.conv, self.classes = nn.Conv2d(3, classes or 3, 3, padding=1), classes
        self.differentiated = self.different_times = False

    def taps(self) -> list[nn.Module]:
        return [self.conv]

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        self.differentiated |= torch.is_grad_enabled() and x.requires_grad
        self.different_times |= t is not None and len(t.unique()) > 1
        return self.conv(x).mean((2, 3)) if self.classes else self.conv(x)


def features(slugs: Iterable[str] | None = None) -> pd.DataFrame:
    """One line per registered defence at its defaults, as `row` or `trained_row` finds it."""
    return pd.DataFrame(
        [
            trained_row(slug) if slug in TRAINED else row(slug)
            for slug in slugs or METHODS | RIVALS | TRAINED
        ]
    )


def trained_row(slug: str) -> dict:
    """The findings of `row` for defences with networks of their own: one step, one vote, and
    nothing differentiated inside.
    """
    settings, networks, is_random = TRAINED[slug](), _networks(), False
    if capabilities(settings).purifies:
        defended, images = settings.rehearse(*networks), _images(8)
        is_random = not torch.equal(*(_purified(defended, images, [c] * 3) for c in (0, 1)))
    found = {
        "spec": slug,
        "settings": type(settings).__name__,
        "calls": settings.calls(linear_schedule()),
        "votes": 1,
    }
    found |= {
        "random": is_random,
        "mask": False,
        "level per image": False,
        "looks back": False,
        "differentiates": "",
    }
    own = [
        name.removeprefix("bench-")
        for name in settings.weights("bench")
        if name != "bench-classifier"
    ]
    return found | {"stand-in here": False, "trained": ", ".join(own)}


def _networks() -> tuple[Noting, Noting]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        networks = Noting(5).double(), Noting().double()
    for network in networks:
        network.eval().requires_grad_(False)  # so that they are used themselves, and note
    return networks


def _images(size: int) -> Tensor:
    """Three images of different contrast."""
    images = torch.rand(
        3, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    images[1:] = images[1:] * torch.tensor([0.1, 0.9], dtype=torch.float64).reshape(2, 1, 1, 1)
    return images


def row(slug: str) -> dict:
    """Calls and votes; whether it is random, has a mask, a level per image, a memory of the input,
    networks inside guidance, a stand-in.
    """
    (classifier, denoiser), images = _networks(), _images(32)
    defended = assemble(DEFENCES[slug](), classifier, denoiser)
    first, again = (_purified(defended, images, [c] * 3) for c in (0, defended.votes))
    guided = [
        name
        for name, net in (("denoiser", denoiser), ("classifier", classifier))
        if net.differentiated
    ]
    return {
        "spec": slug,
        "settings": DEFENCES[slug].__name__,
        "calls": defended.purifier.calls(linear_schedule()),
        "votes": defended.votes,
        "random": not torch.equal(first, again),
        "mask": capabilities(slug).has_mask,
        "level per image": denoiser.different_times,
        "looks back": _looks_back(defended, images),
        "differentiates": ", ".join(guided),
        "stand-in here": _has_stand_in(defended),
        "trained": "",
    }


def _purified(defended: Purified | Behind, images: Tensor, copies: list[int]) -> Tensor:
    with torch.no_grad():
        return defended.purify(images, defended.noise(3, range(3), copies))


def _looks_back(defended: Purified, images: Tensor) -> bool:
    """Whether two inputs, brought to the same first state, end differently: the input is used again
    later on.
    """
    noise, state = defended.noise(3, range(3)), torch.zeros_like(images)
    mask = torch.zeros_like(images[:, :1])
    mask[..., :16] = 1
    mask = mask if capabilities(defended.purifier).has_mask else None
    ends = []
    for x in (images, images.flip(2)):
        end = state
        with torch.no_grad():
            for _, step in defended.plan(x, noise, mask)[1:]:
                end = step(end)
        ends.append(end)
    return not torch.equal(*ends)


def _has_stand_in(defended: Purified) -> bool:
    """Whether an attack can differentiate a shorter chain instead, ``gradient=surrogate``."""
    try:
        return seen_by_the_attack(defended, "surrogate") is not defended
    except ValueError:
        return False
