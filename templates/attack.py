"""A template for an attack: one file, registered. Try it: ``hetpure run --plugin
templates/attack.py --attack template-step ...``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hetpure_lab.attacks import Attack, loss_and_gradient, no_tick, register, reseeded


@register("template-step")
@dataclass(frozen=True)
class Step(Attack):
    """One step of the size of the ball, on the loss averaged over `eot` purifications. Source:
    paper, equation.
    """

    iterations: int = 1

    def run(
        self,
        defence: nn.Module,
        images: Tensor,
        labels: Tensor,
        ids: Sequence,
        seed: int = 0,
        tick=no_tick,
    ) -> tuple[Tensor, Tensor]:
        """Adversarial images in the ball, and the iterations spent on each. Noise is drawn with the
        attack's own seed.
        """
        attacked = reseeded(self.faces(defence), f"attack {seed}")
        _, gradient = loss_and_gradient(attacked, images, labels, ids, range(self.eot))
        tick(len(images) * self.steps)
        found = self.project(images + self.eps * self.direction(gradient), images)
        return found, torch.ones(len(images), dtype=torch.long, device=images.device)
