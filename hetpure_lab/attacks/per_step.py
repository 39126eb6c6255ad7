"""A loss at every step of the purification beside the classifier's: DiffAttack (Kang et al.
2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hetpure_core import Noise, Purified, trajectory
from hetpure_lab.attacks.gradients import (
    Defence,
    Standin,
    Undefended,
    by_image,
    loss_values,
    pick,
    rows_of,
)
from hetpure_lab.attacks.pgd import PGD
from hetpure_lab.attacks.threat import register


class Watched(Standin):
    """A defence that also says how far the states of its last purification were from those of the
    forward process: `deviation` (rows,), one row per vote.
    """

    def __init__(self, defence: Purified):
        super().__init__(defence)
        self.deviation: Tensor | None = None

    def purify(self, images: Tensor, noise: Noise, mask: Tensor | None = None) -> Tensor:
        states = list(trajectory(2 * images - 1, self.defence.plan(images, noise, mask)))
        drawn = getattr(self.defence, "hold", lambda noise: noise)(noise)
        distances = []
        for t, state in states[1:] or states:
            signal, sigma = self.defence.schedule.signal_and_noise(t, state)
            forward = signal * (2 * images - 1) + sigma * drawn("start", images)
            distances.append((state - forward).square().mean((1, 2, 3)))
        self.deviation = torch.stack(distances).mean(0)
        return (states[-1][1] + 1) / 2


@register("per-step")
@dataclass(frozen=True)
class PerStep(PGD):
    r"""PGD+EOT on the loss plus `weight` times the deviated-reconstruction loss of DiffAttack (Kang
    et al. 2023): how far the states of the reverse process are from the forward process.

    :math:`\mathcal L = \mathcal L_{cls} + \lambda\,\mathrm{mean}_t\,\alpha(t)\,d(x_t, x'_t)`, with
    :math:`x_t = \sqrt{\bar\alpha_t} x + \sqrt{1 - \bar\alpha_t}\epsilon` and :math:`x'_t` the state
    that the purifier has at t; images in [-1, 1]. The gradient is exact, through every step. The
    paper leaves open or to its appendix what is chosen here: all steps of the reverse process count
    alike (:math:`\alpha = 1`; it takes a third of them, uniformly), d is the mean square over
    pixels, :math:`\lambda = 1`, and :math:`\epsilon` is the noise that the purifier begins with.
    The ascent is PGD's, where the paper has AutoAttack's. It never stops at a failure, as the paper
    asks. A defence without steps (the bare classifier, adversarial training) leaves plain PGD. Of
    purifiers that work at another size than the image's, or are no chain, no states are known:
    `ValueError`..
    """

    confirm: int = 0
    weight: float = 1.0

    choices: ClassVar = PGD.choices | {"gradient": ("exact",)}

    def __post_init__(self):
        super().__post_init__()
        if self.weight < 0:
            raise ValueError(f"weight must not be negative, not {self.weight}")

    def loss_and_gradient(
        self,
        attacked: Defence,
        x: Tensor,
        images: Tensor,
        labels: Tensor,
        ids: Sequence,
        copies: Sequence[int],
    ) -> tuple[Tensor, Tensor]:
        seen, value, gradient = watched(attacked), x.new_zeros(len(x)), torch.zeros_like(x)
        for index, numbers, drawn in rows_of(len(x), copies, x.device):
            part = x[index].detach().requires_grad_()
            each = self.losses(seen, part, labels[index], [ids[i] for i in numbers], drawn)
            gradient.index_add_(0, index, torch.autograd.grad(each.sum(), part)[0])
            value.index_add_(0, index, each.detach())
        N = len(by_image(len(x), copies)[0])
        return value / N, gradient / N

    @torch.no_grad()
    def value(
        self,
        attacked: Defence,
        x: Tensor,
        images: Tensor,
        labels: Tensor,
        ids: Sequence,
        copies: Sequence[int],
    ) -> Tensor:
        seen, value = watched(attacked), x.new_zeros(len(x))
        for index, _, drawn in rows_of(len(x), copies, x.device):
            each = self.losses(seen, x[index], labels[index], pick(ids, index), drawn)
            value.index_add_(0, index, each)
        return value / len(by_image(len(x), copies)[0])

    def losses(
        self, seen: Defence, x: Tensor, labels: Tensor, ids: Sequence, copies: Sequence[int]
    ) -> Tensor:
        """The whole loss of every row (n,)."""
        each = loss_values(seen(x, ids, copies), labels, self.loss)
        if isinstance(seen, Watched):
            each = each + self.weight * seen.deviation.unflatten(0, (len(x), -1)).mean(1)
        return each


def watched(attacked: Defence) -> Defence:
    """The defence with the states of its purifications in sight, or as it is if it has none."""
    if isinstance(attacked, Undefended):
        return attacked
    if getattr(type(attacked), "purify", None) is not Purified.purify:
        raise ValueError(
            "per-step losses need the states of a plain Purified, and"
            f" {type(attacked).__name__} shows none"
        )
    return Watched(attacked)
