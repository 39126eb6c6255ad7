"""LoRID (Zollicoffer et al. 2025), and the low-rank projection with a derivative that stays
finite.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from hetpure_core import Denoiser, Noise, Plan, Schedule, Uniform
from hetpure_lab.defences.interface import register
from hetpure_lab.defences.sampling import Rival, Scene, chained


class TopSubspace(torch.autograd.Function):
    r"""The projector :math:`P = \sum_{i \le r} u_i u_i^T` on the r leading eigenvectors of
    symmetric matrices (n, h, h).

    Its derivative needs only the gaps across the cut, :math:`dP = \sum_{i \le r < j} (\lambda_i -
    \lambda_j)^{-1} (u_i u_i^T\, dA\, u_j u_j^T + \cdot^T)`, so equal eigenvalues on one side, which
    a flat image has, do no harm; automatic differentiation would return NaN.
    """

    @staticmethod
    def forward(ctx, matrices: Tensor, rank: int) -> Tensor:
        values, vectors = torch.linalg.eigh(matrices)
        ctx.save_for_backward(values, vectors)
        ctx.rank = rank
        top = vectors[..., values.shape[-1] - rank :]
        return top @ top.mT

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        values, vectors = ctx.saved_tensors
        cut = values.shape[-1] - ctx.rank
        gap = values[:, cut:, None] - values[:, None, :cut]
        gap = gap.clamp(min=1e-7 * float(values.abs().amax().clamp(min=1e-30)))
        inner = vectors[..., cut:].mT @ (gradient + gradient.mT) / 2 @ vectors[..., :cut] / gap
        outer = vectors[..., cut:] @ inner @ vectors[..., :cut].mT
        return outer + outer.mT, None


def low_rank(x: Tensor, share: float) -> Tensor:
    """The Tucker approximation by truncated HOSVD: rows and columns (n, c, h, w) projected on
    `share` of their leading directions.
    """
    if share >= 1:
        return x
    keep = [max(1, round(share * size)) for size in x.shape[-2:]]
    rows = TopSubspace.apply((x @ x.mT).sum(1), keep[0])
    columns = TopSubspace.apply((x.mT @ x).sum(1), keep[1])
    return rows[:, None] @ x @ columns[:, None]


@register("lorid")
@dataclass(frozen=True)
class LoRID(Rival):
    """LoRID: a low-rank (Tucker) approximation of the input, then several short DDPM purifications
    at a low level.

    `share` of the rows' and columns' directions is kept (1: all). Zollicoffer et al. 2025 ("Geigh
    et al." in the paper): the loops keep the purification error low, the low rank takes what a
    higher level would. There is no public code, and we had the abstract only: "loops at the early
    time-steps" and a Tucker decomposition "at high-noise regimes" are theirs, all four numbers
    ours. One loop at share 1 is ``uniform`` with the DDPM sampler.
    """

    t: float = 0.05
    steps: int = 5
    loops: int = 4
    share: float = 0.75

    def __post_init__(self):
        super().__post_init__()
        if self.loops < 1 or not 0 < self.share <= 1:
            raise ValueError(
                f"loops must be at least 1 and share in (0, 1], not {self.loops} and {self.share}"
            )

    def plan(
        self, x_adv: Tensor, mask: None, eps: Denoiser, noise: Noise, schedule: Schedule
    ) -> Plan:
        loops = chained(
            [Uniform(self.t, self.steps, "ddpm")] * self.loops, Scene(x_adv, eps, noise, schedule)
        )
        return [(0, partial(low_rank, share=self.share)), *loops]

    def calls(self, schedule: Schedule) -> int:
        return self.loops * super().calls(schedule)
