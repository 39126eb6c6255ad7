"""A control of the method: uniform noise of the same energy."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hetpure_core import Denoiser, HetPure, Noise, Plan, Schedule
from hetpure_lab.defences.interface import Capabilities, register
from hetpure_lab.defences.method import shorter_method
from hetpure_lab.defences.sampling import Scene, at_levels


@register("equal-energy", Capabilities(family="method", has_mask=True, shorter=shorter_method))
@dataclass(frozen=True)
class EqualEnergy(HetPure):
    r"""Control: uniform noise with the energy of the method's, :math:`1 - \bar\alpha_t = m (1 -
    \bar\alpha_{t_l}) + (1 - m)(1 - \bar\alpha_{t_s})`.

    m is the share of the image's pixels in its mask, so every image has its own t; DDIM with as
    many calls as the method makes. If the method gains from *where* the noise goes, it must beat
    this row.
    """

    def plan(
        self, x_adv: Tensor, mask: Tensor, eps: Denoiser, noise: Noise, schedule: Schedule
    ) -> Plan:
        strong, weak = (1 - schedule.abar[schedule.index(t)] for t in (self.t_l, self.t_s))
        share = mask.double().mean((1, 2, 3)).cpu().expand(len(x_adv))
        energy = share * strong + (1 - share) * weak
        levels = (1 - schedule.abar - energy[:, None]).abs().argmin(1).to(x_adv.device)
        return at_levels(Scene(x_adv, eps, noise, schedule), levels, self.calls(schedule))
